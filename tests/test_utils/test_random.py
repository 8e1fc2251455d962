# Copyright (c) mmext contributors. All rights reserved.
"""The methods' own random numbers."""
import math
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmext.utils.random import RandomSource

CPU = torch.device('cpu')


def draw(rng, numel=5000, p=0.05):
    return rng.bernoulli_indices('weight', numel, p, CPU)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3000), st.floats(0, 1), st.integers(0, 999))
def test_indices_are_valid(numel, p, seed):
    """Ascending, distinct, within the range, for any size and p."""
    index = draw(RandomSource(seed), numel, p)
    assert index.dtype == torch.long
    assert index.unique().numel() == index.numel() <= numel
    if index.numel():
        assert 0 <= index.min() and index.max() < numel
        assert torch.equal(index, index.sort().values)


@pytest.mark.parametrize('p', [0.001, 0.01, 0.2, 0.7])
def test_number_of_indices(p):
    """Property 27: the number chosen is binomial in mean and variance."""
    rng, numel, draws = RandomSource(0), 2000, 600
    counts = torch.tensor([
        float(draw(rng, numel, p).numel()) for _ in range(draws)
    ])
    variance = numel * p * (1 - p)
    assert abs(float(counts.mean()) - numel * p) < \
        6 * math.sqrt(variance / draws)
    # The standard error of a sample variance is about var * sqrt(2 / n).
    assert 0.6 < float(counts.var()) / variance < 1.5


def test_every_index_is_equally_likely():
    """Property 27: the first and last values too, and independently."""
    rng, numel, p, draws = RandomSource(2), 50, 0.1, 8000
    hits = torch.zeros(draws, numel)
    for i in range(draws):
        hits[i, draw(rng, numel, p)] = 1
    bound = 6 * math.sqrt(p * (1 - p) / draws)
    assert (hits.mean(0) - p).abs().max() < bound
    both = (hits[:, :-1] * hits[:, 1:]).mean(0)
    assert (both - p * p).abs().max() < \
        6 * math.sqrt(p * p * (1 - p * p) / draws)


def test_certain_and_impossible():
    """p = 0 chooses nothing, p = 1 everything; neither draws."""
    rng = RandomSource(0)
    assert draw(rng, 10, 0.).numel() == 0
    assert draw(rng, 10, 1.).tolist() == list(range(10))
    assert rng.state_dict()['generators'] == {}


def test_replay():
    """Property 38: the same seed gives the same numbers, in order."""
    first, second = RandomSource(4), RandomSource(4)
    for _ in range(3):
        assert torch.equal(draw(first), draw(second))
        like = torch.zeros(1)
        assert torch.equal(
            first.keep_mask((3, 4), 0.5, like),
            second.keep_mask((3, 4), 0.5, like))
    assert not torch.equal(draw(first), draw(RandomSource(5)))
    first.reset()
    assert torch.equal(draw(first), draw(RandomSource(4)))


def test_state():
    """Property 37: a restored source continues where it was saved."""
    rng = RandomSource(4)
    draw(rng)
    state = rng.state_dict()
    expected = [draw(rng), draw(rng)]
    other = RandomSource(99)
    other.load_state_dict(state)
    assert other.seed == 4
    for index in expected:
        assert torch.equal(draw(other), index)
    # A state saved before the first draw restores to just that.
    other.load_state_dict(RandomSource(4).state_dict())
    assert torch.equal(draw(other), draw(RandomSource(4)))


def test_state_survives_a_checkpoint(tmp_path):
    """Property 37: the state passes through a weights-only load."""
    rng = RandomSource(1)
    draw(rng)
    torch.save(rng.state_dict(), tmp_path / 'state.pth')
    other = RandomSource()
    other.load_state_dict(
        torch.load(tmp_path / 'state.pth', weights_only=True))
    assert torch.equal(draw(rng), draw(other))


def test_state_of_a_device_that_is_missing():
    """A run that is resumed without its GPU is told what differs."""
    rng = RandomSource(4)
    draw(rng)
    state = rng.state_dict()
    state['generators']['cuda:99'] = state['generators']['cpu']
    other = RandomSource()
    with patch('mmext.utils.random.print_log') as told:
        other.load_state_dict(state)
    assert 'cuda:99' in told.call_args.args[0]
    assert torch.equal(draw(rng), draw(other))
    assert list(other.state_dict()['generators']) == ['cpu']


@pytest.mark.parametrize('p', [0., 0.05, 0.5, 1.])
def test_mask(p):
    """Property 27: so many in the mean, the same for the same seed."""
    first, second = (
        RandomSource(7).bernoulli_mask('w', (200, 300), p, CPU)
        for _ in range(2))
    assert first.dtype == torch.bool and torch.equal(first, second)
    assert abs(int(first.sum()) - 60000 * p) <= \
        6 * math.sqrt(60000 * p * (1 - p))


def test_global_generator_is_left_alone():
    """Nothing is drawn from torch's own generator."""
    state = torch.get_rng_state()
    rng = RandomSource(0)
    draw(rng)
    rng.keep_mask((5, ), 0.5, torch.zeros(1))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.gpu
def test_indices_on_a_gpu():
    """The same law on a GPU, with a generator of its own."""
    rng = RandomSource(0)
    index = rng.bernoulli_indices('w', 10**6, 0.01, torch.device('cuda:0'))
    assert index.is_cuda and index.unique().numel() == index.numel()
    assert abs(index.numel() - 10**4) < 6 * math.sqrt(9900)


@pytest.mark.parametrize('keep', [0.5, 0.3])
def test_keep_mask_values_are_independent(keep):
    """Property 2: also where one draw serves many values."""
    mask = RandomSource(0).keep_mask((4000, 31), keep, torch.zeros(1))
    assert set(mask.unique().tolist()) == {0., 1.}
    bound = 6 * math.sqrt(keep * (1 - keep) / 4000)
    assert (mask.mean(0) - keep).abs().max() < bound
    centred = (mask - keep) / math.sqrt(keep * (1 - keep))
    correlation = centred.t() @ centred / 4000 - torch.eye(31)
    assert correlation.abs().max() < 6 / math.sqrt(4000)
