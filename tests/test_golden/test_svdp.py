# Copyright (c) mmext contributors. All rights reserved.
"""SVDP, CoTTA and TENT against numbers recorded from the authors' code.

The folder is ``$MMEXT_GOLDEN/svdp``; sizes and options are read from its
files, so that another recording of the same format works too. Updates are
compared as after minus before, since final values alone would agree when
nothing moved.
"""
import json
import re

import pytest
import torch

pytest.importorskip('mmseg')

from mmext.models.prompts.functional import (SplineResizer, place_prompts,
                                             prompt_decay, sparse_map)
from mmext.models.segmentation import SVDP, CoTTA, Frame, Tent, View
from mmext.models.segmentation.segmentor_ops import (ensemble,
                                                     mc_probabilities,
                                                     student_logits)
from mmext.models.teachers import GroupEMA
from mmext.models.uncertainty import uncertainty_map
from .svdp_runs import (ROOT, Recorded, Replay, build_model, check_change,
                        check_gradients, check_parts, counts_agree,
                        labels_agree, load, recording_step, reference_index,
                        snapshot, start)

pytestmark = pytest.mark.skipif(
    not (ROOT / 'config.json').is_file(),
    reason=f'no golden numbers in {ROOT}; set MMEXT_GOLDEN to the folder '
    'that holds svdp/')

STREAMS = {
    'svdp_code': dict(prompt_grad=False),
    'svdp_grad': dict(prompt_grad=True),
    'svdp_code_two_domains': dict(prompt_grad=False),
    'svdp_grad_two_domains': dict(prompt_grad=True),
}


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
            meta = dict(
                img_shape=tuple(x.shape[-2:]),
                ori_shape=tuple(config['ori_hw']))
            views.append(View(x, dict(meta, flip=False)))
            views.append(
                View(
                    x.flip(-1),
                    dict(meta, flip=True, flip_direction='horizontal')))
        frames.append(Frame(views, tuple(config['ori_hw'])))
    return frames


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
        check_change(before, snapshot(model), rec, f's{i}.student', stated, lr,
                     method.least, i + 1)
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


def test_svdp_first_sample_in_detail(config, stream):
    """Property 6: resized maps, mirrored map and mean probabilities."""
    data, extra = load('svdp_code'), load('svdp_step0_extra')
    model, patch = build_model(config)
    index = reference_index(config)
    frame = stream[0]
    view, size = frame.views[index], frame.ori_shape
    resizer = SplineResizer(data['s0.unc'])
    for k, (h, w) in enumerate(config['views_hw']):
        assert torch.allclose(
            resizer((h, w)), extra[f's0.unc_resized_{k}'], atol=1e-5)
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
        assert torch.allclose(confidence, data[f's{i}.prob_anchor'], atol=1e-5)
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
    data = load(
        dict(pseudo_label='tent_pseudolabel', entropy='tent_entropy')[loss])
    lr = dict(others=config['baseline_lr'])
    predictions = []
    method = Tent(loss=loss, reference_view=reference_index(config))
    model, optim = start(method, config, dict(lr=lr['others']))
    trained = sorted(str(n) for n in data['trained'])
    assert trained == sorted(n for n, p in model.named_parameters()
                             if p.requires_grad)
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
            assert torch.allclose(
                prompt.flip(-1), data[f'prompt_map_{k}_flip'])
        if f'prompt_map_{k}_sum' in data:
            assert torch.allclose(
                prompt.sum((1, 2)), data[f'prompt_map_{k}_sum'], atol=2e-5)


def test_uncertainty_unit():
    """Property 1: resize, softmax, population variance, sum."""
    data = load('uncertainty_unit')
    size = tuple(data['size'].tolist())
    maps = (
        torch.nn.functional.interpolate(
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
        float(data['alpha_model']),
        float(data['unc'].mean()),
        float(data['scale']),
        clamp=False)
    assert alpha == pytest.approx(float(data['alpha_prompt']), abs=1e-6)
    teacher = GroupEMA(
        module('teacher_before'),
        float(data['alpha_model']),
        groups={'^prompt': 0.5})
    teacher.update(module('student'), {'^prompt': alpha})
    before = {k[15:]: data[k] for k in data if k.startswith('teacher_before')}
    check_change(before, dict(teacher.module.named_parameters()), data,
                 'teacher_after', 1e-6)
