# Copyright (c) mmext contributors. All rights reserved.
"""Uncertainty from dropout passes."""
import pytest
import torch
import torch.nn as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from mmext.models.uncertainty import (classifier_input, mc_dropout_passes,
                                      uncertainty_map, variance_over)
from mmext.utils.random import RandomSource


class Head(nn.Module):
    """Convolution, dropout, classifier; counts what runs."""

    def __init__(self, dropout=True, after=False) -> None:
        super().__init__()
        self.fuse = nn.Conv2d(4, 6, 3, padding=1)
        self.dropout = nn.Dropout2d(0.1) if dropout else None
        self.conv_seg = nn.Conv2d(6, 5, 1)
        self.after = after
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        x = self.fuse(x).relu()
        if self.dropout is not None:
            x = self.dropout(x)
        x = self.conv_seg(x)
        return x * 2 if self.after else x


def outputs(head, x, passes=10, p=0.5, seed=0):
    return list(
        mc_dropout_passes(head, lambda: head(x), passes, p,
                          RandomSource(seed)))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(2, 7), st.integers(0, 99))
def test_bounds(passes, classes, seed):
    """Property 2: 0 <= U <= 1 - 1/C."""
    generator = torch.Generator().manual_seed(seed)
    logits = 9 * torch.randn(passes, classes, 5, 6, generator=generator)
    u = uncertainty_map(logits.softmax(1))
    assert u.shape == (5, 6)
    assert u.min() >= 0
    assert u.max() <= 1 - 1 / classes + 1e-6


def test_upper_bound_is_reached():
    """Property 2: each class once with certainty gives 1 - 1/C."""
    maps = torch.eye(4)[:, :, None, None].expand(4, 4, 2, 3)
    assert torch.allclose(uncertainty_map(maps), torch.tensor(0.75))


def test_identical_passes():
    """Property 2: no spread, no uncertainty, exactly."""
    p = torch.rand(5, 4, 6).softmax(0)
    assert (uncertainty_map([p] * 10) == 0).all()


def test_pass_order():
    """Property 2: the order of the passes does not matter."""
    maps = torch.rand(10, 5, 4, 6).softmax(1)
    u = uncertainty_map(maps)
    for _ in range(3):
        other = uncertainty_map(maps[torch.randperm(10)])
        assert torch.allclose(u, other, atol=1e-7)


def test_population_variance():
    """Property 1: divided by the number of passes."""
    maps = torch.rand(10, 5, 4, 6, dtype=torch.float64)
    mean, variance = variance_over(iter(maps))
    assert torch.allclose(mean, maps.mean(0))
    assert torch.allclose(variance, maps.var(0, unbiased=False))
    with pytest.raises(ValueError, match='at least one map'):
        variance_over([])


@pytest.mark.parametrize('dropout', [True, False])
@pytest.mark.parametrize('after', [True, False])
def test_passes_equal_an_element_wise_dropout(dropout, after):
    """Property 1: masks of p = 0.5 before the classifier, scaled by 2."""
    torch.manual_seed(0)
    head = Head(dropout, after).eval()
    x = torch.randn(1, 4, 6, 7)
    rng = RandomSource(3)
    expected = []
    with torch.no_grad():
        feature = head.fuse(x).relu()
        for _ in range(4):
            mask = rng.keep_mask(feature.shape, 0.5, feature)
            out = head.conv_seg(feature * mask * 2)
            expected.append(out * 2 if after else out)
    for got, wanted in zip(outputs(head, x, 4, seed=3), expected):
        assert torch.allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize('after', [True, False])
def test_head_is_left_as_it_was(after):
    """Property 4: type, rate and mode of the dropout; and no hook stays."""
    head = Head(after=after).eval()
    before = [(type(m), m.training) for m in head.modules()]
    x = torch.randn(1, 4, 6, 7)
    plain = head(x)
    assert len({float(o.sum()) for o in outputs(head, x)}) > 1
    assert [(type(m), m.training) for m in head.modules()] == before
    assert type(head.dropout) is nn.Dropout2d and head.dropout.p == 0.1
    assert not any(m._forward_hooks or m._forward_pre_hooks
                   for m in head.modules())
    assert torch.equal(head(x), plain)


def test_hooks_go_when_a_pass_fails():
    """Property 4: also when the consumer stops or the head fails."""
    head = Head(after=True).eval()
    x = torch.randn(1, 4, 6, 7)
    passes = mc_dropout_passes(head, lambda: head(x), 10, 0.5,
                               RandomSource(0))
    next(passes)
    passes.close()
    with pytest.raises(RuntimeError):
        outputs(head, torch.randn(1, 3, 6, 7))
    assert not any(m._forward_hooks or m._forward_pre_hooks
                   for m in head.modules())


def test_what_precedes_the_classifier_runs_once():
    """Property 3: one run of the head serves all passes."""
    head = Head().eval()
    outputs(head, torch.randn(1, 4, 6, 7))
    assert head.calls == 1


def test_draws_are_its_own():
    """Masks come from the method's generator, not from torch's."""
    head = Head().eval()
    x = torch.randn(1, 4, 6, 7)
    state = torch.get_rng_state()
    first = outputs(head, x, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    for a, b in zip(first, outputs(head, x, seed=1)):
        assert torch.equal(a, b)
    assert not torch.equal(first[0], outputs(head, x, seed=2)[0])
    assert not first[0].requires_grad


def test_share_of_dropped_values():
    """Each value is dropped on its own, with the given probability."""
    mask = RandomSource(0).keep_mask((1, 64, 50, 50), 0.5, torch.zeros(1))
    # Six standard deviations of a binomial with 160000 draws.
    assert abs(float(mask.mean()) - 0.5) < 6 * 0.5 / 400
    assert set(mask.unique().tolist()) == {0., 1.}
    per_channel = mask.flatten(2).mean(-1)
    assert per_channel.min() > 0.4 and per_channel.max() < 0.6


@pytest.mark.parametrize('p', [-0.1, 1.])
def test_drop_probability(p):
    """Dropping everything, or a negative share, is refused."""
    head = Head().eval()
    with pytest.raises(ValueError, match='drop probability'):
        outputs(head, torch.randn(1, 4, 6, 7), p=p)


def test_classifier_of_a_head_without_layers():
    """A head that runs no layer says so."""
    with pytest.raises(ValueError, match='no classifier'):
        classifier_input(nn.ReLU(), lambda: None)
