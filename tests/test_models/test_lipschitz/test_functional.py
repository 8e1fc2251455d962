# Copyright (c) mmext contributors. All rights reserved.
"""The distance operator, on every backend that this machine has.

Properties are those of the method's acceptance list; golden numbers are
compared in tests/test_golden.
"""
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmext.models.lipschitz import cpp_build
from mmext.models.lipschitz.functional import (find_backend,
                                               inf_distance_bounds,
                                               inf_distance_bounds_conv2d,
                                               lp_distance, lp_distance_conv2d)
from mmext.utils.user_error import ConfigError

INF = math.inf
FINITE = [1., 2., 3., 8., 9.5, 100., 1000.]


@pytest.fixture(params=['reference', 'cpp'])
def backend(request) -> str:
    if request.param == 'cpp' and cpp_build.library() is None:
        pytest.skip(f'no C++ kernel here: {cpp_build.failure()}')
    return request.param


def _rand(*shape, dtype=torch.float64, seed=0, scale=1.):
    generator = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(*shape, generator=generator, dtype=dtype)
    return x.requires_grad_()


def _plain(x, w, p):
    """The definition, in one expression."""
    d = (x.unsqueeze(-2) - w).abs()
    return d.amax(-1) if math.isinf(p) else d.pow(p).sum(-1).pow(1 / p)


def _grads(y, *inputs, seed=9):
    g = torch.randn(
        y.shape, generator=torch.Generator().manual_seed(seed), dtype=y.dtype)
    return torch.autograd.grad(y, inputs, g)


@pytest.mark.stack_subset
@pytest.mark.parametrize('p', [*FINITE[:-2], INF])
@pytest.mark.parametrize('shape', [(1, 1, 1), (5, 3, 2), (37, 70, 19)])
def test_definition(backend, p, shape):
    b, ci, co = shape
    x, w = _rand(b, ci), _rand(co, ci, seed=1)
    y, expected = lp_distance(x, w, p, backend=backend), _plain(x, w, p)
    torch.testing.assert_close(y, expected, atol=1e-10, rtol=1e-10)
    for a, r in zip(_grads(y, x, w), _grads(expected, x, w)):
        torch.testing.assert_close(a, r, atol=1e-9, rtol=1e-9)


def _unfolded(x, w, p, stride, padding, dilation, groups, backend):
    """Unfold and one linear operator per group."""
    cols = F.unfold(x, w.shape[2:], dilation, padding, stride)
    parts = []
    for c, part in zip(cols.chunk(groups, 1), w.chunk(groups, 0)):
        parts.append(
            lp_distance(
                c.transpose(1, 2), part.flatten(1), p, backend=backend))
    return torch.cat(parts, -1).transpose(1, 2)


@pytest.mark.parametrize('p', [2., 8., 9.5, 100., INF])
@pytest.mark.parametrize('options', [
    dict(stride=1, padding=1, dilation=1, groups=1),
    dict(stride=(2, 1), padding=(0, 2), dilation=(1, 2), groups=2),
    dict(stride=3, padding=2, dilation=2, groups=3)
])
def test_property_1_convolution_is_unfold_and_linear(backend, p, options):
    groups = options['groups']
    x = _rand(3, 2 * groups, 9, 11)
    w = _rand(5 * groups, 2, 3, 2, seed=1)
    y = lp_distance_conv2d(x, w, p, backend=backend, **options)
    expected = _unfolded(x, w, p, backend=backend, **options).reshape(y.shape)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=1e-12)
    for a, r in zip(_grads(y, x, w), _grads(expected, x, w)):
        torch.testing.assert_close(a, r, atol=1e-10, rtol=1e-10)


def test_property_1_groups_are_a_loop(backend):
    x, w = _rand(6, 12), _rand(9, 4, seed=1)
    for p in (8., 100., INF):
        y = lp_distance(x, w, p, groups=3, backend=backend)
        parts = [
            lp_distance(a, b, p, backend=backend)
            for a, b in zip(x.chunk(3, 1), w.chunk(3, 0))
        ]
        torch.testing.assert_close(y, torch.cat(parts, 1))


