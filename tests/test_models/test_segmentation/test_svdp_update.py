# Copyright (c) mmext contributors. All rights reserved.
"""How SVDP updates: gradient, optimizer, EMA, restore, reset."""
from copy import deepcopy

import pytest
import torch

pytest.importorskip('mmseg')

from mmext.models.prompts.functional import sparse_map  # noqa: E402
from ...toy_models import build_toy  # noqa: E402
from .common import (ORI, REFERENCE, make_frame, same, snapshot,  # noqa: E402
                     start, svdp)

PATCH = 'visual_prompt.patch'


# Update


def test_without_prompt_gradient():
    """Property 19: P_S bit-identical for ever, P_T within 1e-6."""
    method = svdp(prompt_grad=False)
    optim = start(method, lr=1e-2)
    first = method.model.visual_prompt.patch.detach().clone()
    for seed in range(4):
        result = method.step(make_frame(seed), optim)
        assert result.log['prompt_shift'] == 0
    assert torch.equal(method.model.visual_prompt.patch, first)
    teacher = method.teacher.module.visual_prompt.patch
    assert float((teacher - first).abs().max()) < 1e-6
    assert method.model.visual_prompt.patch.grad is None


def test_prompt_gradient_is_the_inputs():
    """Property 20: entry i's gradient is that of its pixel, not zero."""
    method = svdp(restore_prob=0.)
    optim = start(method)
    frame = make_frame()
    view = frame.views[REFERENCE]
    seen = {}
    check = method.check_gradients
    method.check_gradients = lambda: (seen.update(
        grad=method.model.visual_prompt.patch.grad.clone()), check())
    model, teacher = deepcopy(method.model), deepcopy(method.teacher.module)
    u = method.uncertainty(view, ORI)
    method.rng.reset()
    places = method.place(u, frame)
    result = method.step(frame, optim)
    x = method.prompted(model, view, places).detach().requires_grad_()
    logits = torch.nn.functional.interpolate(
        model.decode_head(model.extract_feat(x)), ORI, mode='bilinear')
    torch.nn.functional.cross_entropy(logits, result.labels[None]).backward()
    expected = x.grad[0].flatten(1)[:, places[view.size]].t()
    assert torch.allclose(seen['grad'][:, :, 0, 0], expected, atol=1e-7)
    assert (seen['grad'].abs().sum(1) > 0).all()
    # Placed by the teacher's uncertainty, the same for both networks.
    assert same(snapshot(teacher), method.source)


def test_prompt_without_gradient_raises(monkeypatch):
    """Property 20: the published failure is not silent."""
    for broken in (lambda p: p.detach(), lambda p: p * 0):
        method = svdp()
        optim = start(method)
        monkeypatch.setattr(
            'mmext.models.segmentation.svdp.sparse_map',
            lambda p, w, s: sparse_map(broken(p), w, s))
        with pytest.raises(RuntimeError, match='reached the prompt'):
            method.step(make_frame(), optim)
        monkeypatch.undo()


def test_modes_and_statistics():
    """Property 21: BN buffers never move; nothing is in train mode."""
    method = svdp()
    model = build_toy().train()
    optim = start(method, model, lr=1e-2)
    for net in (method.model, method.teacher.module, method.anchor):
        assert not any(m.training for m in net.modules())
    buffers = {k: v.clone() for k, v in model.named_buffers()}
    for seed in range(3):
        method.step(make_frame(seed), optim)
        for net in (method.model, method.teacher.module, method.anchor):
            assert not any(m.training for m in net.modules())
            for name, value in net.named_buffers():
                assert torch.equal(value, buffers[name])


def test_only_the_student_learns():
    """Property 22: no gradient in teacher and anchor; none left over."""
    method = svdp()
    optim = start(method)
    result = method.step(make_frame(), optim)
    for net in (method.teacher.module, method.anchor):
        for param in net.parameters():
            assert not param.requires_grad and param.grad is None
    assert all(p.grad is None or not p.grad.any()
               for p in method.model.parameters())
    assert not result.labels.requires_grad
    assert same(snapshot(method.anchor), method.source)


def test_parameter_groups():
    """Property 23: the declared groups and rates, every parameter once."""
    method = svdp()
    optim = start(method, lr=3e-4, prompt_lr=1e-2)
    rates, members = {}, []
    for group in optim.optimizer.param_groups:
        members += group['params']
        for param in group['params']:
            rates[id(param)] = group['lr']
        assert group['weight_decay'] == 0
        assert tuple(group['betas']) == (0.9, 0.999)
    params = dict(method.model.named_parameters())
    assert len(members) == len(params) == len(rates)
    for name, param in params.items():
        expected = 1e-2 if name == PATCH else 3e-4
        assert rates[id(param)] == pytest.approx(expected), name


