# Copyright (c) mmext contributors. All rights reserved.
"""Resize, placement, sparse map and the prompt's decay."""
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom

from mmext.models.prompts import functional
from mmext.models.prompts.functional import (SplineResizer, num_prompts,
                                             place_prompts, prompt_decay,
                                             resize_map, sparse_map)

SIDE = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(SIDE, SIDE, SIDE, SIDE, st.integers(0, 99))
def test_resize_is_scipy_zoom(h, w, new_h, new_w, seed):
    """Property 6: the spline is SciPy's, for sizes up, down and odd."""
    data = np.random.default_rng(seed).random((h, w)).astype(np.float32)
    expected = data if (h, w) == (new_h, new_w) else zoom(
        data, (new_h / h, new_w / w), order=3)
    if expected.shape != (new_h, new_w):
        return  # SciPy rounded the zoom factor to another size
    got = SplineResizer(torch.from_numpy(data))((new_h, new_w))
    assert got.shape == (new_h, new_w)
    assert np.abs(got.numpy() - expected).max() < 1e-5


@pytest.mark.parametrize('mode', ['spline', 'bilinear', 'area'])
def test_resize_modes_keep_constants(mode):
    """All ways of resizing leave a constant map constant."""
    constant = torch.full((12, 20), 0.25)
    for size in ((7, 9), (24, 41), (12, 20)):
        resized = resize_map(constant, size, mode)
        assert resized.shape == size
        inner = resized[:-1, :-1]  # SciPy may blank the last row or column
        assert torch.allclose(inner, inner.new_tensor(0.25), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1),
       st.integers(0, 999), st.booleans())
def test_placement_takes_the_largest(h, w, share, seed, ties):
    """Properties 7, 8, 11: K distinct pixels, none left out that is larger."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(h, w, generator=generator)
    if ties:
        u = (u * 4).round() / 4
    count = max(1, int(share * h * w))
    where = place_prompts(u, count)
    flat = u.flatten()
    assert where.numel() == where.unique().numel() == count
    chosen = torch.zeros(h * w, dtype=torch.bool)
    chosen[where] = True
    if count < h * w:
        assert flat[chosen].min() >= flat[~chosen].max()
    # A stable order: by value, then by flat index.
    expected = sorted(
        range(h * w), key=lambda i: (float(flat[i]), i))[-count:]
    assert where.tolist() == expected


def test_placement_with_more_entries_than_pixels():
    """Property 11: K beyond the view's pixels uses all of them."""
    u = torch.rand(3, 4)
    where = place_prompts(u, 100)
    assert where.numel() == 12
    prompt = torch.arange(20.).view(20, 1, 1, 1) + 1
    placed = sparse_map(prompt, where, (3, 4))
    # The last, most uncertain entries are the ones that stay.
    assert placed.flatten()[where].tolist() == list(range(9, 21))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 24), st.integers(2, 24), st.floats(0.01, 1),
       st.integers(0, 99))
def test_sparse_map(h, w, rate, seed):
    """Properties 7, 8: exactly K pixels, entry i at the i-th smallest."""
    count = max(1, int(rate * h * w))
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(h, w, generator=generator)
    prompt = torch.rand(count, 3, 1, 1, generator=generator) + 1
    where = place_prompts(u, count)
    placed = sparse_map(prompt, where, (h, w))
    assert int((placed.abs().sum(0) > 0).sum()) == count
    assert torch.equal(placed.flatten(1)[:, where].t(), prompt[:, :, 0, 0])
    values = u.flatten()[where]
    assert (values[1:] >= values[:-1]).all()
    assert int(where[-1]) == int(u.flatten().argmax())


def test_sparse_map_is_differentiable():
    """Property 20: the gradient of entry i is that of its pixel."""
    prompt = torch.randn(5, 3, 1, 1, requires_grad=True)
    where = place_prompts(torch.rand(6, 7), 5)
    weight = torch.randn(3, 6, 7)
    (sparse_map(prompt, where, (6, 7)) * weight).sum().backward()
    assert torch.equal(prompt.grad[:, :, 0, 0],
                       weight.flatten(1)[:, where].t())


def test_mirrored_map():
    """Property 9: the map of a mirrored view is the mirror of the map."""
    u = torch.rand(6, 9)
    prompt = torch.randn(8, 3, 1, 1)
    plain = sparse_map(prompt, place_prompts(u, 8), (6, 9))
    mirrored_u = sparse_map(prompt, place_prompts(u.flip(-1), 8), (6, 9))
    assert torch.equal(plain.flip(-1), mirrored_u)


def test_whole_map_equals_windows():
    """Property 10: adding first and cutting later is the same."""
    u = torch.rand(20, 30)
    x = torch.randn(3, 20, 30)
    m = sparse_map(torch.randn(40, 3, 1, 1), place_prompts(u, 40), (20, 30))
    for top, left in ((0, 0), (5, 12), (8, 18)):
        window = (slice(None), slice(top, top + 12), slice(left, left + 12))
        assert torch.equal((x + m)[window], x[window] + m[window])


def test_no_copies_in_a_loop():
    """Property 11: K = 129600 in one go, and no loop over entries."""
    u = torch.rand(540, 960)
    prompt = torch.randn(129600, 3, 1, 1)
    placed = sparse_map(prompt, place_prompts(u, 129600), (540, 960))
    assert int((placed[0] != 0).sum()) > 129000
    for function in (place_prompts, sparse_map):
        source = inspect.getsource(function)
        for word in ('for ', 'while ', '.item()', '.cpu()', '.tolist()'):
            assert word not in source.split('"""')[2]


def test_number_of_prompts():
    """Property 12: K = floor(h * w * rate); 518 and 51 for ACDC."""
    assert num_prompts((540, 960), 1e-3) == 518
    assert num_prompts((540, 960), 1e-4) == 51
    assert num_prompts((540, 960), 0.25) == 129600
    assert num_prompts((10, 10), 0.07) == 7
    assert num_prompts((10, 10), 1.) == 100


@pytest.mark.parametrize('rate', [0., -1., 1.5])
def test_rate_outside_its_range(rate):
    """A rate outside (0, 1] is refused."""
    with pytest.raises(ValueError, match=r'expected in \(0, 1\]'):
        num_prompts((10, 10), rate)


def test_rate_without_entries():
    """A rate that leaves no entry says which one would."""
    with pytest.raises(ValueError, match='use at least 0.01'):
        num_prompts((10, 10), 1e-3)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.9, 1), st.floats(0, 0.95), st.floats(1e-3, 0.04),
       st.floats(1e-2, 0.9))
def test_prompt_decay(decay, mean, step, scale):
    """Property 25: falls strictly with the mean of U, within [0, 1]."""
    low = prompt_decay(decay, mean, scale)
    high = prompt_decay(decay, mean + step, scale)
    assert 0 <= high <= low <= 1
    if high > 0:
        assert high < low
    assert prompt_decay(decay, mean, 0.) == decay
    assert prompt_decay(decay, 0., scale) == decay


def test_prompt_decay_clamp():
    """Property 25: the clamp; without it the value is as published."""
    assert prompt_decay(0.5, 0.9, 10.) == 0.
    assert prompt_decay(0.5, 0.9, 10., clamp=False) == pytest.approx(-8.5)
    assert prompt_decay(0.5, 0.9, -10.) == 1.


def test_uses_no_host():
    """The equations import neither mmseg nor mmpretrain."""
    source = inspect.getsource(functional)
    assert 'mmseg' not in source and 'mmpretrain' not in source
