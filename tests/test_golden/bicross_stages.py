# Copyright (c) mmext contributors. All rights reserved.
"""Steps of stages 2 and 3 against recorded ones.

The recordings have tensors in place of the networks, and so have these
tests: the wrappers, losses, heads and optimisers are the real ones.
"""
import pytest
import torch
from torch import nn

from mmext.models.distillers import garg_mask, pseudo_label_mask, range_mask
from mmext.models.teachers import GroupEMA
from .bicross_files import load
from .bicross_losses import grad_near, near, tensors


def given_model(depth, uncertainty=None, dmax=80., **taps):
    """An estimator that returns given tensors, which are its parameters."""
    estimator = pytest.importorskip('mmext.models.depth').BiCrossDepthEstimator

    class Head(nn.Module):

        def __init__(self):
            super().__init__()
            from mmext.models.distillers import SigLoss
            self.loss = SigLoss()
            for name in taps:
                self.add_module(name, nn.Identity())
            # what the width of the tap is read from
            if 'layer_4' in taps:
                self.reduce_4 = nn.Conv2d(taps['layer_4'].size(1), 1, 1)

        def supervised_loss(self, depth, target, mask):
            return self.loss(depth, target, mask)

    class Uncertainty(nn.Module):

        def supervised_loss(self, uncertainty, depth, target, mask):
            from mmext.models.distillers import UncertaintyLoss
            return UncertaintyLoss()(uncertainty, depth, target, mask)

    class Given(nn.Module):
        supervised_losses = estimator.supervised_losses
        stack_targets = estimator.stack_targets
        target_mask = estimator.target_mask

        def __init__(self):
            super().__init__()
            from mmengine.config import ConfigDict
            self.train_cfg = ConfigDict(
                estimator.train_defaults, max_depth=float(dmax))
            from mmext.models.depth.label_watch import LabelWatch
            self.label_watch = LabelWatch()
            self.decode_head = Head()
            self.uncertainty_head = None if uncertainty is None else \
                Uncertainty()
            self.backbone = nn.Module()
            for name, value in taps.items():
                owner = self.backbone if name.startswith('layer') else self
                owner.register_parameter(name, nn.Parameter(value.clone()))
            self.depth = nn.Parameter(depth.clone())
            if uncertainty is not None:
                self.uncertainty = nn.Parameter(uncertainty.clone())

        def depth_and_uncertainty(self, inputs, uncertainty=True):
            for name in taps:
                owner = self.backbone if name.startswith('layer') else self
                # the same module runs for source and target
                getattr(self.decode_head, name)(
                    inputs if inputs.dim() == 4 else getattr(owner, name))
            u = self.uncertainty[:, None] \
                if uncertainty and self.uncertainty_head is not None else None
            return self.depth[:, None], u

    return Given()


def samples(gt_depth):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    found = []
    for one in gt_depth:
        sample = SegDataSample()
        sample.gt_depth_map = PixelData(data=one[None])
        found.append(sample)
    return found


def wrapped(kind, model, **options):
    """A stage's wrapper around a given model."""
    from mmengine.registry import MODELS
    name = f'Given{id(model)}'
    MODELS.register_module(name=name, module=lambda: model)
    key = 'student' if kind == 'CrossModalityDistiller' else 'model'
    if key == 'student':
        options['teacher'] = dict(type=name)
    found = MODELS.build(
        dict(type=f'mmext.{kind}', **{key: dict(type=name)}, **options))
    del MODELS._module_dict[name]
    return found


def fill(head, data, start):
    """Give a head its recorded weights, in place."""
    state = {
        key[len(start):]: value
        for key, value in data.items() if key.startswith(start)
    }
    head.load_state_dict(state)