@pytest.mark.parametrize('p', [2., 8., 9.5, 100.])
def test_property_2_gradients(backend, p):
    x, w = _rand(3, 5), _rand(4, 5, seed=1)
    assert torch.autograd.gradcheck(
        lambda a, b: lp_distance(a, b, p, backend=backend), (x, w))
    image, kernel = _rand(2, 2, 4, 4), _rand(4, 1, 3, 2, seed=1)
    assert torch.autograd.gradcheck(
        lambda a, b: lp_distance_conv2d(
            a, b, p, stride=2, padding=1, groups=2, backend=backend),
        (image, kernel))
    # The dual norm of the gradient is 1, and <d, grad> = y.
    y = lp_distance(x[:1], w[:1], p, backend=backend)
    grad, = torch.autograd.grad(y, x)
    q = p / (p - 1)
    assert grad[0].abs().pow(q).sum().pow(1 / q).item() == pytest.approx(
        1, abs=1e-6)
    assert ((x[0] - w[0]) @ grad[0]).item() == pytest.approx(
        y.item(), abs=1e-9)


@pytest.mark.parametrize('scale', [1e-4, 1e-2, 1., 1e2, 1e4])
@pytest.mark.parametrize('p', [*FINITE[1:], INF])
def test_property_3_no_scale_breaks_it(backend, p, scale):
    x, w = (_rand(9, 40, seed=s, scale=scale) for s in (0, 1))
    exact = lp_distance(x, w, p, backend='reference')
    grads = _grads(exact, x, w)
    a, b = (t.detach().float().requires_grad_() for t in (x, w))
    y = lp_distance(a, b, p, backend=backend)
    torch.testing.assert_close(
        y.double() / scale, exact / scale, atol=2e-5, rtol=2e-5)
    if math.isinf(p):
        return  # a near tie may fall to the other side in float32
    tolerance = 1e-3 if p == 1000 else 2e-4
    for c, r in zip(
            torch.autograd.grad(y, (a, b),
                                _upstream(y).float()), grads):
        torch.testing.assert_close(
            c.double(), r, atol=tolerance, rtol=tolerance)


def _upstream(y):
    return torch.randn(
        y.shape,
        generator=torch.Generator().manual_seed(9),
        dtype=torch.float64)


@pytest.mark.parametrize('p', [
    6.5, 8.1, 8.9, 9.7, 11., 12.2, 13.3, 15.5, 17., 23., 31.7, 45.2, 64.5, 70.,
    80.5
])
@pytest.mark.parametrize('identity', [False, True])
def test_property_1_exponents_of_a_schedule(backend, p, identity):
    """Each has a polynomial of its own in the kernel of float32."""
    x, w = _rand(21, 75), _rand(13, 75, seed=1)
    if identity:  # most cells are negligible
        with torch.no_grad():
            w[range(13), range(13)] = -10
            x[3] = w[5]
    exact = lp_distance(x, w, p, backend='reference')
    grads = _grads(exact, x, w)
    a, b = (t.detach().float().requires_grad_() for t in (x, w))
    y = lp_distance(a, b, p, backend=backend)
    torch.testing.assert_close(y.double(), exact, atol=1e-6, rtol=1e-6)
    got = torch.autograd.grad(y, (a, b), _upstream(y).float())
    for c, r in zip(got, grads):
        torch.testing.assert_close(c.double(), r, atol=4e-5, rtol=4e-5)


@pytest.mark.parametrize('p', [9.5, 40.])
def test_tiny_distances_have_finite_gradients(backend, p):
    x = torch.full((9, 20), 1e-38).requires_grad_()
    w = torch.zeros(5, 20).requires_grad_()
    y = lp_distance(x, w, p, backend=backend)
    for g in torch.autograd.grad(y, (x, w), torch.full_like(y, 1e6)):
        assert g.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('p', [*FINITE, INF])
def test_property_3_zero_difference(backend, p, dtype):
    """x equal to some weight rows: a zero gradient from them, no NaN."""
    w = _rand(3, 20, dtype=dtype, seed=1)
    x = w.detach()[:2].clone().requires_grad_()
    y = lp_distance(x, w, p, backend=backend)
    assert y[0, 0] == 0 and y[1, 1] == 0
    gx, gw = torch.autograd.grad(y[0, 0] + y[1, 1], (x, w), retain_graph=True)
    if not math.isinf(p):
        assert not gx.any() and not gw.any()
    for g in torch.autograd.grad(y.sum(), (x, w)):
        assert g.isfinite().all()


