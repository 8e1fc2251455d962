# Copyright (c) mmext contributors. All rights reserved.
"""Stage 2 around real networks: H14, H15, H16."""
import copy

import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from mmengine.registry import MODELS, init_default_scope

from mmext.utils.user_error import ConfigError
from tests.tiny_depth import depth_config, depth_model
from .stage_models import TICKS, distiller, pairs, same, train


@pytest.mark.stack_subset
def test_h14_teacher_stays_and_needs_no_gradients():
    """H14: bit-identical teacher, and what its gradients would change."""
    model = distiller()
    before = copy.deepcopy(model.teacher)
    train(model, [pairs()] * 2)
    assert same(before, model.teacher) and not model.teacher.training
    assert all(p.grad is None for p in model.teacher.parameters())
    other = distiller()
    other.teacher.train().requires_grad_(True)
    taught = other._teach
    other._teach = lambda rgb, used: torch.enable_grad()(taught)(rgb, used)
    train(other, [pairs()] * 2)
    assert any(p.grad is not None for p in other.teacher.parameters())
    for a, b in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


def test_h15_without_distillation_it_is_supervised_training():
    """H15: both weights 0."""
    model = distiller(ckd=dict(weight=0), fkd=dict(weight=0))
    model._slot.module = None  # not even asked for
    plain = depth_model(losses=True, in_channels=TICKS)
    batch = pairs()
    found = model(**batch, mode='loss')
    expected = plain.loss(batch['inputs']['spike'], batch['data_samples'])
    assert found.keys() == expected.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key])
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_h16_pixel_filter_in_the_model():
    """H16: everything eligible is plain, nothing is 0."""
    plain = distiller()(**pairs(), mode='loss')
    for quantiles, ratio in (((1, 0), 1), ((0, 1), 0), ((0.5, 0.5), None)):
        options = dict(zip(('rgb_q', 'spike_q'), quantiles))
        found = distiller(fkd=dict(pixel_filter=options))(
            **pairs(), mode='loss')
        if ratio is None:
            assert 0 < float(found['fkd_ratio']) < 1
        else:
            assert float(found['fkd_ratio']) == ratio
            torch.testing.assert_close(found['loss_fkd'],
                                       ratio * plain['loss_fkd'])
        torch.testing.assert_close(found['loss_ckd'], plain['loss_ckd'])


def test_weights_decay_if_asked():
    model = distiller(decay='linear')
    full = model(**pairs(), mode='loss')
    model.progress = 0.75
    late = model(**pairs(), mode='loss')
    for key in ('loss_ckd', 'loss_fkd'):
        torch.testing.assert_close(late[key], full[key] / 4)
    model.progress = 1.
    assert 'loss_fkd' not in model(**pairs(), mode='loss')


@pytest.mark.parametrize('options,message', [
    (dict(fkd=dict(wieght=1)), 'wieght'),
    (dict(fkd=dict(pixel_filter=dict(q=1))), 'rgb_q'),
    (dict(
        fkd=dict(pixel_filter={}),
        model_options=dict(uncertainty_head=None)), None),
    (dict(fkd=dict(path='decode_head.path_9')), 'path_9'),
    (dict(ckd=dict(path='backbone.vit')), 'ckd.in_channels'),
    (dict(decay='cosine'), 'linear'),
])
def test_stage2_refuses_what_does_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        distiller(**options)(**pairs(), mode='loss')


def test_stage2_says_what_it_needs():
    model = distiller()
    with pytest.raises(ConfigError, match='rgb=..., spike='):
        model(torch.zeros(1, TICKS, 32, 64), [], mode='loss')
    model._slot.module = None
    with pytest.raises(ConfigError, match='DistillHook'):
        model(**pairs(), mode='loss')


def test_other_backbones_distil_through_a_connector():
    """A teacher of other width: heads and connector fit both."""
    student = depth_config(losses=True, in_channels=TICKS)
    teacher = copy.deepcopy(student)
    teacher.backbone.in_channels = 3
    teacher.decode_head.channels = teacher.uncertainty_head.channels = 16
    init_default_scope('mmseg')
    config = dict(
        type='mmext.CrossModalityDistiller',
        student=student,
        teacher=teacher,
        ckd=dict(hidden=8, out_channels=4))
    model = MODELS.build(copy.deepcopy(config))
    model.attach_teacher(model.build_teacher())
    with pytest.raises(ConfigError, match='connector=dict'):
        model(**pairs(), mode='loss')
    model = MODELS.build(
        dict(
            config, fkd=dict(connector=dict(in_channels=32, out_channels=16))))
    model.attach_teacher(model.build_teacher())
    train(model, [pairs()])
    assert model.connector.weight.grad is not None
