# Copyright (c) mmext contributors. All rights reserved.
"""Checks of the recorded operator and of single layers."""
import itertools
import math
from typing import Callable

import torch
from torch import Tensor

from mmext.models.lipschitz.bounds import Bounds
from mmext.models.lipschitz.functional import (inf_distance_bounds,
                                               inf_distance_bounds_conv2d,
                                               lp_distance, lp_distance_conv2d)
from mmext.models.lipschitz.layers import LpDistConv2d, MeanShift
from mmext.models.lipschitz.p_norm import set_p
from mmext.models.lipschitz.sort_layers import SortDistLinear, sorted_distance
from .lipschitz_runs import F32, PLAIN, Run, check
from .recorded import Recorded, number


def gradients(function: Callable, x: Tensor, w: Tensor, gy: Tensor):
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = function(x, w)
    return (y.detach(), *torch.autograd.grad((y * gy).sum(), (x, w)))


def loose(p: float) -> float:
    """The exponent amplifies the rounding of float32 by p: 2e-4 at 1000."""
    return 2e-7 * p if 100 < p < math.inf else 0.


def compare(data: Recorded, function: Callable, prefix: str, p: str, x, w,
            gy) -> None:
    y, gx, gw = gradients(lambda a, b: function(a, b, number(p)), x, w, gy)
    rtol = loose(number(p)) if data.dtype == F32 else 0.
    data.close(y, f'{prefix}y_p{p}', rtol)
    data.close(gx, f'{prefix}gx_p{p}', rtol)
    data.close(gw, f'{prefix}gw_p{p}', rtol)


@check('dist_linear')
def linear_values(data: Recorded, run: Run) -> None:
    """Properties 1, 3: forward and gradients, also far from 1."""
    x, w, gy = data['x'], data['w'], data['gy']
    listed = {float(p) for p in data.raw('p_list')}
    found = [p for _, p in data.match(r'y_p(.+)')]
    assert {number(p) for p in found} == listed
    for p in found:
        compare(data, lp_distance, '', p, x, w, gy)
    for _, scale, p in data.match(r'(tiny|huge)_y_p(.+)'):
        factor = data.number(f'{scale}_scale')
        compare(data, lp_distance, f'{scale}_', p, x * factor, w * factor, gy)


@check('dist_linear')
def linear_groups(data: Recorded, run: Run) -> None:
    """Property 1: groups, as a layer on positions and as a 1x1 convolution."""
    groups = int(data.number('g_groups'))

    def positions(x, w, p):
        y = lp_distance(x.transpose(1, 2), w, p, groups=groups)
        return y.transpose(1, 2)

    def image(x, w, p):
        return lp_distance_conv2d(
            x[..., None], w[:, :, None, None], p, groups=groups)[..., 0]

    for _, p in data.match(r'g_y_p(.+)'):
        for function in (positions, image):
            compare(data, function, 'g_', p, data['g_x'], data['g_w'],
                    data['g_gy'])


@check('dist_linear')
def ties(data: Recorded, run: Run) -> None:
    """Property 5: first index, sign(0) = +1.

    The even split of ``torch.amax`` is the mean of our gradient over which
    of the tied coordinates comes first; of no difference it is 0.
    """
    x, w, gy = data['tie_x'], data['tie_w'], data['tie_gy']

    def at_inf(a, b):
        return lp_distance(a, b, math.inf)

    y, gx, gw = gradients(at_inf, x, w, gy)
    data.close(y, 'tie_y')
    data.close(gx, 'tie_gx_first')
    data.close(gw, 'tie_gw_first')
    even_x, even_w = torch.zeros_like(gx), torch.zeros_like(gw)
    for b, o in itertools.product(range(len(x)), range(len(w))):
        share = torch.zeros_like(x[b])
        for i in range(x.shape[1]):
            order = [i] + [j for j in range(x.shape[1]) if j != i]
            part = gradients(at_inf, x[b:b + 1, order], w[o:o + 1, order],
                             gy[b:b + 1, o:o + 1])[1]
            assert float(part.abs().sum()) == abs(float(gy[b, o]))
            share[i] = part[0, 0] if y[b, o] > 0 else 0.
        share = share / max(1, int((share != 0).sum()))
        even_x[b] += share
        even_w[o] -= share
    data.close(even_x, 'tie_gx_even')
    data.close(even_w, 'tie_gw_even')