def test_property_3_exponents_below_one(backend):
    x, w = _rand(3, 4), _rand(2, 4, seed=1)
    y = lp_distance(x, w, .5, backend=backend)
    torch.testing.assert_close(y, _plain(x, w, .5))
    assert all(g.isfinite().all() for g in _grads(
        lp_distance(w[:1].detach(), w, .5, backend=backend), w))


def test_property_4_monotone_in_p(backend):
    x, w = _rand(7, 33), _rand(5, 33, seed=1)
    largest = lp_distance(x, w, INF, backend=backend)
    before = None
    for p in (1., 1.5, 2., 7., 8., 9.5, 40., 100., 1000.):
        y = lp_distance(x, w, p, backend=backend)
        assert before is None or (y <= before * (1 + 1e-12)).all()
        assert (y >= largest * (1 - 1e-12)).all()
        assert (y <= 33**(1 / p) * largest * (1 + 1e-12)).all()
        before = y


def test_property_5_ties_go_to_the_first(backend):
    x = torch.tensor([[1., 3., -3., 3.], [0., 0., 0., 0.]]).requires_grad_()
    w = torch.zeros(1, 4).requires_grad_()
    y = lp_distance(x, w, INF, backend=backend)
    assert y.tolist() == [[3.], [0.]]
    gx, gw = torch.autograd.grad(y, (x, w), torch.tensor([[2.], [5.]]))
    assert gx.tolist() == [[0, 2, 0, 0], [5, 0, 0, 0]]  # sign(0) is +1
    assert gw.tolist() == [[-5, -2, 0, 0]]
    x = torch.tensor([[0., 0., -4.]] * 40).requires_grad_()
    gx, = torch.autograd.grad(
        lp_distance(x, w[:, :3], INF, backend=backend).sum(), x)
    assert gx[:, 2].tolist() == [-1.] * 40 and gx.abs().sum() == 40


def test_property_5_all_of_the_gradient_arrives(backend):
    x, w = _rand(
        17, 83, dtype=torch.float32), _rand(
            29, 83, dtype=torch.float32, seed=1)
    y = lp_distance(x, w, INF, backend=backend)
    gx, gw = torch.autograd.grad(y[4, 7], (x, w), torch.tensor(-2.5))
    assert gx.abs().sum() == 2.5 and gw.abs().sum() == 2.5
    assert (gx[4] == -gw[7]).all() and (gx != 0).sum() == 1


def test_property_6_order_and_chunks_do_not_matter(backend, monkeypatch):
    from mmext.models.lipschitz import reference
    x, w = _rand(
        21, 3, 7, 8, dtype=torch.float32), _rand(
            6, 3, 3, 3, dtype=torch.float32, seed=1)
    for p in (8., 100., INF):
        y = lp_distance_conv2d(x, w, p, padding=1, backend=backend)
        grads = _grads(y, x, w)
        order = torch.randperm(21)
        torch.testing.assert_close(
            lp_distance_conv2d(x[order], w, p, padding=1, backend=backend),
            y[order],
            atol=1e-6,
            rtol=1e-6)
        with monkeypatch.context() as m:
            m.setitem(reference.CHUNK_BYTES, 'cpu', 4096)
            small = lp_distance_conv2d(x, w, p, padding=1, backend='reference')
            torch.testing.assert_close(small, y, atol=1e-6, rtol=1e-6)
            for a, b in zip(_grads(small, x, w), grads):
                torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


def test_threads_do_not_matter(backend):
    threads = torch.get_num_threads()
    x, w = _rand(11, 2, 9, 9), _rand(70, 2, 3, 3, seed=1)
    try:
        results = []
        for n in (1, 3):
            torch.set_num_threads(n)
            for p in (8., 9.5, INF):
                y = lp_distance_conv2d(x, w, p, padding=1, backend=backend)
                results.append((y, *_grads(y, x, w)))
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(results[:3], results[3:]):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize('p', [8., 9.5, INF])
@pytest.mark.parametrize('size, stride, padding', [(2, 3, 0), (1, 1, 1),
                                                   (3, 2, 1)])
