# Copyright (c) mmext contributors. All rights reserved.
"""Property 25: AdamW-lp and Madam against recorded numbers."""
import math
import re

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmext.engine.optimizers import AdamWLp, Madam
from mmext.engine.optimizers.adamw_lp import lp_decay
from mmext.models.lipschitz.layers import LpDistLinear
from mmext.utils.io import safe_load

NAMES = ('dist_weight', 'dist_bias', 'linear_weight', 'linear_bias')


@pytest.fixture(scope='module')
def golden(recorded_arrays):
    return recorded_arrays('lipschitz', 'optim.npz')


def start(golden, dtype):
    return {
        name: nn.Parameter(golden[f'{name}0'].to(dtype).clone())
        for name in NAMES
    }


def grad_of(golden, name, t, like):
    return golden[f'grad_{name}'][t].to(like.dtype)


def compare(found, wanted, before, dtype):
    """After minus before, no looser than a tenth of what should happen."""
    moved = wanted.double() - before.double()
    stated = 1e-9 if dtype == torch.float64 else 2e-5
    atol = min(stated, 0.1 * float(moved.abs().max())) or stated
    torch.testing.assert_close(
        found.detach().double() - before.double(), moved, rtol=0, atol=atol)


def exponents(golden, prefix):
    found = {
        re.fullmatch(prefix + r'_p(inf|[0-9_]+)_dist_weight', key)
        for key in golden
    } - {None}
    assert found
    return [(m.group(1), float(m.group(1).replace('_', '.'))) for m in found]


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
def test_property_25_adamw_lp(golden, dtype):
    for name, p in exponents(golden, 'adamw'):
        parameters = start(golden, dtype)
        optimizer = AdamWLp([
            dict(params=[parameters['dist_weight']], p_norm=p),
            dict(params=[parameters[n] for n in NAMES[1:]])
        ],
                            lr=float(golden['lr']),
                            betas=(float(golden['beta1']),
                                   float(golden['beta2'])),
                            eps=float(golden['eps']),
                            weight_decay=float(golden['wd']))
        for t in range(len(golden['grad_dist_bias'])):
            for key, value in parameters.items():
                value.grad = grad_of(golden, key, t, value)
            optimizer.step()
            for key, value in parameters.items():
                compare(value, golden[f'adamw_p{name}_{key}'][t],
                        golden[f'{key}0'], dtype)
        # the settings survive the trick with the plain groups
        assert all(g['weight_decay'] == float(golden['wd'])
                   for g in optimizer.param_groups)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
def test_property_25_decay_alone(golden, dtype):
    for name, p in exponents(golden, 'decay_only'):
        parameters = start(golden, dtype)
        optimizer = AdamWLp([
            dict(params=[parameters['dist_weight']], p_norm=p),
            dict(params=[parameters['dist_bias']])
        ],
                            lr=float(golden['decay_only_lr']),
                            weight_decay=float(golden['decay_only_wd']))
        for value in parameters.values():
            value.grad = torch.zeros_like(value)
        optimizer.step()
        for key in ('dist_weight', 'dist_bias'):
            compare(parameters[key], golden[f'decay_only_p{name}_{key}'],
                    golden[f'{key}0'], dtype)


