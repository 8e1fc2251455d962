# Copyright (c) mmext contributors. All rights reserved.
"""SVDP on a toy segmentor: uncertainty, placement, labels, options."""
from copy import deepcopy

import pytest
import torch

pytest.importorskip('mmseg')

from mmext.models.prompts.functional import sparse_map  # noqa: E402
from mmext.models.segmentation import (SVDP, CoTTA, Frame,  # noqa: E402
                                       SourceOnly, View)
from ...toy_models import build_toy  # noqa: E402
from .common import (BASE, ORI, REFERENCE, make_frame, same,  # noqa: E402
                     snapshot, start, svdp)

PATCH = 'visual_prompt.patch'


# Uncertainty


def test_backbone_runs_once_per_pass_set():
    """Property 3: one teacher backbone run serves all dropout passes."""
    method = svdp()
    start(method)
    backbone = method.teacher.module.backbone
    before = backbone.calls
    method.uncertainty(make_frame().views[REFERENCE], ORI)
    assert backbone.calls == before + 1


def test_uncertainty_leaves_the_dropout_alone():
    """Property 4: the teacher's dropout is what it was."""
    method = svdp()
    optim = start(method)
    dropout = method.teacher.module.decode_head.dropout
    before = type(dropout), dropout.p, dropout.training
    method.step(make_frame(), optim)
    after = method.teacher.module.decode_head.dropout
    assert after is dropout
    assert (type(after), after.p, after.training) == before


@pytest.mark.parametrize('with_prompt', [False, True])
def test_uncertainty_and_the_prompt(with_prompt):
    """Property 5: independent of P_T, unless ``unc_with_prompt``."""
    method = svdp(unc_with_prompt=with_prompt)
    start(method)
    view = make_frame().views[REFERENCE]
    first = method.uncertainty(view, ORI)
    method.rng.reset()
    method.teacher.module.visual_prompt.patch.add_(3.)
    second = method.uncertainty(view, ORI)
    assert torch.equal(first, second) is not with_prompt


def test_uncertainty_is_the_teachers():
    """Property 5: it follows the teacher, not the student."""
    method = svdp()
    start(method)
    view = make_frame().views[REFERENCE]
    first = method.uncertainty(view, ORI)
    assert first.shape == ORI and float(first.mean()) > 0
    assert first.max() <= 1 - 1 / 5
    with torch.no_grad():
        for param in method.model.parameters():
            param.mul_(2)
    method.rng.reset()
    assert torch.equal(first, method.uncertainty(view, ORI))


# Placement


def test_placement_per_size():
    """Properties 7, 9: one placement per size; a mirrored view mirrors."""
    method = svdp()
    start(method)
    frame = make_frame()
    places = method.place(torch.rand(ORI), frame)
    count = method.model.visual_prompt.patch.size(0)
    assert set(places) == {v.size for v in frame.views}
    assert all(p.numel() == count for p in places.values())
    zeros = [View(torch.zeros_like(v.x), v.meta) for v in frame.views]
    maps = [method.prompted(method.model, v, places) for v in zeros]
    for plain, mirrored in zip(maps[::2], maps[1::2]):
        assert torch.equal(plain.flip(-1), mirrored)
        assert int((plain.abs().sum(1) > 0).sum()) == count


def test_placement_with_density():
    """Property 7: ``k_mode='density'`` covers the same share of views."""
    method = svdp(k_mode='density')
    start(method)
    frame = make_frame(ratios=(0.5, 1.0))
    places = method.place(torch.rand(ORI), frame)
    for (h, w), where in places.items():
        assert where.numel() == int(h * w * 0.02)


def test_prompts_never_sit_on_padding():
    """Property 11: a padded view carries its prompts on real pixels."""
    method = svdp()
    optim = start(method)
    view = make_frame(flips=False, ratios=(1., )).views[0]
    padded = torch.nn.functional.pad(view.x, (0, 16, 0, 8))
    frame = Frame([View(padded, view.meta)], ORI)
    method.reference_view = None
    places = method.place(torch.rand(ORI), frame)
    added = method.prompted(method.model, frame.views[0], places) - padded
    assert added[..., BASE[0]:, :].abs().max() == 0
    assert added[..., :, BASE[1]:].abs().max() == 0
    result = method.step(frame, optim)
    assert result.labels.shape == ORI


@pytest.mark.parametrize('ori, base, ratios, rate', [
    ((37, 61), (19, 31), (0.5, 1.0, 2.0), 0.05),
    ((20, 90), (40, 24), (1.0, 1.3, 1.7), 0.01),
    ((30, 40), (16, 20), (0.5, 1.0), 1.0),
])
def test_any_sizes(ori, base, ratios, rate):
    """Property 11: no size is built in; K up to every pixel."""
    method = svdp(
        sparse_rate=rate, reference_view=2 * ratios.index(1.0))
    optim = start(method, base=base)
    for seed in range(2):
        result = method.step(
            make_frame(seed, base=base, ori=ori, ratios=ratios), optim)
        assert result.labels.shape == ori and not result.skipped


