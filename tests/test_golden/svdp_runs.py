# Copyright (c) mmext contributors. All rights reserved.
"""Recorded runs of test-time adaptation: their models, draws and arrays."""
import re

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper

from mmext.models.prompts.functional import SplineResizer, sparse_map
from mmext.models.segmentation import SVDP
from mmext.models.segmentation.segmentor_ops import ensemble
from mmext.models.teachers import GroupEMA
from mmext.utils.random import RandomSource
from ..toy_models import build_toy
from .recorded import folder

ROOT = folder('svdp')
PATCH = 'visual_prompt.patch'
RECORDED_PATCH = 'backbone.prompt.patch'


def load(name):
    """Arrays of a file; the test is skipped if the set has no such file."""
    path = ROOT / f'{name}.npz'
    if not path.is_file():
        pytest.skip(f'{path} is not in this set')
    with np.load(path) as file:
        return {
            k:
            torch.from_numpy(np.asarray(file[k]))
            if file[k].dtype.kind != 'U' else file[k]
            for k in file.files
        }


def reference_index(config):
    return 2 * config['ratios'].index(1.0)


def build_model(config):
    model = build_toy(
        channels=config['channels'],
        num_classes=config['num_classes'],
        dropout=config['head_dropout'],
        groups=config['group_norm_groups'],
        eps=config['norm_eps'],
        test_cfg=dict(
            mode='slide',
            crop_size=(config['slide_crop'], ) * 2,
            stride=(config['slide_stride'], ) * 2))
    init = load('model_init')
    weights = {k: v for k, v in init.items() if k != 'prompt.patch'}
    model.load_state_dict(weights, strict=True)
    return model, init['prompt.patch']


class Replay(RandomSource):
    """Hands out the recorded draws of one sample."""

    def __init__(self, data, step):
        super().__init__(0)
        self.data, self.step, self.calls = data, step, 0
        if f's{step}.drop_keep' in data:
            shape = tuple(data[f's{step}.drop_keep_shape'].tolist())
            bits = np.unpackbits(data[f's{step}.drop_keep'].numpy())
            self.masks = torch.from_numpy(
                bits[:int(np.prod(shape))].reshape(shape)).float()

    def keep_mask(self, shape, keep, like):
        mask = self.masks[self.calls]
        self.calls += 1
        assert mask.shape == torch.Size(shape)
        return mask

    def bernoulli_indices(self, name, numel, p, device):
        draws = self.data[f's{self.step}.restore_u.{name}'].flatten()
        assert draws.numel() == numel
        return (draws < p).nonzero().squeeze(1)


class Recorded(SVDP):
    """SVDP that takes the recorded positions where the order is a tie."""
    data = step_index = None

    def place(self, uncertainty, frame):
        places = super().place(uncertainty, frame)
        for k, view in enumerate(frame.views[::2]):
            key = f's{self.step_index}.pos_{k}'
            if key not in self.data:
                continue
            row, col = self.data[key].long().unbind(1)
            recorded = row * view.size[1] + col
            got = places[view.size]
            if not torch.equal(got, recorded):
                # Only where values are closer than the rounding of the map,
                # which grows with the steps, the order is arbitrary.
                gap = float(self.data[f's{self.step_index}.gap_{k}'])
                close = 1e-5 if self.step_index else 1e-6
                assert gap < close, key
                values = SplineResizer(uncertainty)(view.size).flatten()
                assert torch.allclose(
                    values[got], values[recorded], rtol=0, atol=close), key
                places[view.size] = recorded
        self.last_places = places
        return places


def start(method, config, groups):
    model, patch = build_model(config)
    method.prepare(model, tuple(config['base_hw']), 0)
    if hasattr(model, 'visual_prompt'):
        assert model.visual_prompt.patch.shape == patch.shape
        model.visual_prompt.patch.data.copy_(patch)
    source = {k: v.clone() for k, v in model.state_dict().items()}
    teacher = GroupEMA(model, **method.teacher_options()) \
        if method.needs_teacher else None
    optim_wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(
                type='Adam',
                lr=groups['lr'],
                betas=tuple(config['adam_betas']),
                eps=config['adam_eps']),
            paramwise_cfg=dict(
                custom_keys=dict(
                    visual_prompt=dict(lr_mult=groups.get('prompt', 1.))))))
    method.start(model, teacher, source)
    return model, optim_wrapper


def snapshot(model):
    return {k: v.detach().clone() for k, v in model.named_parameters()}