def check_head(head, data, name, never=('2.bias', )):
    """Gradients, and the change of a step of Adam(1e-5)."""
    for key, parameter in head.named_parameters():
        if key not in never:
            grad_near(parameter.grad, data[f'grad.{name}.{key}'], key)
    torch.optim.Adam(head.parameters(), lr=1e-5).step()
    for key, value in head.state_dict().items():
        if key not in never:
            check_change(value, data[f'after.{name}.{key}'],
                         data[f'init.{name}.{key}'], key)


def check_change(value, after, before, name):
    """Compare what values move, as most move less than their tolerance.

    The tolerance is the usual one, but at most a tenth of the largest move.
    """
    if not value.is_floating_point():
        assert int(value) == int(after), name
        return
    found, expected = ((x.double() - before.double()) for x in (value, after))
    # in float32 a change is as coarse as the spacing of the numbers
    spacing = 2.4e-7 * before.abs().double()
    usual = 1e-6 + 1e-5 * after.abs().double()
    limit = usual.clamp(max=float(0.1 * expected.abs().max())) + spacing
    assert bool(((found - expected).abs() <= limit).all()), name


def step(parameter, rate):
    torch.optim.Adam([parameter], lr=rate).step()


def test_h13_stage2_step():
    """H13: losses, total, gradients, and all states after a step."""
    data = tensors(load('stage2_cfkd_step'))
    student = given_model(
        data['spike_depth'],
        data['spike_uncertainty'],
        data['dmax'],
        path_4=data['spike_path_4'],
        layer_4=data['spike_layer_4'])
    hidden, width = data['init.head_rgb.2.weight'].shape
    size = data['init.head_rgb.5.weight'].size(0)
    model = wrapped(
        'CrossModalityDistiller',
        student,
        ckd=dict(hidden=hidden, out_channels=size))
    fill(model.projection_rgb, data, 'init.head_rgb.')
    fill(model.projection_spike, data, 'init.head_spike.')
    teacher = given_model(
        data['spike_depth'],
        path_4=data['rgb_path_4'],
        layer_4=data['rgb_layer_4'])
    model.attach_teacher(teacher)
    empty = torch.zeros(1)
    losses = model.loss(
        dict(rgb=empty, spike=empty), samples(data['gt_depth']))
    for key, name, weight in (('loss_depth', 'loss_depth',
                               1), ('loss_uncertainty', 'loss_uncertainty',
                                    1), ('loss_ckd', 'loss_contrastive', 0.01),
                              ('loss_fkd', 'loss_dist4', 0.01)):
        near(losses[key], weight * data[name], name)
    total, _ = model.parse_losses(losses)
    near(total, data['loss_total'])
    total.backward()
    parts = dict(
        spike_depth=student.depth,
        spike_unc=student.uncertainty,
        spike_path_4=student.path_4,
        spike_layer_4=student.backbone.layer_4)
    before = dict(data, spike_unc=data['spike_uncertainty'])
    for name, parameter in parts.items():
        grad_near(parameter.grad, data[f'grad.{name}'], name)
        # parity: the backbone gets 1.1 times the rate, see H27
        step(parameter, 1.1e-4 if name == 'spike_layer_4' else 1e-4)
        check_change(parameter, data[f'after.{name}'], before[name], name)
    check_head(model.projection_rgb, data, 'head_rgb')
    check_head(model.projection_spike, data, 'head_spike',
               ('2.bias', '5.bias'))
    assert all(p.grad is None for p in teacher.parameters())


def test_h13_stage2_masks():
    """H13: what the supervised losses of the step see."""
    from mmext.models.depth import resize_prediction
    data = tensors(load('stage2_cfkd_step'))
    size = tuple(data['crop_hw'].tolist())
    student = given_model(data['spike_depth'], dmax=data['dmax'])
    depth = resize_prediction(data['spike_depth'][:, None], size)
    depth = depth.clamp_min(1e-3)[:, 0]
    u = resize_prediction(data['spike_uncertainty'][:, None], size)[:, 0]
    mask = student.target_mask(data['gt_depth'][:, None])[:, 0]
    assert bool((mask == data['valid_mask']).all())
    largest = float(data['spike_depth'].abs().max())
    near(depth, data['pred_upsampled_clamped'], largest=largest)
    near(u, data['uncertainty_upsampled'])
    near(depth[mask], data['masked_pred'], largest=largest)
    near(u[mask], data['masked_uncertainty'])
    near(data['gt_depth'][mask], data['masked_gt'])