def test_camera_switch():
    """Property 11: frames of another size in mid-stream."""
    method = svdp()
    optim = start(method)
    count = method.model.visual_prompt.patch.size(0)
    method.step(make_frame(0), optim)
    result = method.step(
        make_frame(1, base=(24, 40), ori=(50, 70)), optim)
    assert result.labels.shape == (50, 70)
    assert method.model.visual_prompt.patch.size(0) == count


def test_prompt_is_added_before_windows(monkeypatch):
    """Property 10: sliding windows are cut from the prompted view."""
    slide = dict(mode='slide', crop_size=(24, 24), stride=(16, 16))
    method = svdp()
    start(method, build_toy(test_cfg=slide))
    frame = make_frame()
    places = method.place(torch.rand(ORI), frame)
    view = frame.views[REFERENCE]
    whole = method.prompted(method.model, view, places)
    seen = []
    monkeypatch.setattr(
        method.model, 'encode_decode', lambda x, metas:
        (seen.append(x), torch.zeros(1, 5, *x.shape[-2:]))[1])
    method.model.inference(whole, [dict(view.meta)])
    tops, lefts = (0, 8), (0, 16, 24)
    windows = [(t, x) for t in tops for x in lefts]
    assert len(seen) == len(windows)
    patch = method.model.visual_prompt.patch
    m = sparse_map(patch, places[view.size], view.size)
    for (t, x), window in zip(windows, seen):
        cut = (Ellipsis, slice(t, t + 24), slice(x, x + 24))
        assert torch.allclose(window, view.x[cut] + m[cut])


# Pseudo-label


@pytest.mark.parametrize('threshold, which', [(1.1, 0), (-0.1, 1)])
def test_gate_limits(threshold, which):
    """Property 14: bound > 1 averages everywhere, < 0 takes one view."""
    from mmext.models.segmentation.segmentor_ops import ensemble
    method = svdp(anchor_threshold=threshold)
    start(method)
    frame = make_frame()
    both = ensemble(method.teacher.module, frame.views, REFERENCE, ORI)
    labels, _ = method.pseudo_label(frame, REFERENCE)
    assert torch.equal(labels, both[which].argmax(0))
    assert not torch.equal(both[0].argmax(0), both[1].argmax(0))


def test_anchor_is_constant():
    """Property 15: the anchor's output does not change during a run."""
    method = svdp()
    optim = start(method, lr=1e-2)
    frame = make_frame()
    view = frame.views[REFERENCE]
    first, _ = method.anchor_confidence(view, frame)
    for seed in range(3):
        method.step(make_frame(seed), optim)
    assert torch.equal(first, method.anchor_confidence(view, frame)[0])


def test_label_is_target_and_made_first(monkeypatch):
    """Property 16: what is emitted trained, and preceded every change."""
    method = svdp()
    optim = start(method)
    frame = make_frame()
    places = method.place(method.uncertainty(frame.views[REFERENCE], ORI),
                          frame)
    teacher = deepcopy(method.teacher.module)
    method.rng.reset()
    expected, _ = method.pseudo_label(
        frame, REFERENCE, lambda v: method.prompted(teacher, v, places))
    targets = []
    loss = torch.nn.functional.cross_entropy
    monkeypatch.setattr(
        'mmext.models.segmentation.svdp.F.cross_entropy',
        lambda logits, target: (targets.append(target.clone()),
                                loss(logits, target))[1])
    result = method.step(frame, optim)
    assert torch.equal(result.labels, expected)
    assert torch.equal(targets[0][0], result.labels)


def test_no_rates_is_a_pure_ensemble():
    """Property 16: rates 0, no restore: frames do not depend on others."""
    frames = [make_frame(seed) for seed in range(3)]
    alone = []
    for frame in frames:
        method = svdp(restore_prob=0.)
        optim = start(method, lr=0., prompt_lr=0.)
        # Draws differ between a first and a third frame, so none here.
        method.uncertainty = lambda view, size: view.x.abs().mean(
            (0, 1)).repeat_interleave(2, 0).repeat_interleave(2, 1)
        alone.append(method.step(frame, optim).labels)
    method = svdp(restore_prob=0.)
    optim = start(method, lr=0., prompt_lr=0.)
    method.uncertainty = lambda view, size: view.x.abs().mean(
        (0, 1)).repeat_interleave(2, 0).repeat_interleave(2, 1)
    before = snapshot(method.model)
    for frame, labels in zip(frames, alone):
        assert torch.equal(method.step(frame, optim).labels, labels)
    assert same(before, snapshot(method.model))
    assert same(before, snapshot(method.teacher.module))


