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

from mmext.models.lipschitz.functional import (inf_distance_bounds,
                                               inf_distance_bounds_conv2d,
                                               lp_distance, lp_distance_conv2d)
from .operands import gradients, plain, rand

INF = math.inf
FINITE = [1., 2., 3., 8., 9.5, 100., 1000.]


@pytest.mark.stack_subset
@pytest.mark.parametrize('p', [*FINITE[:-2], INF])
@pytest.mark.parametrize('shape', [(1, 1, 1), (5, 3, 2), (37, 70, 19)])
def test_definition(backend, p, shape):
    b, ci, co = shape
    x, w = rand(b, ci), rand(co, ci, seed=1)
    y, expected = lp_distance(x, w, p, backend=backend), plain(x, w, p)
    torch.testing.assert_close(y, expected, atol=1e-10, rtol=1e-10)
    for a, r in zip(gradients(y, x, w), gradients(expected, x, w)):
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
    x = rand(3, 2 * groups, 9, 11)
    w = rand(5 * groups, 2, 3, 2, seed=1)
    y = lp_distance_conv2d(x, w, p, backend=backend, **options)
    expected = _unfolded(x, w, p, backend=backend, **options).reshape(y.shape)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=1e-12)
    for a, r in zip(gradients(y, x, w), gradients(expected, x, w)):
        torch.testing.assert_close(a, r, atol=1e-10, rtol=1e-10)


def test_property_1_groups_are_a_loop(backend):
    x, w = rand(6, 12), rand(9, 4, seed=1)
    for p in (8., 100., INF):
        y = lp_distance(x, w, p, groups=3, backend=backend)
        parts = [
            lp_distance(a, b, p, backend=backend)
            for a, b in zip(x.chunk(3, 1), w.chunk(3, 0))
        ]
        torch.testing.assert_close(y, torch.cat(parts, 1))


@pytest.mark.parametrize('p', [2., 8., 9.5, 100.])
def test_property_2_gradients(backend, p):
    x, w = rand(3, 5), rand(4, 5, seed=1)
    assert torch.autograd.gradcheck(
        lambda a, b: lp_distance(a, b, p, backend=backend), (x, w))
    image, kernel = rand(2, 2, 4, 4), rand(4, 1, 3, 2, seed=1)
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


@pytest.mark.parametrize('scale', [1e-4, 1e-2, 1., 1e2, 1e4, 1e30])
@pytest.mark.parametrize('p', [*FINITE[1:], 33.3, 64., INF])
def test_property_3_no_scale_breaks_it(backend, p, scale):
    x, w = (rand(9, 40, seed=s, scale=scale) for s in (0, 1))
    exact = lp_distance(x, w, p, backend='reference')
    grads = gradients(exact, x, w)
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
    x, w = rand(21, 75), rand(13, 75, seed=1)
    if identity:  # most cells are negligible
        with torch.no_grad():
            w[range(13), range(13)] = -10
            x[3] = w[5]
    exact = lp_distance(x, w, p, backend='reference')
    grads = gradients(exact, x, w)
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
    w = rand(3, 20, dtype=dtype, seed=1)
    x = w.detach()[:2].clone().requires_grad_()
    y = lp_distance(x, w, p, backend=backend)
    assert y[0, 0] == 0 and y[1, 1] == 0
    gx, gw = torch.autograd.grad(y[0, 0] + y[1, 1], (x, w), retain_graph=True)
    if not math.isinf(p):
        assert not gx.any() and not gw.any()
    for g in torch.autograd.grad(y.sum(), (x, w)):
        assert g.isfinite().all()


def test_property_3_exponents_below_one(backend):
    x, w = rand(3, 4), rand(2, 4, seed=1)
    y = lp_distance(x, w, .5, backend=backend)
    torch.testing.assert_close(y, plain(x, w, .5))
    assert all(g.isfinite().all() for g in gradients(
        lp_distance(w[:1].detach(), w, .5, backend=backend), w))


def test_property_4_monotone_in_p(backend):
    x, w = rand(7, 33), rand(5, 33, seed=1)
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
    x, w = rand(
        17, 83, dtype=torch.float32), rand(
            29, 83, dtype=torch.float32, seed=1)
    y = lp_distance(x, w, INF, backend=backend)
    gx, gw = torch.autograd.grad(y[4, 7], (x, w), torch.tensor(-2.5))
    assert gx.abs().sum() == 2.5 and gw.abs().sum() == 2.5
    assert (gx[4] == -gw[7]).all() and (gx != 0).sum() == 1


