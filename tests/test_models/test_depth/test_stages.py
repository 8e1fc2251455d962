# Copyright (c) mmext contributors. All rights reserved.
"""What holds in every stage, around real networks: H27, H38, H39."""
import copy

import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from mmext.models.distillers import load_weights
from tests.tiny_depth import ROOT, depth_model, depth_sample
from .stage_models import (TICKS, adapter, distiller, domains, pairs, same,
                           train)


@pytest.mark.stack_subset
@pytest.mark.parametrize('kind', ['distiller', 'adapter'])
def test_checkpoints_are_those_of_the_estimator(kind, tmp_path):
    model = distiller() if kind == 'distiller' else adapter()
    plain = depth_model(seed=9, losses=True, in_channels=TICKS)
    state = model.state_dict()
    assert set(plain.state_dict()) < set(state)
    extra = {key.split('.')[0] for key in set(state) - set(plain.state_dict())}
    assert extra == ({'projection_rgb', 'projection_spike'}
                     if kind == 'distiller' else {'domain_loss'})
    torch.save(dict(state_dict=state), tmp_path / 'it.pth')
    assert load_weights(plain, str(tmp_path / 'it.pth')) == []
    assert same(plain, model.estimator)
    other = distiller() if kind == 'distiller' else adapter(seed=8)
    other.load_state_dict(state)
    assert same(other, model)
    # prediction is the estimator's
    x = torch.randn(1, TICKS, 32, 64).sign()
    for inputs in (x, dict(spike=x, target=x)):
        found = model.eval()(inputs, [depth_sample(40, 70)], mode='predict')
        torch.testing.assert_close(
            found[0].pred_depth_map.data,
            plain.eval()(x, [depth_sample(40, 70)],
                         mode='predict')[0].pred_depth_map.data)


def test_labels_out_of_range_are_counted_in_every_stage():
    """As they are, also in the warm-up; the other losses still count."""
    for model, batch in ((distiller(), pairs()), (adapter(), domains()),
                         (adapter(warmup_iters=1), domains())):
        model.step = 0
        samples = batch['data_samples']
        samples = samples['source'] if isinstance(samples, dict) else samples
        samples[0].gt_depth_map.data *= 256
        found = model(**batch, mode='loss')
        assert found['depth_skipped'] == 0.5
        samples[1].gt_depth_map.data *= 256
        found = model(**batch, mode='loss')
        assert found['depth_skipped'] == 1
        total, _ = model.parse_losses(found)
        assert total == sum(v for k, v in found.items() if 'loss' in k)
        warm = getattr(model, 'warmup_iters', 0)
        assert bool(total > 0) == (not warm)


@pytest.mark.parametrize('mult', [0.1, 1.1])
def test_h27_parameter_groups(mult):
    """H27: backbone (with its reassembly) and heads of their own rate."""
    cfg = Config.fromfile(ROOT / 'configs' / '_base_' / 'schedules' /
                          'bicross_adam.py')
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    keys.backbone.lr_mult = keys.reassemble.lr_mult = mult
    for model in (distiller(), adapter()):
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        rates, count = {}, {}
        for group in wrapper.param_groups:
            for p in group['params']:
                rates[p] = group['lr'] / 1e-4
                count[p] = count.get(p, 0) + 1
        names = {p: n for n, p in model.named_parameters()}
        trained = {p for p in model.parameters() if p.requires_grad}
        assert trained <= set(count) and set(count.values()) == {1}
        for p in trained:
            name = names[p]
            slow = 'backbone' in name or 'reassemble' in name
            head = name.startswith(('projection_', 'domain_loss'))
            expected = mult if slow else 0.1 if head else 1
            assert rates[p] == pytest.approx(expected), name


def test_h38_two_samples_are_learnt():
    """H38: the loss of an over-fit falls by half in 50 steps."""
    model = depth_model(losses=True, in_channels=TICKS)
    torch.manual_seed(2)
    x = torch.randn(2, TICKS, 32, 64).sign()
    target = [depth_sample(32, 64) for _ in range(2)]
    for sample in target:  # something to learn: nearer to the right
        ramp = torch.linspace(50, 4, 64).expand(1, 32, 64).clone()
        sample.gt_depth_map.data = ramp
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    values = []
    for _ in range(50):
        total, _ = model.parse_losses(model.loss(x, target))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(float(total.detach()))
    assert values[-1] < values[0] / 2


@pytest.mark.parametrize('device,dtype',
                         [('cpu', torch.bfloat16),
                          pytest.param(
                              'cuda', torch.float16, marks=pytest.mark.gpu)])
@pytest.mark.parametrize('make,data', [(distiller, pairs), (adapter, domains)])
def test_h39_mixed_precision_with_saturated_depths(make, data, device, dtype):
    """H39: finite losses and gradients at 1e8 m, in every stage."""
    model = make().to(device)
    model._slot.module.to(device)
    # half of the images behind the end of the world
    model.estimator.decode_head.output[-1].bias.data.fill_(-1)
    batch = data()
    batch['inputs'] = {k: v.to(device) for k, v in batch['inputs'].items()}
    samples = batch['data_samples']
    for sample in samples['source'] if isinstance(samples, dict) else samples:
        sample.gt_depth_map.data = sample.gt_depth_map.data.to(device)
    with torch.autocast(device, dtype):
        depth = model.estimator.depth_and_uncertainty(
            next(iter(reversed(batch['inputs'].values()))))[0]
        losses = model(**batch, mode='loss')
    assert depth.dtype == torch.float32 and float(depth.detach().max()) > 1e7
    for key, value in losses.items():
        assert bool(torch.isfinite(value).all()), key
        assert value.dtype == torch.float32
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    for name, p in model.named_parameters():
        assert p.grad is None or bool(torch.isfinite(p.grad).all()), name


def test_distillers_around_a_stock_backbone(tmp_path):
    """mmseg's ResNet in both stages, its stem replaced as any other."""
    init_default_scope('mmseg')
    head = dict(channels=8, hidden=4)
    inner = dict(
        type='mmext.BiCrossDepthEstimator',
        backbone=dict(
            type='ResNet', depth=18, base_channels=8, in_channels=TICKS),
        decode_head=dict(
            type='mmext.DPTDepthHead',
            in_channels=(8, 16, 32, 64),
            reassemble=None,
            scale=0.05,
            shift=0.05,
            **head),
        uncertainty_head=dict(type='mmext.DPTUncertaintyHead', **head))
    rgb = copy.deepcopy(inner)
    rgb['backbone']['in_channels'] = 3
    path = str(tmp_path / 'rgb.pth')
    torch.save(dict(state_dict=MODELS.build(rgb).state_dict()), path)
    model = MODELS.build(
        dict(
            type='mmext.CrossModalityDistiller',
            student=copy.deepcopy(inner),
            ckd=dict(hidden=8, out_channels=4)))
    teacher = model.build_teacher()
    load_weights(teacher, path, optional=())
    model.attach_teacher(teacher)
    left = load_weights(model, path, new_stem=True, stem='inflate')
    assert left == ['backbone.conv1.weight']
    # the convolution of this backbone is a plain one: a scene that is all
    # white answers as it did
    torch.testing.assert_close(
        model.student.backbone.conv1.weight.sum(1),
        teacher.backbone.conv1.weight.sum(1))
    train(model, [pairs()])
    model = MODELS.build(
        dict(
            type='mmext.CrossDomainAdapter',
            model=copy.deepcopy(inner),
            warmup_iters=0))
    model.attach_teacher(copy.deepcopy(model))
    for value in train(model, [domains()]).values():
        assert bool(torch.isfinite(value))