def test_order_of_views():
    """Property 17: permuting the views changes rounding only."""
    from mmext.models.segmentation.segmentor_ops import ensemble
    method = svdp()
    start(method)
    frame = make_frame()
    mean, single = ensemble(method.model, frame.views, REFERENCE, ORI)
    order = torch.randperm(len(frame.views)).tolist()
    views = [frame.views[i] for i in order]
    other, other_single = ensemble(method.model, views,
                                   order.index(REFERENCE), ORI)
    assert torch.allclose(mean, other, atol=1e-6)
    assert torch.allclose(single, other_single, atol=1e-6)
    for batch in (1, 3):
        other, _ = ensemble(method.model, frame.views, REFERENCE, ORI,
                            batch=batch)
        assert torch.allclose(mean, other, atol=1e-6)


# Robustness and options


def test_nan_frame(recwarn):
    """A frame that is not finite is predicted but changes nothing."""
    method = svdp()
    optim = start(method)
    method.step(make_frame(0), optim)
    before = snapshot(method.model), snapshot(method.teacher.module)
    moments = deepcopy(optim.optimizer.state_dict())
    frame = make_frame(1)
    for view in frame.views:
        view.x[..., 3, 4] = float('nan')
    result = method.step(frame, optim)
    assert 'loss' in result.skipped
    assert result.labels.shape == ORI
    assert same(before[0], snapshot(method.model))
    assert same(before[1], snapshot(method.teacher.module))
    after = optim.optimizer.state_dict()
    for key, value in moments['state'].items():
        assert torch.equal(value['exp_avg'], after['state'][key]['exp_avg'])
    assert not method.step(make_frame(2), optim).skipped


def test_infinite_gradient(monkeypatch):
    """A finite loss with an infinite gradient is left out as well."""
    method = svdp()
    optim = start(method)
    before = snapshot(method.model)
    weight = method.model.decode_head.conv_seg.weight
    handle = weight.register_hook(lambda g: g / 0)
    assert 'gradient' in method.step(make_frame(), optim).skipped
    assert same(before, snapshot(method.model))
    handle.remove()
    assert not method.step(make_frame(), optim).skipped


@pytest.mark.parametrize('options, match', [
    (dict(unc_resize='cubic'), 'unc_resize'),
    (dict(k_mode='free'), 'k_mode'),
    (dict(pairing='place'), 'pairing'),
    (dict(prompt_mode='replace'), 'prompt_mode'),
    (dict(mc_passes=1), 'mc_passes'),
    (dict(mc_dropout=1.), 'mc_dropout'),
    (dict(restore_prob=2.), 'restore_prob'),
    (dict(decay=1.1), 'decay'),
    (dict(views_per_batch=0), 'views_per_batch'),
    (dict(reset_optimizer='round'), 'reset_optimizer'),
    (dict(adapt='prompt', prompt_grad=False), 'nothing to train'),
])
def test_wrong_options(options, match):
    """Settings that cannot work are refused at once."""
    with pytest.raises(ValueError, match=match):
        SVDP(**options)


def test_adapt_nothing_but_the_prompt():
    """A pattern without a match does not silently freeze the network."""
    with pytest.raises(ValueError, match='no parameter of the network'):
        start(svdp(adapt='transformer'))


@pytest.mark.parametrize('resize', ['bilinear', 'area'])
def test_other_resizes(resize):
    """The alternatives to the spline run."""
    method = svdp(unc_resize=resize)
    optim = start(method)
    assert not method.step(make_frame(), optim).skipped


def test_name_and_report():
    """The name says whether the prompt trains; settings are reported."""
    assert svdp().name == 'SVDP'
    assert svdp(prompt_grad=False).name != 'SVDP'
    assert svdp().extra_info()['sparse_rate'] == 0.02


def test_without_prompts_it_is_cotta():
    """Property 34: with an empty prompt SVDP equals CoTTA at its rates."""
    results = []
    for kind in (SVDP, CoTTA):
        options = dict(
            decay=0.9, restore_prob=0.01, reference_view=REFERENCE)
        if kind is SVDP:
            options.update(
                sparse_rate=0.02, prompt_std=0., prompt_grad=False)
        method = kind(**options)
        optim = start(method)
        labels = []
        for seed in range(3):
            # The dropout passes also draw: restores must start alike.
            if kind is SVDP:
                method.uncertainty = lambda view, size: torch.rand(size)
            labels.append(method.step(make_frame(seed), optim).labels)
        state = snapshot(method.model)
        state.pop(PATCH, None)
        results.append((labels, state))
    for a, b in zip(results[0][0], results[1][0]):
        assert torch.equal(a, b)
    assert same(results[0][1], results[1][1])


def test_source_is_reproduced_before_the_first_step():
    """Property 16: the first frame without prompts is the source's."""
    method = svdp(prompt_std=0.)
    optim = start(method)
    source = SourceOnly(multi_view=True, reference_view=REFERENCE)
    frame = make_frame()
    start(source)
    method.anchor = None
    labels = method.step(frame, optim).labels
    assert torch.equal(labels, source.step(frame, None).labels)