def recording_step(optim, model, method):
    """Keep the gradients and the weights right after the Adam step."""

    def step():
        method.grads = {
            k: v.grad.clone()
            for k, v in model.named_parameters() if v.grad is not None
        }
        least = method.__dict__.setdefault('least', {})
        for k, v in method.grads.items():
            least[k] = torch.minimum(v.abs(), least.get(k, v.abs()))
        type(optim).step(optim)
        method.after_opt = snapshot(model)

    return step


def recorded_name(name):
    return RECORDED_PATCH if name == PATCH else name


def check_change(before,
                 after,
                 data,
                 prefix,
                 stated,
                 lr=None,
                 grads=None,
                 steps=1):
    """Compare after-minus-before with tolerance min(stated, 10 % of it).

    ``grads`` are the smallest absolute gradients of all ``steps`` so far,
    ``lr`` the rates of the prompt and of all others.
    """
    recorded = {key for key in data if key.startswith(f'{prefix}.')}
    assert recorded
    for name, value in after.items():
        key = f'{prefix}.{recorded_name(name)}'
        if key not in data:
            continue
        recorded.remove(key)
        expected = data[key] - before[name]
        got = value - before[name]
        scale = float(expected.abs().max())
        # Averaging rounds by about one unit in the last place at each step.
        floor = 2.5e-7 * steps * max(1., float(before[name].abs().max()))
        tol = min(stated, max(0.1 * scale, floor))
        error = (got - expected).abs()
        if grads is not None and name in grads:
            # Adam turns rounding of a tiny gradient into a visible step.
            tiny = grads[name].abs() <= 1e-5
            rate = lr['prompt' if name == PATCH else 'others']
            assert not (error[tiny] > 2 * rate * steps).any(), key
            error = error[~tiny]
        if error.numel():
            assert float(error.max()) <= tol, \
                f'{key}: {float(error.max()):.3g} > {tol:.3g}'
    assert not recorded, f'not compared: {sorted(recorded)}'


def labels_agree(got, expected):
    return float((got != expected.long()).float().mean()) <= 1e-3


def counts_agree(predictions, config, data):
    """Intersections and unions of all samples, with 0.1 % of the pixels."""
    if 'iou_intersect' not in data:
        return
    got, gt = torch.stack(predictions), load('stream')['gt'].long()
    valid = gt != config['ignore_index']
    for c in range(config['num_classes']):
        mine, true = (got == c) & valid, (gt == c) & valid
        for name, both in (('intersect', mine & true), ('union', mine | true)):
            error = int(both.sum()) - int(data[f'iou_{name}'][c])
            assert abs(error) <= 1e-3 * gt.numel(), (name, c)


def check_gradients(method, data, i):
    seen = 0
    for key in data:
        if not key.startswith(f's{i}.grad.'):
            continue
        name = key[len(f's{i}.grad.'):]
        name = PATCH if name == RECORDED_PATCH else name
        expected = data[key]
        error = (method.grads[name] - expected).abs()
        assert (error <= 1e-6 + 1e-4 * expected.abs().max()).all(), key
        seen += 1
    none = f's{i}.grad_is_none.{RECORDED_PATCH}'
    if none in data:
        assert bool(data[none]) == (PATCH not in method.grads)
    # Of two domains the last sample has no gradients.
    assert seen or not any('.grad.' in key for key in data)


def check_parts(method, frame, data, i, config):
    """Properties 1, 6, 13: what precedes the update, piece by piece."""
    index = reference_index(config)
    view, size = frame.views[index], frame.ori_shape
    teacher = method.teacher.module
    u = method.uncertainty(view, size)
    assert torch.allclose(u, data[f's{i}.unc'], atol=1e-5)
    assert float(u.mean()) == pytest.approx(
        float(data[f's{i}.unc_mean']), abs=1e-6)
    places = method.place(u, frame)
    for key in data:
        found = re.fullmatch(rf's{i}\.prompt_map_(\d+)', key)
        if found:
            shown = frame.views[2 * int(found[1])]
            prompt = sparse_map(teacher.visual_prompt.patch,
                                places[shown.size], shown.size)
            # The teacher's entries have drifted by rounding after some steps.
            assert torch.allclose(prompt, data[key], atol=1e-4 if i else 1e-6)
    mean, single = ensemble(teacher, frame.views, index, size,
                            lambda v: method.prompted(teacher, v, places))
    assert labels_agree(mean.argmax(0), data[f's{i}.pred_avg'])
    assert labels_agree(single.argmax(0), data[f's{i}.pred_single'])
    assert torch.allclose(
        single.max(0).values,
        data[f's{i}.prob_single'],
        atol=1e-5 if i == 0 else 1e-4)
    confidence, _ = method.anchor_confidence(view, frame)
    assert torch.allclose(confidence, data[f's{i}.prob_anchor'], atol=1e-5)