def test_h13_embeddings_and_teacher_gradients():
    """H13: embeddings, and what the published code sends to its teacher."""
    from mmext.models.distillers import (ProjectionHead, contrastive_loss,
                                         masked_feature_loss)
    data = tensors(load('stage2_cfkd_step'))
    hidden, width = data['init.head_rgb.2.weight'].shape
    size = data['init.head_rgb.5.weight'].size(0)
    heads = {
        name: ProjectionHead(width, hidden, size)
        for name in ('rgb', 'spike')
    }
    layer, path = (
        data[f'rgb_{name}'].requires_grad_() for name in ('layer_4', 'path_4'))
    for name, head in heads.items():
        fill(head, data, f'init.head_{name}.')
    rgb = heads['rgb'](layer)
    spike = heads['spike'](data['spike_layer_4'])
    near(rgb, data['rgb_embed'])
    near(spike, data['spike_embed'])
    total = 0.01 * (
        contrastive_loss(rgb, spike) +
        masked_feature_loss(path, data['spike_path_4']))
    grads = torch.autograd.grad(total, (layer, path))
    grad_near(grads[0], data['grad.rgb_layer_4'])
    grad_near(grads[1], data['grad.rgb_path_4'])


def test_h17_warmup():
    """H17: configured minus one steps in parity mode, teacher untouched."""
    data = tensors(load('stage3_warmup'))
    student = given_model(data['depth'], data['uncertainty'], data['dmax'])
    model = wrapped(
        'CrossDomainAdapter',
        student,
        losses=('scp', ),
        warmup_iters=int(data['warmup_step_config']),
        warmup_off_by_one=True)
    assert model.warmup_iters == int(data['n_steps'])
    teacher = GroupEMA(model, 0.999)
    model.attach_teacher(teacher.module)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4)
    batch = dict(source=torch.zeros(1), target=torch.zeros(1))
    for index in range(int(data['n_steps'])):
        model.step = index
        assert model.warming_up
        losses = model.loss(batch, samples(data['gt_depth']))
        for name in ('depth', 'uncertainty'):
            near(losses[f'loss_{name}'], 0.1 * data[f'loss_{name}'][index])
        total, _ = model.parse_losses(losses)
        near(total, data['loss_total'][index])
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    model.step = int(data['n_steps'])
    assert not model.warming_up
    check_change(student.depth, data['depth_after'], data['depth'], 'depth')
    assert torch.equal(model.teacher.depth, data['teacher_depth_after'])


