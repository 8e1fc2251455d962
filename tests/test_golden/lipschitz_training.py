# Copyright (c) mmext contributors. All rights reserved.
"""Checks of recorded losses, schedules, averages and optimisers."""
from typing import Callable, Dict, List

import numpy as np
import torch
from torch import Tensor, nn

from mmext.engine.optimizers import AdamWLp, Madam
from mmext.models.lipschitz import losses
from mmext.models.lipschitz.averaging import warmup_decay
from mmext.models.lipschitz.schedules import LpSchedule
from mmext.models.teachers import GroupEMA
from mmext.registry import MODELS
from .lipschitz_runs import EMA_DECAY, LAMBDA, PLAIN, Run, check
from .recorded import Recorded, number


@check('losses', PLAIN)
def objectives(data: Recorded, run: Run) -> None:
    """Losses of three generations, as functions and as modules."""
    z, r, y = data['logits'], data['worst_margin'], data['label']
    clean, v = losses.margins(z, y), data['v2_worst_margin']

    def module(name: str, residual: Tensor = r, kappa: float = 1.,
               lam: float = 0., **options) -> Tensor:
        loss = MODELS.build(dict(type=f'mmext.{name}', **options)).to(z)
        # Residuals that are scaled already have the threshold 1.
        return loss(z, residual, y, theta=1., kappa=kappa, lam=lam)

    for key, mix in data.match(r'v1_hinge_mix([\d_]+)'):
        data.close(losses.hinge_loss(r, number(mix)), key)
        data.close(module('LipHingeLoss', mix=number(mix)), key)
    for key, mix in data.match(r'v1_hinge_clean_mix([\d_]+)'):
        data.close(losses.hinge_loss(clean, number(mix)), key)
        data.close(module('LipHingeLoss', mix=number(mix), kappa=0.), key)
    for key, kappa in data.match(r'v1_ce_kappa([\d_]+)'):
        data.close(module('LipCrossEntropyLoss', kappa=number(kappa)), key)
    for key, mix, kappa in data.match(r'v1_hinge(\d+)_kappa([\d_]+)'):
        data.close(
            module('LipHingeLoss', mix=float(mix) / 100,
                   kappa=number(kappa)), key)
    for key, mix in data.match(r'v2_hinge_mix([\d_]+)'):
        data.close(losses.scaled_hinge_loss(v, number(mix)), key)
        data.close(module('LipScaledHingeLoss', v, mix=number(mix)), key)
    for key, lam in data.match(r'v2_mixture_lam(\d[\d_]*)'):
        data.close(losses.mixture_loss(v, z, y, number(lam)), key)
        data.close(module('LipMixtureLoss', v, lam=number(lam)), key)
    for key, lam in data.match(r'sort_ce_hinge_lam(\d[\d_]*)'):
        data.close(losses.ce_hinge_loss(r, z, y, number(lam)), key)
        data.close(module('LipCEHingeLoss', r, lam=number(lam)), key)
    steps = len(data.raw('v2_mixture_lam_schedule')) - 1
    schedule = LpSchedule((0, 0, 0, steps, steps), 1, 'v2', lam=LAMBDA)
    data.close([schedule.lam_at(t) for t in range(steps + 1)],
               'v2_mixture_lam_schedule')


@check('schedules', PLAIN[:1])
def schedules(data: Recorded, run: Run) -> None:
    """Property 21: every iteration, and the state after the last."""
    n = int(data.number('batches_per_epoch'))
    common = dict(
        iters_per_epoch=n, p_start=data.number('p_start'),
        p_end=data.number('p_end'), eps_train=data.number('eps_train'),
        base_lr=data.number('base_lr'), lam=LAMBDA)
    for key, name, i in data.match(r'(s|v2_)(\d+)_epochs'):
        options = dict(common)
        if name == 'v2_':
            options.update(
                style='v2', eps_smooth=data.number(f'v2_{i}_eps_smooth'))
        schedule = LpSchedule(data.raw(key).tolist(), **options)
        columns = data.raw('v2_columns' if name == 'v2_' else 'columns')
        rows = data.raw(f'{name}{i}_rows')
        table = dict(zip(columns.tolist(), rows.T))
        assert set(table) <= {'epoch', 'batch', 'lr', 'p', 'eps', 'lambda'}
        times = (table['epoch'] * n + table['batch']).tolist()
        assert len(times) == schedule.epochs[-1] * n + 1
        for column, function in dict(
                lr=schedule.lr, p=schedule.p, eps=schedule.eps,
                **{'lambda': schedule.lam_at}).items():
            if column in table:
                actual = np.array([function(t) for t in times])
                finite = np.isfinite(table[column])
                assert (np.isfinite(actual) == finite).all()
                data.near(actual[finite],
                          torch.from_numpy(table[column][finite]),
                          name=f'{name}{i} {column}')


