# Copyright (c) mmext contributors. All rights reserved.
"""Stochastic restore and the confidence gate."""
import math

import pytest
import torch
import torch.nn as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from mmext.models.teachers import (anchor_gate, source_anchor,
                                   stochastic_restore)
from mmext.utils.random import RandomSource


class Model(nn.Module):
    """Parameters with unusual names, and a prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2)
        self.norm = nn.LayerNorm(8)
        self.token = nn.Parameter(torch.randn(1, 5, 8))
        self.visual_prompt = nn.Linear(3, 3)
        self.conv = nn.Conv2d(4, 16, 3).to(
            memory_format=torch.channels_last)


def is_prompt(name):
    return name.startswith('visual_prompt.')


@pytest.fixture(params=['cpu', 'masks'])
def way(request, monkeypatch):
    """Both ways to draw; a GPU takes masks."""
    if request.param == 'masks':
        monkeypatch.setattr(source_anchor, '_wants_masks', lambda device: True)


def moved_model():
    torch.manual_seed(0)
    model = Model()
    source = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        for param in model.parameters():
            param.add_(1.)
    return model, source


@pytest.mark.parametrize('p', [0.01, 0.3])
def test_share_of_restored_scalars(p, way):
    """Property 27: within binomial bounds over many draws."""
    model, source = moved_model()
    rng = RandomSource(1)
    total = sum(v.numel() for k, v in model.named_parameters()
                if not is_prompt(k))
    count, draws = 0, 200
    for _ in range(draws):
        count += stochastic_restore(model, source, p, rng, is_prompt)
    expected = p * total * draws
    assert abs(count - expected) < 6 * math.sqrt(expected * (1 - p))


def test_every_parameter_is_eligible(way):
    """Property 27: ``in_proj_*`` and the like too; the prompt never."""
    model, source = moved_model()
    stochastic_restore(model, source, 0.5, RandomSource(0), is_prompt)
    for name, value in model.named_parameters():
        back = value == source[name]
        if is_prompt(name):
            assert not back.any(), name
        else:
            assert back.any() and not back.all(), name
            # What was not restored kept its value.
            assert torch.equal(value[~back], (source[name] + 1)[~back])


def test_certain_and_impossible_restore(way):
    """Property 27: p = 1 gives the source exactly, p = 0 nothing."""
    model, source = moved_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert stochastic_restore(model, source, 0., RandomSource(0)) == 0
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    stochastic_restore(model, source, 1., RandomSource(0), is_prompt)
    for name, value in model.named_parameters():
        expected = before[name] if is_prompt(name) else source[name]
        assert torch.equal(value, expected), name


def test_deterministic_mode(way):
    """``randomness=dict(deterministic=True)`` changes nothing."""
    restored = []
    for wanted in (False, True):
        model, source = moved_model()
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(wanted)
        try:
            count = stochastic_restore(model, source, 0.3, RandomSource(0))
        finally:
            torch.use_deterministic_algorithms(before)
        assert isinstance(count, int) and count
        restored.append(model.state_dict())
        for name, value in model.named_parameters():
            assert value.stride() == source[name].stride(), name
    for name, value in restored[0].items():
        assert torch.equal(value, restored[1][name]), name


@pytest.mark.gpu
def test_restore_on_a_gpu():
    """The same law there, also in the deterministic mode."""
    model, source = moved_model()
    model.cuda()
    total = sum(v.numel() for v in model.parameters())
    torch.use_deterministic_algorithms(True)
    try:
        count = stochastic_restore(model, source, 0.3, RandomSource(0))
    finally:
        torch.use_deterministic_algorithms(False)
    assert abs(count - 0.3 * total) < 6 * math.sqrt(total * 0.21)
    back = sum(
        int((value.cpu() == source[name]).sum())
        for name, value in model.named_parameters())
    assert back == count


@pytest.mark.parametrize('p', [-0.1, 1.1])
def test_not_a_probability(p):
    """A restore probability outside [0, 1] is refused."""
    model, source = moved_model()
    with pytest.raises(ValueError, match='restore_prob'):
        stochastic_restore(model, source, p, RandomSource(0))


@settings(max_examples=20, deadline=None)
@given(st.floats(-0.5, 1.5), st.integers(0, 99))
def test_gate(threshold, seed):
    """Property 14: above the bound one view, else the average."""
    generator = torch.Generator().manual_seed(seed)
    single, average = (
        torch.randint(0, 5, (6, 7), generator=generator) for _ in range(2))
    confidence = torch.rand(6, 7, generator=generator)
    labels = anchor_gate(single, average, confidence, threshold)
    sure = confidence > threshold
    assert torch.equal(labels[sure], single[sure])
    assert torch.equal(labels[~sure], average[~sure])
    if threshold >= 1:
        assert torch.equal(labels, average)
    if threshold < 0:
        assert torch.equal(labels, single)
    assert anchor_gate(single, average, confidence, None) is average
