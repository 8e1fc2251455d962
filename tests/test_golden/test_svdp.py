# Copyright (c) mmext contributors. All rights reserved.
"""SVDP, CoTTA and TENT against numbers recorded from the authors' code.

The folder is ``$MMEXT_GOLDEN/svdp``; sizes and options are read from its
files, so that another recording of the same format works too. Updates are
compared as after minus before, since final values alone would agree when
nothing moved.
"""
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.optim import build_optim_wrapper  # noqa: E402

from mmext.models.prompts.functional import SplineResizer  # noqa: E402
from mmext.models.prompts.functional import (place_prompts, prompt_decay,
                                             sparse_map)
from mmext.models.segmentation import (SVDP, CoTTA, Frame, Tent,  # noqa: E402
                                       View)
from mmext.models.segmentation.segmentor_ops import ensemble  # noqa: E402
from mmext.models.segmentation.segmentor_ops import (  # noqa: E402
    mc_probabilities, student_logits)
from mmext.models.teachers import GroupEMA  # noqa: E402
from mmext.models.uncertainty import uncertainty_map  # noqa: E402
from mmext.utils.random import RandomSource  # noqa: E402
from ..toy_models import build_toy  # noqa: E402

ROOT = Path(
    os.environ.get('MMEXT_GOLDEN',
                   Path(__file__).parents[2].parent / 'shared' /
                   'golden')) / 'svdp'
pytestmark = pytest.mark.skipif(
    not (ROOT / 'config.json').is_file(),
    reason=f'no golden numbers in {ROOT}; set MMEXT_GOLDEN to the folder '
    'that holds svdp/')

PATCH = 'visual_prompt.patch'
RECORDED_PATCH = 'backbone.prompt.patch'
STREAMS = {
    'svdp_code': dict(prompt_grad=False),
    'svdp_grad': dict(prompt_grad=True),
    'svdp_code_two_domains': dict(prompt_grad=False),
    'svdp_grad_two_domains': dict(prompt_grad=True),
}


def load(name):
    """Arrays of a file; the test is skipped if the set has no such file."""
    path = ROOT / f'{name}.npz'
    if not path.is_file():
        pytest.skip(f'{path} is not in this set')
    with np.load(path) as file:
        return {k: torch.from_numpy(np.asarray(file[k])) if
                file[k].dtype.kind != 'U' else file[k] for k in file.files}


@pytest.fixture(scope='module')
def config():
    return json.loads((ROOT / 'config.json').read_text())


@pytest.fixture(scope='module')
def stream(config):
    data = load('stream')
    mean = torch.tensor(config['rgb_mean'])
    std = torch.tensor(config['rgb_std'])
    frames = []
    for i in range(data['ori'].size(0)):
        views = []
        for k in range(len(config['ratios'])):
            x = (data[f'view_{k}'][i].float() - mean) / std
            x = x.permute(2, 0, 1)[None].contiguous()
            meta = dict(img_shape=tuple(x.shape[-2:]),
                        ori_shape=tuple(config['ori_hw']))
            views.append(View(x, dict(meta, flip=False)))
            views.append(
                View(x.flip(-1),
                     dict(meta, flip=True, flip_direction='horizontal')))
        frames.append(Frame(views, tuple(config['ori_hw'])))
    return frames


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
                type='Adam', lr=groups['lr'],
                betas=tuple(config['adam_betas']), eps=config['adam_eps']),
            paramwise_cfg=dict(
                custom_keys=dict(
                    visual_prompt=dict(lr_mult=groups.get('prompt', 1.))))))
    method.start(model, teacher, source)
    return model, optim_wrapper


def recorded_name(name):
    return RECORDED_PATCH if name == PATCH else name


