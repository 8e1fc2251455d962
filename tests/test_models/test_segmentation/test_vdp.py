# Copyright (c) mmext contributors. All rights reserved.
"""The VDP-like dense prompt."""
import pytest
import torch

pytest.importorskip('mmseg')

from mmext.models.segmentation import VDP, SourceOnly  # noqa: E402
from .common import (BASE, REFERENCE, make_frame, same, snapshot,  # noqa: E402
                     start)

MAPS = ['visual_prompt.agnostic', 'visual_prompt.specific']


def vdp(**kwargs):
    return VDP(**dict(dict(decay=0.9, reference_view=REFERENCE), **kwargs))


def test_network_is_frozen():
    """Only the two maps move, in the student and in the teacher."""
    method = vdp()
    optim = start(method)
    assert method.model.visual_prompt.specific.shape == (3, *BASE)
    for seed in range(2):
        method.step(make_frame(seed), optim)
    for net in (method.model, method.teacher.module):
        now = snapshot(net)
        moved = sorted(
            k for k in now if not torch.equal(now[k], method.source[k]))
        assert moved == MAPS
        assert not any(m.training for m in net.modules())


def test_starts_from_the_source():
    """With start values of zero the first labels are the source's."""
    frame = make_frame()
    method = vdp(anchor_threshold=None)
    optim = start(method)
    source = SourceOnly(multi_view=True, reference_view=REFERENCE)
    start(source)
    assert torch.equal(
        method.step(frame, optim).labels,
        source.step(frame, None).labels)


def test_agnostic_map_is_damped():
    """Its gradient is scaled by 1 / (1 + |g| / mean |g|)."""
    method = vdp()
    optim = start(method)
    seen = {}
    check = method.check_gradients

    def watch():
        prompt = method.model.visual_prompt
        seen['before'] = prompt.agnostic.grad.clone()
        check()
        seen['after'] = prompt.agnostic.grad.clone()
        seen['specific'] = prompt.specific.grad.clone()

    method.check_gradients = watch
    method.step(make_frame(), optim)
    g = seen['before']
    expected = g / (1 + g.abs() / g.abs().mean())
    assert torch.allclose(seen['after'], expected)
    assert torch.allclose(seen['specific'], g)


def test_teacher_prompt_is_an_average():
    """Property 26: EMA from the first step."""
    method = vdp()
    optim = start(method)
    method.step(make_frame(), optim)
    for name in MAPS:
        student = method.model.state_dict()[name]
        teacher = method.teacher.module.state_dict()[name]
        assert student.abs().max() > 0
        assert torch.allclose(teacher, 0.1 * student, atol=1e-8)


def test_no_gradient():
    """A prompt that no gradient reaches is an error, not a crash."""
    method = vdp()
    start(method)
    with pytest.raises(RuntimeError, match='reached the prompt'):
        method.check_gradients()


def test_reset():
    """Property 31: a reset returns to the plain image."""
    method = vdp()
    optim = start(method)
    first = method.step(make_frame(), optim).labels
    method.reset(optim)
    assert same(snapshot(method.model), method.source)
    assert torch.equal(method.step(make_frame(), optim).labels, first)