@check('ema', PLAIN)
def moving_average(data: Recorded, run: Run) -> None:
    """Property 22: the trajectory, and buffers that stay."""
    model = nn.Module()
    model.w = nn.Parameter(data['init_w'].clone())
    model.b = nn.Parameter(data['init_b'].clone())
    model.register_buffer('running_mean', torch.ones(1))
    ema = GroupEMA(model, EMA_DECAY)
    assert not data.number('buffers_averaged')
    decays = []
    for t, epoch in enumerate(data.raw('epoch').tolist()):
        with torch.no_grad():
            before = {k: v.clone() for k, v in ema.module.named_parameters()}
            for name in 'wb':
                getattr(model, name).copy_(data[name][t])
            model.running_mean += 1
        decays.append(warmup_decay(EMA_DECAY, 'epoch', epoch, t))
        ema.update(model, decays[-1])
        for name in 'wb':
            data.near(getattr(ema.module, name), data[f'shadow_{name}'][t],
                      minus=before[name].detach())
    assert float(ema.module.running_mean) == 1
    data.close(decays, 'alpha')
    data.close([1 - a for a in decays], 'mmengine_momentum')


# optim -----------------------------------------------------------------------


def steps_of(data: Recorded, names: List[str], build: Callable, run: str,
             start: Callable) -> None:
    """Five steps with recorded gradients, compared as changes."""
    params = {n: nn.Parameter(start(n).clone()) for n in names}
    optimizer = build(params)
    grads = {n: data[f'grad_{n}'] for n in names}
    for t in range(len(next(iter(grads.values())))):
        before = {n: p.detach().clone() for n, p in params.items()}
        for n, parameter in params.items():
            parameter.grad = grads[n][t]
        optimizer.step()
        for n, parameter in params.items():
            data.near(parameter, data[f'{run}_{n}'][t], minus=before[n],
                      name=f'{run}_{n}[{t}]')


@check('optim', PLAIN[:1])
def lp_adamw(data: Recorded, run: Run) -> None:
    """Property 25: l_p decay, then Adam; and the decay alone."""

    def groups(params: Dict[str, nn.Parameter], p: float) -> List[dict]:
        rows = [v for n, v in params.items() if n == 'dist_weight']
        plain = [v for n, v in params.items() if n != 'dist_weight']
        return [dict(params=rows, p_norm=p), dict(params=plain)]

    options = dict(
        betas=(data.number('beta1'), data.number('beta2')),
        eps=data.number('eps'))
    names = sorted(name for _, name in data.match(r'grad_(.+)'))
    for _, p in data.match(r'adamw_p(.+?)_dist_weight'):
        steps_of(
            data, names, lambda params: AdamWLp(
                groups(params, number(p)), lr=data.number('lr'),
                weight_decay=data.number('wd'), **options), f'adamw_p{p}',
            lambda n: data[f'{n}0'])
    for _, p in data.match(r'decay_only_p(.+?)_dist_weight'):
        params = {
            name: nn.Parameter(data[f'{name}0'].clone())
            for name in names if f'decay_only_p{p}_{name}' in data
        }
        optimizer = AdamWLp(
            groups(params, number(p)), lr=data.number('decay_only_lr'),
            weight_decay=data.number('decay_only_wd'), **options)
        for parameter in params.values():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        for name, parameter in params.items():
            data.close(parameter, f'decay_only_p{p}_{name}',
                       minus=data[f'{name}0'])


@check('optim', PLAIN[:1])
def multiplicative_adam(data: Recorded, run: Run) -> None:
    """Property 25: Madam; a tensor that starts at zero stays there."""
    frozen = [
        name for _, name in data.match(r'madam_(.+)0_is_zero')
        if data.number(f'madam_{name}0_is_zero')
    ]
    built = []

    def start(name: str) -> Tensor:
        value = data[f'{name}0']
        return torch.zeros_like(value) if name in frozen else value

    def build(params: Dict[str, nn.Parameter]) -> Madam:
        built.append((params, Madam(
            params.values(), lr=data.number('madam_lr'),
            p_scale=data.number('madam_p_scale'),
            g_bound=data.number('madam_g_bound'), zero_init='frozen')))
        return built[-1][1]

    names = sorted(name for _, name in data.match(r'grad_(.+)'))
    steps_of(data, names, build, 'madam', start)
    params, optimizer = built[0]
    for key, name in data.match(r'madam_max_(.+)'):
        data.close(optimizer.state[params[name]]['max'], key)
    for name in frozen:
        assert not params[name].any()