def test_rates_reach_what_they_are_for():
    """Property 23: a prompt rate alone moves the prompt alone."""
    method = svdp(restore_prob=0.)
    optim = start(method, lr=0., prompt_lr=1e-2)
    before = snapshot(method.model)
    result = method.step(make_frame(), optim)
    after = snapshot(method.model)
    assert result.log['prompt_shift'] == pytest.approx(1e-2, rel=1e-2)
    for name in before:
        assert torch.equal(before[name], after[name]) is (name != PATCH)


def test_adapt_prompt_only():
    """``adapt='prompt'`` freezes the network."""
    method = svdp(adapt='prompt')
    optim = start(method)
    before = snapshot(method.model)
    method.step(make_frame(), optim)
    after = snapshot(method.model)
    assert [k for k in before if not torch.equal(before[k], after[k])
            ] == [PATCH]


# EMA, DPU, restore


def test_decay_of_the_prompt():
    """Property 25: alpha_P in the log is ema - scale * mean(U)."""
    for options, scale in ((dict(), 0.5), (dict(dpu_scale=0.), 0.),
                           (dict(dpu=False), 0.)):
        method = svdp(restore_prob=0., **options)
        optim = start(method)
        before = method.teacher.module.visual_prompt.patch.clone()
        log = method.step(make_frame(), optim).log
        expected = 0.9 - scale * log['uncertainty']
        assert log['alpha_prompt'] == pytest.approx(expected)
        student = method.model.visual_prompt.patch.detach()
        mean = expected * before + (1 - expected) * student
        assert torch.allclose(method.teacher.module.visual_prompt.patch,
                              mean, atol=1e-6)
        # Property 26: and the network with the plain decay, no copy.
        name = 'decode_head.conv_seg.weight'
        now = method.teacher.module.state_dict()[name]
        mean = 0.9 * method.source[name] + \
            0.1 * method.model.state_dict()[name]
        assert torch.allclose(now, mean, atol=1e-6)


def test_restore_comes_last():
    """Property 27: after step and EMA; teacher and prompt untouched."""
    method = svdp(restore_prob=1.)
    optim = start(method)
    method.step(make_frame(), optim)
    student = snapshot(method.model)
    assert [k for k in student
            if not torch.equal(student[k], method.source[k])] == [PATCH]
    teacher = snapshot(method.teacher.module)
    moved = [k for k in teacher
             if not torch.equal(teacher[k], method.source[k])]
    assert 'decode_head.conv_seg.weight' in moved and PATCH in moved


def test_restore_keeps_the_moments():
    """Property 27: Adam's moments survive the restore."""
    method = svdp(restore_prob=1.)
    optim = start(method)
    method.step(make_frame(), optim)
    state = optim.optimizer.state[method.model.decode_head.conv_seg.weight]
    assert state['exp_avg'].abs().sum() > 0


def test_reset_optimizer_is_fresh_adam():
    """Property 29: 'domain' differs from 'never' by the state alone."""
    runs = {}
    for reset in (False, True):
        method = svdp()
        optim = start(method)
        for seed in range(2):
            method.step(make_frame(seed), optim)
        if reset:
            before = snapshot(method.model)
            method.reset_optimizer_state(optim)
            assert same(before, snapshot(method.model))
            assert not optim.optimizer.state
        groups = [g['lr'] for g in optim.optimizer.param_groups]
        result = method.step(make_frame(2), optim)
        runs[reset] = result, snapshot(method.model), groups
    assert torch.equal(runs[False][0].labels, runs[True][0].labels)
    assert runs[False][0].log['loss'] == runs[True][0].log['loss']
    assert runs[False][2] == runs[True][2]
    assert not same(runs[False][1], runs[True][1])


def test_reset_returns_to_the_start():
    """Property 31: after a reset a run repeats itself bit for bit."""
    method = svdp()
    optim = start(method)
    first = [method.step(make_frame(s), optim).labels for s in range(2)]
    state = snapshot(method.model), snapshot(method.teacher.module)
    method.reset(optim)
    assert same(snapshot(method.model), method.source)
    assert same(snapshot(method.teacher.module), method.source)
    again = [method.step(make_frame(s), optim).labels for s in range(2)]
    assert all(map(torch.equal, first, again))
    assert same(state[0], snapshot(method.model))
    assert same(state[1], snapshot(method.teacher.module))


def test_equal_seeds():
    """Property 38: two runs are bit-equal; the global state is unused."""
    states = []
    for run in range(2):
        method = svdp()
        optim = start(method)
        torch.manual_seed(run)
        for seed in range(2):
            method.step(make_frame(seed), optim)
        states.append(snapshot(method.model))
    assert same(*states)
