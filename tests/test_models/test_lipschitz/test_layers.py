# Copyright (c) mmext contributors. All rights reserved.
"""Mean shift, distance layers, SortNet neurons and their intervals."""
import copy
import itertools
import math
import multiprocessing
import os
import pickle
import socket

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmext.models.lipschitz.bounds import (BoundAdaptiveAvgPool2d,
                                           BoundAvgPool2d, BoundConstantPad2d,
                                           BoundFlatten, BoundMaxPool2d,
                                           Bounds, BoundTanh,
                                           CertificationError, Negate)
from mmext.models.lipschitz.boxes import eps_box
from mmext.models.lipschitz.layers import (LpDistConv2d, LpDistLinear,
                                           MeanShift, ScaledLinear)
from mmext.models.lipschitz.p_norm import (distance_modules, get_p, p_norm,
                                           set_p)
from mmext.models.lipschitz.sort_layers import (SortDistConv2d, SortDistLinear,
                                                sorted_distance)


def box(shape, eps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator, dtype=torch.float64)
    radius = eps * torch.rand(*shape, generator=generator).double()
    return Bounds(x, x - radius, x + radius)


def inside(bounds, count, seed=0):
    """Random points and corners of a box of one sample."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, *bounds.lower.shape[1:])
    t = torch.rand(shape, generator=generator, dtype=torch.float64)
    points = bounds.lower + t * (bounds.upper - bounds.lower)
    corners = torch.where(t < 0.5, bounds.lower, bounds.upper)
    return torch.cat([points, corners])


def layers():
    torch.manual_seed(3)
    return dict(
        linear=(LpDistLinear(12, 9), (12, )),
        grouped=(LpDistLinear(12, 9, groups=3, bias=True), (12, )),
        conv=(LpDistConv2d(2, 4, 3, stride=2, padding=1), (2, 6, 5)),
        dilated=(LpDistConv2d(4, 6, 2, dilation=2, groups=2,
                              bias=True), (4, 5, 5)),
        sort=(SortDistLinear(12, 9, rho=0.6, groups=3), (12, )),
        sort_conv=(SortDistConv2d(2, 4, 3, padding=1, rho=0.5), (2, 5, 4)),
        scaled=(ScaledLinear(12, 9), (12, )),
        tanh=(BoundTanh(), (12, )),
        negate=(Negate(), (12, )),
        flatten=(BoundFlatten(), (2, 3, 3)),
        pool=(BoundMaxPool2d(2), (2, 5, 4)),
        mean=(BoundAvgPool2d(2, 1), (2, 5, 4)),
        plane=(BoundAdaptiveAvgPool2d(1), (2, 5, 4)),
        pad=(BoundConstantPad2d((1, 2, 0, 1), -0.5), (2, 4, 4)))


def ready(name):
    """A layer in evaluation, float64, with a running mean that matters."""
    layer, shape = layers()[name]
    layer = layer.double()
    if getattr(layer, 'mean_shift', None) is not None:
        layer.mean_shift.running_mean.normal_(2, 1)
    if getattr(layer, 'bias', None) is not None:
        torch.nn.init.normal_(layer.bias)
    return layer.eval(), shape


@pytest.mark.stack_subset
@pytest.mark.parametrize('shape,dim', [((6, 5), -1), ((4, 5, 3, 2), 1),
                                       ((3, 4, 5), -1)])
def test_property_7_mean_shift_follows_its_equations(shape, dim):
    shift = MeanShift(5, channel_dim=dim).double()
    running = torch.zeros(5, dtype=torch.float64)
    for step in range(3):
        y = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        dims = [d for d in range(y.dim()) if d != dim % y.dim()]
        mean = y.detach().mean(dims)
        running = 0.9 * running + 0.1 * mean
        out = shift(y)
        view = [1] * y.dim()
        view[dim] = 5
        assert torch.allclose(out, y - mean.view(view))
        assert torch.allclose(shift.running_mean, running)
        # The mean is differentiated: gradients lose theirs.
        up = torch.randn(*shape, dtype=torch.float64)
        grad, = torch.autograd.grad(out, y, up)
        assert torch.allclose(grad, up - up.mean(dims).view(view))
    shift.eval()
    a, b = (torch.randn(*shape, dtype=torch.float64) for _ in range(2))
    assert torch.allclose(shift(a) - a, -running.view(view).expand(shape))
    assert torch.allclose(shift(a) - a, shift(b) - b)
    assert torch.equal(shift.running_mean, shift.running_mean.detach())


def test_property_7_mean_shift_against_recorded_batches(recorded_arrays):
    arrays = recorded_arrays('lipschitz', 'mean_shift.npz')
    for kind in ('fc', 'conv'):
        x = arrays[f'{kind}_x'].double()
        shift = MeanShift(
            x.shape[2], momentum=float(arrays['momentum'])).double()
        for t in range(len(arrays[f'{kind}_train_y'])):
            y = shift(x[t])
            assert torch.allclose(y, arrays[f'{kind}_train_y'][t], atol=1e-9)
            assert torch.allclose(
                shift.running_mean,
                arrays[f'{kind}_running_mean'][t],
                atol=1e-9)
        assert torch.allclose(
            shift.eval()(x[-1]), arrays[f'{kind}_eval_y'], atol=1e-9)


def test_mean_shift_of_an_empty_batch_changes_nothing():
    shift = MeanShift(3)
    shift.running_mean.fill_(2.)
    assert shift(torch.empty(0, 3)).shape == (0, 3)
    assert torch.equal(shift.running_mean, torch.full((3, ), 2.))
    layer = LpDistConv2d(1, 2, 3)
    assert layer(torch.empty(0, 1, 5, 5)).shape == (0, 2, 3, 3)
    layer = SortDistLinear(4, 3)
    assert layer(torch.empty(0, 4)).shape == (0, 3)
    assert layer.eval()(torch.empty(0, 4)).shape == (0, 3)


def shifted(rank, address, x, up, file):
    """What a rank with its part of the batch gets."""
    torch.distributed.init_process_group(
        'gloo', init_method=address, rank=rank, world_size=2)
    mine = slice(0, 2) if rank == 0 else slice(2, 5)
    part = x[mine].clone().requires_grad_()
    shift = MeanShift(3, sync=True).double()
    out = shift(part)
    (out * up[mine]).sum().backward()
    torch.save((out.detach(), part.grad, shift.running_mean), file)
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(
    not torch.distributed.is_available() or torch.cuda.is_initialized()
    or not hasattr(os, 'fork'),
    reason='needs processes that fork')
def test_property_7_synchronised_mean_equals_one_process(tmp_path):
    """Ranks with 2 and 3 samples: the mean of all 5, and its gradient."""
    torch.manual_seed(0)
    x = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    up = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        address = f'tcp://127.0.0.1:{s.getsockname()[1]}'
    context = multiprocessing.get_context('fork')
    files = [tmp_path / f'{rank}.pth' for rank in range(2)]
    ranks = [
        context.Process(target=shifted, args=(r, address, x, up, files[r]))
        for r in range(2)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
        assert rank.exitcode == 0
    x.requires_grad_()
    shift = MeanShift(3, sync=True).double()  # one process: no group
    out = shift(x)
    (out * up).sum().backward()
    parts = [torch.load(file) for file in files]
    assert torch.allclose(torch.cat([p[0] for p in parts]), out)
    assert torch.allclose(torch.cat([p[1] for p in parts]), x.grad)
    for part in parts:
        assert torch.allclose(part[2], shift.running_mean)


@pytest.mark.parametrize('name', list(layers()))
def test_property_8_interval_contains_the_image_of_the_box(name):
    layer, shape = ready(name)
    value = box((1, *shape), 0.7)
    out = layer(value)
    assert torch.allclose(out.x, layer(value.x))
    images = layer(inside(value, 1000))
    assert (images >= out.lower - 1e-12).all()
    assert (images <= out.upper + 1e-12).all()
    # And nothing else is known of a point: a box without width.
    point = layer(Bounds(None, value.x, value.x))
    assert point.x is None
    assert torch.allclose(point.lower, layer(value.x), atol=1e-12)
    assert torch.allclose(point.upper, layer(value.x), atol=1e-12)


@pytest.mark.parametrize('name', ['linear', 'sort'])
def test_property_8_interval_of_a_layer_is_its_exact_range(name):
    """Extremes lie at ends of the sides and where a side meets the weight."""
    torch.manual_seed(1)
    layer = dict(
        linear=LpDistLinear(4, 5, mean_shift=False, identity=None),
        sort=SortDistLinear(
            4, 5, rho=0.6, truncate=3, mean_shift=False,
            identity=None))[name].double().eval()
    value = box((1, 4), 1.5, seed=4)
    with torch.no_grad():
        out = layer(value)
    low, high = value.lower[0], value.upper[0]
    for o, row in enumerate(layer.weight.detach()):
        sides = [[low[i], high[i]] +
                 ([row[i]] if low[i] < row[i] < high[i] else [])
                 for i in range(4)]
        grid = torch.tensor(
            [list(point) for point in itertools.product(*sides)])
        values = layer(grid.double())[:, o].detach()
        assert float(values.min()) == pytest.approx(float(out.lower[0, o]))
        assert float(values.max()) == pytest.approx(float(out.upper[0, o]))
    meets = (layer.weight > low) & (layer.weight < high)
    assert meets.any(), 'the box should reach some weights'


@pytest.mark.parametrize('name', ['linear', 'conv', 'sort', 'sort_conv'])
def test_property_17_finite_p_train_mode_and_autocast_raise(name):
    layer, shape = ready(name)
    value = box((2, *shape), 0.1)
    with p_norm(layer, 8.), pytest.raises(
            CertificationError, match='p = 8.*p_norm'):
        layer(value)
    with pytest.raises(CertificationError, match='model.eval'):
        layer.train()(value)
    layer.eval()
    with torch.autocast(
            'cpu', dtype=torch.bfloat16), pytest.raises(
                CertificationError, match='autocast'):
        layer(value)
    with pytest.raises(CertificationError, match='float32 or float64'):
        layer(value.to(torch.float16))
    with pytest.raises(CertificationError, match='MeanShift.*training'):
        MeanShift(3)(box((2, 3), 0.1))
    layer(value)


def test_p_is_a_plain_float_that_no_state_holds():
    net = torch.nn.Sequential(LpDistLinear(4, 4), LpDistLinear(4, 2, p=8))
    assert [m.p for m in distance_modules(net)] == [math.inf, 8.]
    with pytest.raises(ValueError, match='8, inf'):
        get_p(net)
    set_p(net, np.float64(9.5))
    assert get_p(net) == 9.5 and type(net[0].p) is float
    with pytest.raises(ZeroDivisionError):
        with p_norm(net, math.inf):
            net[1].p = 3
            raise ZeroDivisionError
    assert get_p(net) == 9.5
    assert not any('p' in key.split('.') for key in net.state_dict())
    assert get_p(copy.deepcopy(net)) == 9.5
    assert get_p(pickle.loads(pickle.dumps(net))) == 9.5
    assert get_p(net.half()) == 9.5
    for wrong in (0, -1, math.nan, 'eight', None, torch.tensor(8.)):
        with pytest.raises(ValueError, match='p is expected to be'):
            set_p(net, wrong)
    with pytest.raises(ValueError, match='no distance layer'):
        get_p(torch.nn.Dropout(p=0.5))


def test_identity_entries_make_a_layer_start_as_a_copy():
    layer = LpDistLinear(6, 9, mean_shift=False)
    rows = torch.arange(9)
    assert (layer.weight[rows, rows % 6] == -10).all()
    x = torch.randn(5, 6)
    assert torch.allclose(layer(x), x[:, rows % 6] + 10, atol=1e-5)
    conv = LpDistConv2d(2, 4, 3, groups=2, padding=1, mean_shift=False)
    assert (conv.weight[[0, 1, 2, 3], 0, 1, 1] == -10).all()
    assert (LpDistLinear(6, 5).weight != -10).all()
    assert (LpDistLinear(6, 9, identity=None).weight != -10).all()
    layer = LpDistLinear(6, 9, bias=True)
    assert not layer.bias.any() and not layer.mean_shift.running_mean.any()


@pytest.mark.parametrize('sizes', [(5, 4, 2), (4, 5, 2), (0, 4, 1), (4, 4, 0)])
def test_wrong_groups_are_refused(sizes):
    inputs, outputs, groups = sizes
    with pytest.raises(ValueError, match='groups that divide'):
        LpDistLinear(inputs, outputs, groups=groups)


@pytest.mark.parametrize('kwargs', [
    dict(stride=2, padding=1),
    dict(dilation=2, padding=2, groups=2),
])
def test_sort_convolution_with_rho_one_is_the_convolution(kwargs):
    torch.manual_seed(2)
    sort = SortDistConv2d(2, 4, 3, rho=1., **kwargs).double()
    plain = LpDistConv2d(2, 4, 3, **kwargs).double()
    plain.load_state_dict(sort.state_dict())
    x = torch.randn(3, 2, 7, 6, dtype=torch.float64)
    for p in (8., math.inf):
        with p_norm(sort, p), p_norm(plain, p):
            assert torch.allclose(sort(x), plain(x))
    sort.eval(), plain.eval()
    assert torch.allclose(sort(x), plain(x), atol=1e-6)
    mine, his = sort(eps_box(x, 0.2)), plain(eps_box(x, 0.2))
    assert torch.allclose(mine.lower, his.lower)
    assert torch.allclose(mine.upper, his.upper)


def test_sort_layer_trains_on_shared_random_subsets():
    """Its mean over subsets at p = inf is the sorted distance; samples of
    one sub-batch see one subset."""
    torch.manual_seed(0)
    layer = SortDistLinear(
        8, 3, rho=0.6, truncate=8, sub_batch=2, mean_shift=False).double()
    x = torch.randn(1, 8, dtype=torch.float64).repeat(3000, 1)
    out = layer(x)
    assert torch.equal(out[0::2], out[1::2])
    assert (out[0::2] != out[0]).any()
    # 1,500 draws: the mean lies within 4 standard errors.
    error = (out.mean(0) - layer.eval()(x[:1])[0]).abs()
    assert (error < 4 * out.std(0) / 1500**0.5 + 0.6**8).all()
    layer.train().zero_grad()
    layer(x[:4]).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rho=st.floats(0.05, 1.),
    truncate=st.integers(1, 9),
    groups=st.sampled_from([1, 2]))
def test_sorted_distance_is_an_average_of_order_statistics(
        seed, rho, truncate, groups):
    generator = torch.Generator().manual_seed(seed)
    x, step = torch.randn(
        2, 3, 6, generator=generator, dtype=torch.float64).unbind(0)
    w = torch.randn(4, 6 // groups, generator=generator, dtype=torch.float64)
    y = sorted_distance(x, w, rho, truncate, groups)
    d = (x.view(3, groups, 1, -1) -
         w.view(1, groups, -1, 6 // groups)).abs().flatten(1, 2)
    d = d.sort(descending=True).values[..., :truncate]
    c = rho * (1 - rho)**torch.arange(d.shape[-1]).double()
    assert torch.allclose(y, (d * c).sum(-1) / c.sum())
    # 1-Lipschitz, and never above the largest difference.
    moved = sorted_distance(x + step, w, rho, truncate, groups)
    reach = step.abs().amax(1, keepdim=True)
    assert ((moved - y).abs() <= reach + 1e-12).all()
    assert (y <= d[..., 0] + 1e-12).all()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    eps=st.floats(0., 3.),
    more=st.floats(0., 2.),
    name=st.sampled_from(['linear', 'grouped', 'conv', 'sort', 'scaled']))
def test_intervals_are_ordered_nested_and_not_wider(seed, eps, more, name):
    layer, shape = ready(name)
    x = torch.randn(
        2,
        *shape,
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64)
    inner, outer = layer(eps_box(x, eps)), layer(eps_box(x, eps + more))
    assert (inner.lower <= inner.x + 1e-12).all()
    assert (inner.x <= inner.upper + 1e-12).all()
    assert (outer.lower <= inner.lower + 1e-12).all()
    assert (inner.upper <= outer.upper + 1e-12).all()
    if name != 'scaled':
        assert (inner.upper - inner.lower <= 2 * eps + 1e-12).all()