def test_property_6_order_and_chunks_do_not_matter(backend, monkeypatch):
    from mmext.models.lipschitz import reference
    x, w = rand(
        21, 3, 7, 8, dtype=torch.float32), rand(
            6, 3, 3, 3, dtype=torch.float32, seed=1)
    for p in (8., 100., INF):
        y = lp_distance_conv2d(x, w, p, padding=1, backend=backend)
        grads = gradients(y, x, w)
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
            for a, b in zip(gradients(small, x, w), grads):
                torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


def test_threads_do_not_matter(backend):
    threads = torch.get_num_threads()
    x, w = rand(11, 2, 9, 9), rand(70, 2, 3, 3, seed=1)
    try:
        results = []
        for n in (1, 3):
            torch.set_num_threads(n)
            for p in (8., 9.5, INF):
                y = lp_distance_conv2d(x, w, p, padding=1, backend=backend)
                results.append((y, *gradients(y, x, w)))
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(results[:3], results[3:]):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize('p', [8., 15., 16., 40.5])
def test_property_6_what_was_there_before_does_not_matter(backend, p):
    """Powers of other images overflow, in the memory that a thread uses
    anew."""
    threads = torch.get_num_threads()
    linear = rand(97, 64, dtype=torch.float32).detach()
    linear[:96] *= 1e5
    images = rand(9, 3, 4, 4, dtype=torch.float32).detach()
    images[:8] *= 1e5
    w = rand(96, 64, dtype=torch.float32, seed=1)
    kernel = rand(64, 3, 3, 3, dtype=torch.float32, seed=1)
    close = 0 if backend == 'cpp' else 1e-6
    try:
        torch.set_num_threads(1)
        for operator, x, weight in ((lp_distance, linear, w),
                                    (lp_distance_conv2d, images, kernel)):
            y = operator(x, weight, p, backend=backend)[-1:]
            alone = operator(x[-1:].clone(), weight, p, backend=backend)
            torch.testing.assert_close(y, alone, atol=close, rtol=close)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize('p', [8., 9.5, INF])
@pytest.mark.parametrize('size, stride, padding', [(2, 3, 0), (1, 1, 1),
                                                   (3, 2, 1)])
def test_windows_of_one_pixel(backend, p, size, stride, padding):
    """1x1 windows of padded or larger images are no rows of the input."""
    x, w = rand(3, 6, size, size), rand(4, 3, 1, 1, seed=1)
    options = dict(stride=stride, padding=padding, groups=2)
    y = lp_distance_conv2d(x, w, p, backend=backend, **options)
    r = lp_distance_conv2d(x, w, p, backend='reference', **options)
    torch.testing.assert_close(y, r, atol=1e-9, rtol=1e-9)
    for a, b in zip(gradients(y, x, w), gradients(r, x, w)):
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
    x = rand(draw(small), ci, *size, dtype=dtype)
    w = rand(co, ci // groups, *kernel, dtype=dtype, seed=1)
    y = lp_distance_conv2d(x, w, p, backend=backend, **options)
    r = lp_distance_conv2d(x, w, p, backend='reference', **options)
    tolerance = 3e-5 if dtype == torch.float32 else 1e-9
    close = dict(atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(y, r, **close)
    for a, b in zip(gradients(y, x, w), gradients(r, x, w)):
        scale = max(1., b.abs().max().item())
        torch.testing.assert_close(a / scale, b / scale, **close)
    box = (x.detach() - .2, x.detach() + .1, w.detach())
    for a, b in zip(
            inf_distance_bounds_conv2d(*box, backend=backend, **options),
            inf_distance_bounds_conv2d(*box, backend='reference', **options)):
        torch.testing.assert_close(a, b, **close)


def test_bounds_are_the_exact_range(backend):
    """A grid over low-dimensional boxes attains both ends, and no more."""
    lower = torch.rand(6, 2, dtype=torch.float64) - .5
    upper = lower + torch.rand(6, 2, dtype=torch.float64)
    w = torch.rand(4, 2, dtype=torch.float64) - .3
    low, high = inf_distance_bounds(lower, upper, w, backend=backend)
    t = torch.linspace(0, 1, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(t, t).unsqueeze(1)
    y = plain(lower + grid * (upper - lower), w, INF)
    assert (y >= low - 1e-12).all() and (y <= high + 1e-12).all()
    assert (y.amin(0) - low).max() < 5e-3 and (high - y.amax(0)).max() < 1e-12
    point, same = inf_distance_bounds(lower, lower, w, backend=backend)
    assert torch.equal(point, same)