@pytest.mark.parametrize('p', [2., 3.5, 8., 100., math.inf])
def test_property_25_decay_is_a_gradient(p):
    """Of half the squared l_p norm of each row, by differences."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 2, 2, generator=generator, dtype=torch.float64)

    def half_squared(w):
        return 0.5 * torch.linalg.vector_norm(
            w.flatten(1), ord=p, dim=1).square().sum()

    numerical = torch.zeros_like(weight)
    for i in range(weight.numel()):
        step = torch.zeros(weight.numel(), dtype=torch.float64)
        step[i] = 1e-6
        step = step.view_as(weight)
        numerical.view(-1)[i] = (half_squared(weight + step) -
                                 half_squared(weight - step)) / 2e-6
    torch.testing.assert_close(
        lp_decay(weight, p, eps=0.), numerical, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('scale', [1e-4, 1e4])
@pytest.mark.parametrize('p', [8., 1000.])
def test_decay_of_extreme_weights(p, scale):
    weight = torch.tensor([[1., -10., 0.], [0., 0., 0.]]) * scale
    out = lp_decay(weight, p)
    assert out.isfinite().all() and (out[1] == 0).all()
    assert out[0, 1] == pytest.approx(-10 * scale, rel=1e-3)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
def test_property_25_madam(golden, dtype):
    parameters = start(golden, dtype)
    if golden['madam_linear_bias0_is_zero']:
        parameters['linear_bias'].data.zero_()
    begin = {key: value.detach().clone() for key, value in parameters.items()}
    optimizer = Madam(
        parameters.values(),
        lr=float(golden['madam_lr']),
        p_scale=float(golden['madam_p_scale']),
        g_bound=float(golden['madam_g_bound']),
        zero_init='frozen')
    for t in range(len(golden['grad_dist_bias'])):
        for key, value in parameters.items():
            value.grad = grad_of(golden, key, t, value)
        optimizer.step()
        for key, value in parameters.items():
            compare(value, golden[f'madam_{key}'][t], begin[key], dtype)
    for key in ('dist_weight', 'linear_bias'):
        assert float(optimizer.state[parameters[key]]['max']) == \
            pytest.approx(float(golden[f'madam_max_{key}']), rel=1e-5)


def test_madam_trains_what_starts_at_zero():
    bias, weight = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
    optimizer = Madam([bias, weight], lr=0.01, adam_lr=0.1)
    (bias.sum() + weight.sum()).backward()
    optimizer.step()
    torch.testing.assert_close(bias.detach(), torch.full((2, ), -0.1))
    torch.testing.assert_close(weight.detach(),
                               torch.full((2, ), math.exp(-0.01)))
    optimizer.param_groups[0]['lr'] = 0.
    optimizer.step()
    torch.testing.assert_close(bias.detach(), torch.full((2, ), -0.1))


class Net(nn.Module):

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            LpDistLinear(4, 6, p=8.), LpDistLinear(6, 5, p=8., bias=True))
        self.head = nn.Linear(5, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def build(**paramwise):
    return build_optim_wrapper(
        Net(),
        dict(
            type='OptimWrapper',
            constructor='mmext.LpOptimWrapperConstructor',
            optimizer=dict(type='mmext.AdamWLp', lr=0.02, weight_decay=5e-3),
            **(dict(paramwise_cfg=paramwise) if paramwise else {})))


@pytest.mark.stack_subset
def test_constructor_groups():
    """Distance weights follow p, everything else decays plainly."""
    wrapper = build()
    groups = wrapper.optimizer.param_groups
    assert [g['p_norm'] for g in groups] == [8., None]
    assert [len(g['params']) for g in groups] == [2, 3]
    assert all(p.requires_grad for g in groups for p in g['params'])


def test_constructor_lists_a_shared_parameter_once():
    net = Net()
    net.again = net.head
    wrapper = build_optim_wrapper(
        net,
        dict(
            constructor='mmext.LpOptimWrapperConstructor',
            optimizer=dict(type='mmext.AdamWLp', lr=0.02)))
    groups = wrapper.optimizer.param_groups
    assert [len(g['params']) for g in groups] == [2, 3]


def test_constructor_keeps_paramwise_options():
    wrapper = build(
        bias_decay_mult=0.,
        custom_keys={'head': dict(lr_mult=0.5, decay_mult=4.)})
    found = {(g['p_norm'], g['lr'], g['weight_decay'], len(g['params']))
             for g in wrapper.optimizer.param_groups}
    assert found == {(8., 0.02, 5e-3, 2), (None, 0.02, 0., 1),
                     (None, 0.01, 0.02, 2)}


def test_state_is_plain(tmp_path):
    """It loads without unpickling objects, and goes on bit for bit."""

    def train(wrapper, net_weights, steps):
        for _ in range(steps):
            for parameter in net_weights:
                parameter.grad = torch.sin(parameter.detach())
            wrapper.step()

    torch.manual_seed(0)
    first = build()
    weights = [p for g in first.optimizer.param_groups for p in g['params']]
    train(first, weights, 2)
    torch.save(first.state_dict(), tmp_path / 'state.pth')
    second = build()
    second.load_state_dict(safe_load(tmp_path / 'state.pth'))
    others = [p for g in second.optimizer.param_groups for p in g['params']]
    for mine, theirs in zip(others, weights):
        mine.data.copy_(theirs)
    train(first, weights, 2)
    train(second, others, 2)
    assert all(torch.equal(a, b) for a, b in zip(weights, others))
    assert second.optimizer.param_groups[0]['p_norm'] == 8.


def test_closure_and_missing_gradients():
    weight, other = nn.Parameter(torch.ones(1, 2)), nn.Parameter(torch.ones(2))
    optimizer = AdamWLp([weight, other], lr=0.1, p_norm=8.)

    def closure():
        optimizer.zero_grad()
        loss = weight.sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure)) == 2.
    assert (other == 1).all() and (weight < 1).all()


@pytest.mark.parametrize('build, match', [
    (lambda p: AdamWLp([p], p_norm=-1.), 'p_norm is positive'),
    (lambda p: Madam([p], lr=-1.), 'not negative'),
    (lambda p: Madam([p], beta=1.), 'lie in'),
    (lambda p: Madam([p], p_scale=0.), 'are positive'),
    (lambda p: Madam([p], zero_init='no'), "'adam' or 'frozen'"),
    (lambda p: Madam([p], lr=0., adam_lr=1.), 'needs an lr above 0'),
])
def test_wrong_options(build, match):
    with pytest.raises(ValueError, match=match):
        build(nn.Parameter(torch.ones(2)))


def test_half_precision_is_refused():
    with pytest.raises(TypeError, match='float32 or float64'):
        AdamWLp([nn.Parameter(torch.ones(2, dtype=torch.bfloat16))])