def check_change(before, after, data, prefix, stated, lr=None, grads=None,
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


@pytest.mark.parametrize('name', STREAMS)
def test_svdp_stream(name, config, stream):
    """Properties 13, 18, 24, 28, 29: every array of a three-sample run."""
    data = load(name)
    base = load(name.replace('_two_domains', ''))
    two_domains = name.endswith('two_domains')
    method = Recorded(
        sparse_rate=config['sparse_rate'],
        dpu_scale=config['dpu_scale'],
        dpu_clamp=False,
        mc_passes=config['mc_passes'],
        mc_dropout=config['mc_dropout'],
        decay=config['ema_rate'],
        anchor_threshold=config['anchor_threshold'],
        restore_prob=config['restore_prob'],
        reference_view=reference_index(config),
        **STREAMS[name])
    lr = dict(prompt=config['prompt_lr'], others=config['model_lr'])
    model, optim = start(
        method, config,
        dict(lr=lr['others'], prompt=lr['prompt'] / lr['others']))
    assert model.visual_prompt.patch.size(0) == config['num_prompts']
    first_patch = model.visual_prompt.patch.detach().clone()
    predictions = []

    for i, frame in enumerate(stream):
        # The steps before the border are those of the one-domain run.
        rec = data if f's{i}.loss' in data else base
        if two_domains and i == 2:
            method.reset_optimizer_state(optim)
        method.rng = Replay(rec, i)
        # Domains differ in their updates only, which come after placement.
        method.data, method.step_index = base, i
        before = snapshot(model)
        before_teacher = snapshot(method.teacher.module)
        if f's{i}.unc' in rec:
            check_parts(method, frame, rec, i, config)
            method.rng = Replay(rec, i)
        method.grads = {}
        optim.step = recording_step(optim, model, method)
        result = method.step(frame, optim)

        assert labels_agree(result.labels, rec[f's{i}.pseudo'])
        assert result.log['loss'] == pytest.approx(
            float(rec[f's{i}.loss']), rel=1e-5)
        assert result.log['alpha_prompt'] == pytest.approx(
            float(rec[f's{i}.alpha_prompt']), abs=1e-6)
        check_gradients(method, rec, i)
        # A single step is compared tightly, the state after it as well.
        stated = 1e-6 if i == 0 else 1e-4
        check_change(before, method.after_opt, rec, f's{i}.opt', stated, lr,
                     method.least, i + 1)
        check_change(before_teacher, snapshot(method.teacher.module), rec,
                     f's{i}.ema', stated, lr, method.least, i + 1)
        check_change(before, snapshot(model), rec, f's{i}.student', stated,
                     lr, method.least, i + 1)
        predictions.append(result.labels)
    patch = model.visual_prompt.patch.detach()
    moved = float((patch - first_patch).abs().max())
    if STREAMS[name]['prompt_grad']:
        assert moved > 0
    else:
        # Property 19: without a gradient the prompt stays bit-identical.
        assert moved == 0
        drift = method.teacher.module.visual_prompt.patch - first_patch
        largest = max(1., float(first_patch.abs().max()))
        assert float(drift.abs().max()) < 1e-6 * largest
    counts_agree(predictions, config, data)


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
    mean, single = ensemble(
        teacher, frame.views, index, size,
        lambda v: method.prompted(teacher, v, places))
    assert labels_agree(mean.argmax(0), data[f's{i}.pred_avg'])
    assert labels_agree(single.argmax(0), data[f's{i}.pred_single'])
    assert torch.allclose(single.max(0).values, data[f's{i}.prob_single'],
                          atol=1e-5 if i == 0 else 1e-4)
    confidence, _ = method.anchor_confidence(view, frame)
    assert torch.allclose(confidence, data[f's{i}.prob_anchor'], atol=1e-5)


def test_svdp_first_sample_in_detail(config, stream):
    """Property 6: resized maps, mirrored map and mean probabilities."""
    data, extra = load('svdp_code'), load('svdp_step0_extra')
    model, patch = build_model(config)
    index = reference_index(config)
    frame = stream[0]
    view, size = frame.views[index], frame.ori_shape
    resizer = SplineResizer(data['s0.unc'])
    for k, (h, w) in enumerate(config['views_hw']):
        assert torch.allclose(resizer((h, w)), extra[f's0.unc_resized_{k}'],
                              atol=1e-5)
    for key in extra:
        found = re.fullmatch(r's0\.prompt_map_(\d+)_flip', key)
        if found:
            shown = frame.views[2 * int(found[1])].size
            row, col = data[f's0.pos_{found[1]}'].long().unbind(1)
            flipped = sparse_map(patch, row * shown[1] + col, shown).flip(-1)
            assert torch.allclose(flipped, extra[key])

    probs = list(
        mc_probabilities(model, view, view.x, size, config['mc_passes'],
                         config['mc_dropout'], Replay(data, 0)))
    assert torch.allclose(
        torch.stack(probs).mean(0), extra['s0.mc_mean_prob'], atol=1e-5)

    method = SVDP(sparse_rate=config['sparse_rate'])
    method.prepare(model, tuple(config['base_hw']), 0)
    model.visual_prompt.patch.data.copy_(patch)
    method.model = model
    places = method.place(data['s0.unc'], frame)
    for j, v in enumerate(frame.views[::2]):
        if float(data[f's0.gap_{j}']) < 1e-6:
            row, col = data[f's0.pos_{j}'].long().unbind(1)
            places[v.size] = row * v.size[1] + col
    mean, _ = ensemble(model, frame.views, index, size,
                       lambda v: method.prompted(model, v, places))
    assert torch.allclose(mean, extra['s0.mean_prob'], atol=1e-5)
    x = method.prompted(model, view, places)
    low = model.decode_head(model.extract_feat(x))
    assert torch.allclose(low, extra['s0.student_logits_lowres'], atol=1e-5)
    assert student_logits(model, view, x, size).shape[-2:] == size


def test_cotta_stream(config, stream):
    """Property 34: every array of CoTTA's run."""
    data = load('cotta')
    lr = dict(others=config['baseline_lr'])
    predictions = []
    method = CoTTA(
        decay=config['ema_rate'],
        anchor_threshold=config['anchor_threshold'],
        restore_prob=config['restore_prob'],
        reference_view=reference_index(config))
    model, optim = start(method, config, dict(lr=lr['others']))
    index = reference_index(config)
    for i, frame in enumerate(stream):
        before = snapshot(model)
        before_teacher = snapshot(method.teacher.module)
        mean, single = ensemble(method.teacher.module, frame.views, index,
                                frame.ori_shape)
        assert labels_agree(mean.argmax(0), data[f's{i}.pred_avg'])
        assert labels_agree(single.argmax(0), data[f's{i}.pred_single'])
        confidence, _ = method.anchor_confidence(frame.views[index], frame)
        assert torch.allclose(confidence, data[f's{i}.prob_anchor'],
                              atol=1e-5)
        method.rng = Replay(data, i)
        optim.step = recording_step(optim, model, method)
        result = method.step(frame, optim)
        assert labels_agree(result.labels, data[f's{i}.pseudo'])
        assert result.log['loss'] == pytest.approx(
            float(data[f's{i}.loss']), rel=1e-5)
        check_gradients(method, data, i)
        stated = 1e-6 if i == 0 else 1e-4
        check_change(before, method.after_opt, data, f's{i}.opt', stated, lr,
                     method.least, i + 1)
        check_change(before_teacher, snapshot(method.teacher.module), data,
                     f's{i}.ema', stated, lr, method.least, i + 1)
        check_change(before, snapshot(model), data, f's{i}.student', stated,
                     lr, method.least, i + 1)
        predictions.append(result.labels)
    counts_agree(predictions, config, data)


@pytest.mark.parametrize('loss', ['pseudo_label', 'entropy'])
def test_tent_stream(loss, config, stream):
    """Property 33: TENT trains only the norm layers."""
    data = load(dict(pseudo_label='tent_pseudolabel',
                     entropy='tent_entropy')[loss])
    lr = dict(others=config['baseline_lr'])
    predictions = []
    method = Tent(loss=loss, reference_view=reference_index(config))
    model, optim = start(method, config, dict(lr=lr['others']))
    trained = sorted(str(n) for n in data['trained'])
    assert trained == sorted(
        n for n, p in model.named_parameters() if p.requires_grad)
    for i, frame in enumerate(stream):
        before = snapshot(model)
        optim.step = recording_step(optim, model, method)
        result = method.step(frame, optim)
        key = 'pseudo' if loss == 'pseudo_label' else 'pred'
        assert labels_agree(result.labels, data[f's{i}.{key}'])
        assert result.log['loss'] == pytest.approx(
            float(data[f's{i}.loss']), rel=1e-5)
        check_gradients(method, data, i)
        check_change(before, snapshot(model), data, f's{i}.opt',
                     1e-6 if i == 0 else 1e-4, lr, method.least, i + 1)
        predictions.append(result.labels)
    counts_agree(predictions, config, data)


def test_placement_unit(config):
    """Property 6: resize, positions and maps on a given uncertainty."""
    data = load('dpp_unit')
    resizer = SplineResizer(data['uncmap'])
    patch = data['patch']
    for k, size in enumerate(config['views_hw']):
        size = tuple(size)
        resized = resizer(size)
        assert torch.allclose(resized, data[f'resized_{k}'], atol=1e-5)
        row, col = data[f'pos_{k}'].long().unbind(1)
        recorded = row * size[1] + col
        where = place_prompts(resized, patch.size(0))
        if float(data[f'margin_{k}']) > 1e-6 and \
                float(data[f'min_gap_{k}']) > 1e-6:
            assert torch.equal(where, recorded)
        elif float(data[f'margin_{k}']) > 1e-6:
            assert torch.equal(where.sort().values, recorded.sort().values)
        prompt = sparse_map(patch, recorded, size)
        if f'prompt_map_{k}' in data:
            assert torch.allclose(prompt, data[f'prompt_map_{k}'])
        if f'prompt_map_{k}_flip' in data:
            assert torch.allclose(prompt.flip(-1),
                                  data[f'prompt_map_{k}_flip'])
        if f'prompt_map_{k}_sum' in data:
            assert torch.allclose(prompt.sum((1, 2)),
                                  data[f'prompt_map_{k}_sum'], atol=2e-5)


def test_uncertainty_unit():
    """Property 1: resize, softmax, population variance, sum."""
    data = load('uncertainty_unit')
    size = tuple(data['size'].tolist())
    maps = (torch.nn.functional.interpolate(
        x, size=size, mode='bilinear', align_corners=False).softmax(1)
            for x in data['logits'])
    u = uncertainty_map(maps)
    assert torch.allclose(u, data['unc'], atol=1e-5)
    assert float(u.mean()) == pytest.approx(float(data['unc_mean']), abs=1e-6)


def test_ema_unit():
    """Property 24: the model's and the prompt's decay."""
    data = load('ema_unit')

    def module(prefix):
        out = torch.nn.Module()
        for group in ('prompt', 'net'):
            inner = torch.nn.Module()
            for name in ('weight', 'bias'):
                key = f'{prefix}.{group}.{name}'
                if key in data:
                    inner.register_parameter(
                        name, torch.nn.Parameter(data[key].clone()))
            out.add_module(group, inner)
        return out

    alpha = prompt_decay(
        float(data['alpha_model']), float(data['unc'].mean()),
        float(data['scale']), clamp=False)
    assert alpha == pytest.approx(float(data['alpha_prompt']), abs=1e-6)
    teacher = GroupEMA(module('teacher_before'), float(data['alpha_model']),
                       groups={'^prompt': 0.5})
    teacher.update(module('student'), {'^prompt': alpha})
    before = {k[15:]: data[k] for k in data if k.startswith('teacher_before')}
    check_change(before, dict(teacher.module.named_parameters()), data,
                 'teacher_after', 1e-6)