@check('dist_linear')
def linear_intervals(data: Recorded, run: Run) -> None:
    lower, upper = inf_distance_bounds(data['iv_lower'], data['iv_upper'],
                                       data['w'])
    data.close(lower, 'iv_out_lower')
    data.close(upper, 'iv_out_upper')


@check('dist_conv')
def convolutions(data: Recorded, run: Run) -> None:
    """Property 1: values, gradients and intervals of convolutions."""
    for key, i in data.match(r'c(\d+)_cfg'):
        cin, cout, k, stride, padding, groups = data.raw(key).tolist()
        x, w = data[f'c{i}_x'], data[f'c{i}_weight']
        geometry = dict(stride=stride, padding=padding, groups=groups)
        layer = LpDistConv2d(
            cin, cout, k, mean_shift=False, identity=None,
            **geometry).to(w)
        layer.load_state_dict(dict(weight=w))
        for _, p in data.match(rf'c{i}_y_p(.+)'):
            compare(
                data, lambda a, b, q: lp_distance_conv2d(a, b, q, **geometry),
                f'c{i}_', p, x, w, data[f'c{i}_gy'])
            set_p(layer, number(p))
            data.close(layer(x), f'c{i}_y_p{p}')
        eps = data.number(f'c{i}_iv_eps')
        set_p(layer.eval(), math.inf)
        box = layer(Bounds(x, x - eps, x + eps))
        ends = inf_distance_bounds_conv2d(x - eps, x + eps, w, **geometry)
        for lower, upper in (ends, box[1:]):
            data.close(lower, f'c{i}_iv_lower')
            data.close(upper, f'c{i}_iv_upper')
        if f'c{i}_y_pinf' in data:
            data.close(box.x, f'c{i}_y_pinf')


# mean_shift, sortnet_neuron --------------------------------------------------


@check('mean_shift', PLAIN)
def mean_shifts(data: Recorded, run: Run) -> None:
    """Property 7: trajectories, evaluation, gradient."""
    momentum = data.number('momentum')
    for key, kind in data.match(r'(fc|conv)_x'):
        batches = data[key]
        layer = MeanShift(batches.shape[2], momentum).to(batches)
        steps = len(data.raw(f'{kind}_train_y'))
        outputs, means = [], []
        for x in batches[:steps]:
            outputs.append(layer(x))
            means.append(layer.running_mean.clone())
        data.close(torch.stack(outputs), f'{kind}_train_y')
        data.close(torch.stack(means), f'{kind}_running_mean')
        y = layer.eval()(batches[steps])
        data.close(y, f'{kind}_eval_y')
        box = layer(Bounds(None, batches[steps] - 1, batches[steps] + 1))
        data.close(box.lower + 1, f'{kind}_eval_y')
        data.close(box.upper - 1, f'{kind}_eval_y')
        if f'{kind}_gy' in data:
            x = batches[0].clone().requires_grad_()
            layer = MeanShift(batches.shape[2], momentum).to(batches)
            (layer(x) * data[f'{kind}_gy']).sum().backward()
            data.close(x.grad, f'{kind}_gx')


@check('sortnet_neuron', PLAIN)
def sortnet(data: Recorded, run: Run) -> None:
    x, w = data['x'], data['w']
    truncate = int(data.number('truncate'))
    for _, q in data.match(r'y_q(.+)'):
        layer = SortDistLinear(
            w.shape[1], w.shape[0], rho=number(q), truncate=truncate,
            mean_shift=False).to(w).eval()
        layer.load_state_dict(dict(weight=w))
        data.close(layer(x), f'y_q{q}')
        data.close(sorted_distance(x, w, number(q), truncate), f'y_q{q}')
        box = layer(Bounds(None, data['lower'], data['upper']))
        data.close(box.lower, f'lo_q{q}')
        data.close(box.upper, f'hi_q{q}')