def test_windows_of_one_pixel(backend, p, size, stride, padding):
    """1x1 windows of padded or larger images are no rows of the input."""
    x, w = _rand(3, 6, size, size), _rand(4, 3, 1, 1, seed=1)
    options = dict(stride=stride, padding=padding, groups=2)
    y = lp_distance_conv2d(x, w, p, backend=backend, **options)
    r = lp_distance_conv2d(x, w, p, backend='reference', **options)
    torch.testing.assert_close(y, r, atol=1e-9, rtol=1e-9)
    for a, b in zip(_grads(y, x, w), _grads(r, x, w)):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_backends_agree(backend, data):
    """Random shapes and options, against the reference in float64."""
    draw = data.draw
    small = st.integers(1, 3)
    groups = draw(small)
    kernel = draw(st.tuples(small, small))
    options = dict(
        stride=draw(st.tuples(small, small)),
        padding=draw(st.tuples(*[st.integers(0, 3)] * 2)),
        dilation=draw(st.tuples(small, small)),
        groups=groups)
    least = [d * (k - 1) + 1 for d, k in zip(options['dilation'], kernel)]
    size = [draw(st.integers(n, n + 20)) for n in least]
    ci, co = (groups * draw(st.integers(1, 12)) for _ in range(2))
    p = draw(st.sampled_from([2., 5., 8., 16., 9.5, 30., 64., 100., INF]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    x = _rand(draw(small), ci, *size, dtype=dtype)
    w = _rand(co, ci // groups, *kernel, dtype=dtype, seed=1)
    y = lp_distance_conv2d(x, w, p, backend=backend, **options)
    r = lp_distance_conv2d(x, w, p, backend='reference', **options)
    tolerance = 3e-5 if dtype == torch.float32 else 1e-9
    close = dict(atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(y, r, **close)
    for a, b in zip(_grads(y, x, w), _grads(r, x, w)):
        scale = max(1., b.abs().max().item())
        torch.testing.assert_close(a / scale, b / scale, **close)
    box = (x.detach() - .2, x.detach() + .1, w.detach())
    for a, b in zip(
            inf_distance_bounds_conv2d(*box, backend=backend, **options),
            inf_distance_bounds_conv2d(*box, backend='reference', **options)):
        torch.testing.assert_close(a, b, **close)


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


def test_bounds_are_the_exact_range(backend):
    """A grid over low-dimensional boxes attains both ends, and no more."""
    lower = torch.rand(6, 2, dtype=torch.float64) - .5
    upper = lower + torch.rand(6, 2, dtype=torch.float64)
    w = torch.rand(4, 2, dtype=torch.float64) - .3
    low, high = inf_distance_bounds(lower, upper, w, backend=backend)
    t = torch.linspace(0, 1, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(t, t).unsqueeze(1)
    y = _plain(lower + grid * (upper - lower), w, INF)
    assert (y >= low - 1e-12).all() and (y <= high + 1e-12).all()
    assert (y.amin(0) - low).max() < 5e-3 and (high - y.amax(0)).max() < 1e-12
    point, same = inf_distance_bounds(lower, lower, w, backend=backend)
    assert torch.equal(point, same)


def test_layouts_and_leading_axes(backend):
    x, w = _rand(4, 3, 10), _rand(10, 6, seed=1)
    y = lp_distance(x, w.t(), 8., backend=backend)
    assert y.shape == (4, 3, 6)
    torch.testing.assert_close(
        y[1, 2], lp_distance(x[1, 2], w.t(), 8., backend=backend))
    image = _rand(2, 5, 6, 3).permute(0, 3, 1, 2)
    kernel = _rand(4, 3, 3, 3, seed=1)
    torch.testing.assert_close(
        lp_distance_conv2d(image, kernel, INF, backend=backend),
        lp_distance_conv2d(image.contiguous(), kernel, INF, backend=backend))
    expanded = torch.autograd.grad(
        lp_distance(x, w.t(), 8., backend=backend).sum(), x)[0]
    assert expanded.shape == x.shape


def test_empty_batch(backend):
    w = _rand(3, 4, seed=1)
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
