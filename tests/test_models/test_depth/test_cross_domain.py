# Copyright (c) mmext contributors. All rights reserved.
"""Stage 3 around real networks: H17, H19, H21, H22, H25, H26."""
import copy

import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from mmengine.registry import MODELS

from mmext.models.teachers import GroupEMA
from mmext.spike import strong_view
from mmext.utils.user_error import ConfigError
from .stage_models import TICKS, adapter, domains, train


def test_h21_teacher_follows():
    """H21: theta_s + 0.999^k (theta_0 - theta_s); no copy at first."""
    student = adapter()
    mean = GroupEMA(adapter(teacher_seed=1), 0.999)
    for p in student.parameters():
        p.data += 1
    start = copy.deepcopy(mean.module)
    for k in range(1, 4):
        mean.update(student)
        for s, t, t0 in zip(student.parameters(), mean.module.parameters(),
                            start.parameters()):
            torch.testing.assert_close(
                t, s + 0.999**k * (t0 - s), rtol=1e-6, atol=1e-6)
            assert k > 1 or not torch.equal(t, s)


def test_h22_gradients_of_self_training():
    """H22: none in the teacher, exactly zero outside the mask; one tensor."""
    model = adapter(losses=('scp', ))
    seen, maps = [], []
    for net in (model.model, model.teacher):

        def record(x, run=net.depth_and_uncertainty, net=net, **kwargs):
            seen.append(x)
            out = run(x, **kwargs)
            if net is model.model:
                out[0].retain_grad()
            maps.append(out)
            return out

        net.depth_and_uncertainty = record
    batch = domains()
    found = model(**batch, mode='loss')
    assert seen[0] is seen[1] is batch['inputs']['target']
    found['loss_scp'].backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    label, uncertainty = maps[0]
    mask = model.candidates(label)
    mask &= uncertainty < found['scp_threshold'] + 1e-8
    grad = maps[1][0].grad
    assert bool((grad[~mask] == 0).all()) and bool((grad[mask] != 0).any())
    assert all(p.grad is None
               for p in model.model.uncertainty_head.parameters())
    ratio = found['scp_keep_ratio']
    assert 0.4 < float(ratio) < 0.6 and float(found['scp_skipped']) == 0


@pytest.mark.parametrize('crop,box', [('eigen', (124, 342, 44, 1197)),
                                      ('garg', (153, 371, 44, 1197)),
                                      ('nyu', (35, 368, 80, 1166)),
                                      (None, (0, 375, 0, 1242))])
def test_pseudo_labels_are_cropped_as_training_is(crop, box):
    """NYU's rectangle, too, on the network's grid."""
    model = adapter(
        losses=('scp', ), model_options=dict(train_cfg=dict(crop=crop)))
    found = model.candidates(torch.full((1, 1, 375, 1242), 9.))[0, 0]
    top, bottom, left, right = box
    assert found[top:bottom, left:right].all()
    assert int(found.sum()) == (bottom - top) * (right - left)


def test_strong_view_is_for_the_student_only():
    model = adapter(
        losses=('scp', ), strong_aug=dict(type='mmext.SpikeStrongView'))
    x = domains()['inputs']['target']
    view = model._hard(x)
    assert view.shape == x.shape and not torch.equal(view, x)
    assert set(view.unique().tolist()) == {-1., 1.}
    kept = strong_view(x, chunk=1, silence=0, erase_area=(0, 0))
    assert torch.equal(kept, x) and kept is not x
    mixed = strong_view(x, chunk=4, silence=0, erase_area=(0, 0))
    for start in range(0, TICKS, 4):
        block = slice(start, start + 4)
        assert torch.equal(mixed[:, block].sum(1), x[:, block].sum(1))
    with pytest.raises(ConfigError, match='silence'):
        MODELS.build(dict(type='mmext.SpikeStrongView', silence=2))


def test_h25_joint_mode_is_the_sum_of_its_parts():
    """H25: source + 0.1 alignment + pseudo-labels."""
    batch = domains()
    parts = {}
    for losses in (('sup', 'scp', 'sca'), ('sup', ), ('scp', ), ('sca', )):
        found = adapter(losses=losses)(**batch, mode='loss')
        parts[losses] = {k: v for k, v in found.items() if 'loss' in k}
    joint = parts.pop(('sup', 'scp', 'sca'))
    assert set(joint) == {
        'loss_depth', 'loss_uncertainty', 'loss_scp', 'loss_sca'
    }
    apart = {k: v for one in parts.values() for k, v in one.items()}
    assert apart.keys() == joint.keys()
    for key, value in joint.items():
        torch.testing.assert_close(value, apart[key])


@pytest.mark.parametrize('sizes', [(3, 1), (1, 2), (1, 1)])
def test_h26_batches_of_other_sizes(sizes):
    """H26: fewer target than source samples, odd last batches."""
    found = train(adapter(), [domains(*sizes)])
    for key, value in found.items():
        assert bool(torch.isfinite(value).all()), key


def test_h19_nothing_to_select_is_counted_and_finite():
    """H19: no candidates, as with a fresh head of 172 m."""
    model = adapter()
    model.model.train_cfg['max_depth'] = 2e-3
    found = train(model, [domains()])
    assert float(found['loss_scp']) == 0 and float(found['scp_skipped']) == 1
    for p in model.parameters():
        assert bool(torch.isfinite(p).all())


def test_h17_warmup_needs_a_counter():
    """H17: off by one on demand; nobody counts, nobody trains."""
    model = adapter(warmup_iters=4, warmup_off_by_one=True)
    assert model.warmup_iters == 3
    with pytest.raises(ConfigError, match='DistillHook'):
        model(**domains(), mode='loss')
    model.step = 2
    warm = model(**domains(), mode='loss')
    model.step = 3
    full = model(**domains(), mode='loss')
    assert set(warm) == {'loss_depth', 'loss_uncertainty', 'depth_skipped'}
    torch.testing.assert_close(warm['loss_depth'], 0.1 * full['loss_depth'])


@pytest.mark.parametrize('options,message', [
    (dict(losses=('sup', 'kd')), 'sca'),
    (dict(scp=dict(threshold='median')), 'quantile'),
    (dict(sca=dict(path='backbone.vit')), 'sca.in_channels'),
    (dict(model_options=dict(uncertainty_head=None)), 'uncertainty_head'),
])
def test_stage3_refuses_what_does_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        adapter(**options)
