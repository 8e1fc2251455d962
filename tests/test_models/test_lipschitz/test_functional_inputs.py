# Copyright (c) mmext contributors. All rights reserved.
"""What the distance operator takes and refuses: layouts, dtypes, errors."""
import math

import pytest
import torch

from mmext.models.lipschitz.functional import (find_backend,
                                               inf_distance_bounds,
                                               lp_distance, lp_distance_conv2d)
from mmext.utils.user_error import ConfigError
from .operands import rand

INF = math.inf


@pytest.mark.parametrize('name', ['x', 'weight'])
@pytest.mark.parametrize('bad', [math.nan, INF])
def test_what_is_not_finite_is_not_hidden(backend, name, bad):
    x, w = torch.randn(3, 40), torch.randn(5, 40)
    (x if name == 'x' else w)[1, 7] = bad
    for p in (8., 9.5, INF):
        y = lp_distance(x, w, p, backend=backend)
        hit = ~y.isfinite()
        assert (hit[1].all() if name == 'x' else hit[:, 1].all())
        assert hit.sum() == (5 if name == 'x' else 3)


def test_layouts_and_leading_axes(backend):
    x, w = rand(4, 3, 10), rand(10, 6, seed=1)
    y = lp_distance(x, w.t(), 8., backend=backend)
    assert y.shape == (4, 3, 6)
    torch.testing.assert_close(
        y[1, 2], lp_distance(x[1, 2], w.t(), 8., backend=backend))
    image = rand(2, 5, 6, 3).permute(0, 3, 1, 2)
    kernel = rand(4, 3, 3, 3, seed=1)
    torch.testing.assert_close(
        lp_distance_conv2d(image, kernel, INF, backend=backend),
        lp_distance_conv2d(image.contiguous(), kernel, INF, backend=backend))
    expanded = torch.autograd.grad(
        lp_distance(x, w.t(), 8., backend=backend).sum(), x)[0]
    assert expanded.shape == x.shape


def test_empty_batch(backend):
    w = rand(3, 4, seed=1)
    for p in (8., INF):
        y = lp_distance(torch.empty(0, 4).double(), w, p, backend=backend)
        assert y.shape == (0, 3)
        y.sum().backward()
        assert not w.grad.any()
    y = lp_distance_conv2d(
        torch.empty(0, 4, 8, 8), torch.randn(2, 4, 3, 3), INF)
    assert y.shape == (0, 2, 6, 6)
    assert lp_distance(torch.empty(2, 0, 4).double(), w,
                       INF).shape == (2, 0, 3)
    low, high = inf_distance_bounds(
        torch.empty(0, 4), torch.empty(0, 4), torch.randn(3, 4))
    assert low.shape == high.shape == (0, 3)


def test_only_what_is_asked_for(backend):
    x, w = torch.randn(5, 6), torch.randn(4, 6)
    for p in (8., 100., INF):
        y = lp_distance(x.clone().requires_grad_(), w, p, backend=backend)
        y.sum().backward()
        y = lp_distance(x, w.clone().requires_grad_(), p, backend=backend)
        y.sum().backward()
        assert not lp_distance(x, w, p, backend=backend).requires_grad


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_and_half_are_upcast(backend, dtype):
    x, w = torch.randn(5, 16), torch.randn(4, 16)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = lp_distance(x, w, 100., backend=backend)
    assert y.dtype == torch.float32
    assert torch.equal(y, lp_distance(x, w, 100., backend=backend))
    half = x.to(dtype).requires_grad_()
    y = lp_distance(half, w, 8., backend=backend)
    assert y.dtype == torch.float32
    y.sum().backward()
    assert half.grad.dtype == dtype


def test_memory_of_the_reference_is_bounded():
    """No tensor that it makes is larger than its chunk or its results."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    from mmext.models.lipschitz import reference
    sizes = []

    class Sizes(TorchDispatchMode):

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.untyped_storage().nbytes() for t in tree_leaves(out)
                         if isinstance(t, torch.Tensor))
            return out

    x = torch.randn(4, 32, 16, 16).requires_grad_()
    w = torch.randn(32, 32, 3, 3).requires_grad_()
    with Sizes():
        for p in (8., INF):
            lp_distance_conv2d(
                x, w, p, padding=1, backend='reference').sum().backward()
    cells = 4 * 4 * 32 * 256 * 32 * 9
    chunk = (reference._WINDOWS + 1) * reference.CHUNK_BYTES['cpu']
    assert max(sizes) <= chunk < cells / 3


@pytest.mark.parametrize('args, message', [
    (dict(p=0.), 'above 0'),
    (dict(p=torch.tensor(8.)), 'Python number'),
    (dict(groups=3), 'groups'),
    (dict(x=torch.randn(2, 5)), 'input channels'),
    (dict(x=torch.ones(2, 4, dtype=torch.int)), 'float32 or float64'),
    (dict(x=torch.randn(2, 4).double()), 'same dtype'),
    (dict(weight=torch.randn(2, 4, 1, 1)), 'lp_distance_conv2d'),
    (dict(weight=torch.randn(0, 4)), 'positive number of outputs'),
    (dict(backend='cuda'), 'expected one of'),
])
def test_bad_arguments_are_explained(args, message):
    args = dict(
        dict(x=torch.randn(2, 4), weight=torch.randn(4, 4), p=8.), **args)
    with pytest.raises(ConfigError, match=message):
        lp_distance(**args)


def test_bad_images_are_explained():
    x, w = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 5, 5)
    with pytest.raises(ConfigError, match='does not fit'):
        lp_distance_conv2d(x, w, 8.)
    with pytest.raises(ConfigError, match='stride'):
        lp_distance_conv2d(x, w, 8., stride=0, padding=2)
    with pytest.raises(ConfigError, match='alike'):
        inf_distance_bounds(
            torch.zeros(2, 4), torch.zeros(3, 4), torch.randn(2, 4))


def test_backend_is_chosen_by_the_environment(monkeypatch):
    x = torch.zeros(1)
    monkeypatch.setenv('MMEXT_LP_BACKEND', 'reference')
    assert find_backend('auto', x).__name__.endswith('reference')
    monkeypatch.setenv('MMEXT_LP_BACKEND', 'fast')
    with pytest.raises(ConfigError, match='MMEXT_LP_BACKEND'):
        find_backend('auto', x)


def test_tracing_sees_plain_operations():
    x = torch.randn(2, 3, 6, 6)
    w = torch.randn(4, 3, 3, 3)

    class Net(torch.nn.Module):

        def forward(self, x):
            return lp_distance_conv2d(x, w, INF, stride=2, padding=1)

    traced = torch.jit.trace(Net(), x)
    assert 'PythonOp' not in str(traced.graph)
    other = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(traced(other), Net()(other))