def test_h18_self_training():
    """H18: masks, thresholds, losses, gradients, both nets for all steps."""
    data = tensors(load('stage3_ugmt_steps'))
    student = given_model(data['student_depth'],
                          data['student_uncertainty_init'], data['dmax'])
    model = wrapped(
        'CrossDomainAdapter', student, losses=('scp', ), warmup_iters=0)
    mean = GroupEMA(model, float(data['alpha']))
    teacher = mean.module.model
    teacher.depth.data.copy_(data['teacher_depth'])
    teacher.uncertainty.data.copy_(data['teacher_uncertainty'])
    model.attach_teacher(mean.module)
    candidates = model.candidates(data['teacher_depth'][:, None])[:, 0]
    assert torch.equal(candidates, data['range_crop_mask'])
    assert int(candidates.sum()) == int(data['n_candidates'])
    mask, tau = pseudo_label_mask(data['teacher_uncertainty'], candidates)
    assert torch.equal(mask, data['final_mask'])
    near(tau, data['uncertainty_threshold'])
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4)
    batch = dict(source=torch.zeros(1), target=torch.zeros(1))
    before = data['student_depth'], data['teacher_depth'], \
        data['teacher_uncertainty']
    for index, loss in enumerate(data['losses']):
        found = model.loss(batch, None)
        near(found['loss_scp'], loss)
        near(found['scp_threshold'], data['thresholds'][index])
        count = found['scp_keep_ratio'] * candidates.sum()
        if index == 0:
            near(count, data['n_selected'])
            assert int(data['n_selected']) == int(
                data['n_selected_per_step'][0])
        optimizer.zero_grad(set_to_none=True)
        found['loss_scp'].backward()
        name = f'step{index + 1}'
        grad_near(student.depth.grad, data[f'{name}.grad_student_depth'])
        if index == 0:
            assert bool((student.depth.grad[~mask] == 0).all())
        assert student.uncertainty.grad is None
        optimizer.step()
        mean.update(model)
        after = [
            data[f'{name}.{key}'] for key in ('student_depth', 'teacher_depth',
                                              'teacher_uncertainty')
        ]
        values = student.depth, teacher.depth, teacher.uncertainty
        for one in zip(values, after, before):
            check_change(*one, name)
    assert torch.equal(student.uncertainty, data['student_uncertainty_final'])


def test_h18_counts_of_every_step():
    data = tensors(load('stage3_ugmt_steps'))
    depth, u = data['teacher_depth'], data['teacher_uncertainty']
    for index, count in enumerate(data['n_selected_per_step']):
        mask = range_mask(depth, 1e-3, float(
            data['dmax'])) & garg_mask(*depth.shape[1:])
        assert int(pseudo_label_mask(u, mask)[0].sum()) == int(count)
        depth = data[f'step{index + 1}.teacher_depth']
        u = data[f'step{index + 1}.teacher_uncertainty']


def test_h23_alignment_step():
    """H23: log-probabilities, losses, gradients of features and heads."""
    data = tensors(load('stage3_glfa_step'))
    student = given_model(
        data['source_depth'],
        data['source_uncertainty'],
        data['dmax'],
        layer_4=data['source_layer_4'])
    model = wrapped(
        'CrossDomainAdapter',
        student,
        losses=('sup', 'sca'),
        warmup_iters=0,
        sca=dict(
            share_head=False,
            beta=float(data['beta']),
            hidden=data['init.head_source.2.weight'].size(0)))
    for name in ('head_source', 'head_target'):
        fill(getattr(model.domain_loss, name), data, f'init.{name}.')
    target = data['target_layer_4'].requires_grad_()
    # four dimensions: the features themselves
    found = model.loss(
        dict(source=torch.zeros(1), target=target),
        dict(source=samples(data['gt_depth'])))
    near(found['loss_depth'], data['loss_depth'])
    near(found['loss_uncertainty'], data['loss_uncertainty'])
    adversarial = data['loss_adv_source'] + data['loss_adv_target']
    near(found['loss_sca'], 0.1 * adversarial)
    total = sum(value for key, value in found.items() if 'loss' in key)
    near(total, data['loss_total'])
    total.backward()
    grad_near(target.grad, data['grad.target_layer_4'])
    grad_near(student.backbone.layer_4.grad, data['grad.source_layer_4'])
    grad_near(student.depth.grad, data['grad.source_depth'])
    grad_near(student.uncertainty.grad, data['grad.source_uncertainty'])
    assert not bool(data['label_source'].any()) and bool(
        data['label_target'].all())
    for name in ('source', 'target'):
        # heads were in training mode: their buffers are after one pass
        fresh = type(model.domain_loss.head_source)(
            target.size(1), data['init.head_source.2.weight'].size(0))
        fill(fresh, data, f'init.head_{name}.')
        near(fresh(data[f'{name}_layer_4']), data[f'logprob_{name}'])
        check_head(
            getattr(model.domain_loss, f'head_{name}'), data, f'head_{name}')
