# Copyright (c) mmext contributors. All rights reserved.
"""Property 21: p, radius, learning rate and weights at every iteration."""
import math
import re

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS

from mmext.models.lipschitz.schedules import LpSchedule
from mmext.utils.user_error import ConfigError


@pytest.fixture(scope='module')
def golden(recorded_arrays):
    arrays = recorded_arrays('lipschitz', 'schedules.npz')
    return {key: np.asarray(value) for key, value in arrays.items()}


def recordings(golden, prefix):
    """Schedule and rows of each recording."""
    keys = [k for k in golden if re.fullmatch(prefix + r'\d+_epochs', k)]
    assert keys
    for key in keys:
        name = key[:-len('_epochs')]
        smooth = float(golden.get(f'{name}_eps_smooth', 0.))
        schedule = LpSchedule(
            tuple(golden[key].tolist()),
            int(golden['batches_per_epoch']),
            style='v2' if prefix.startswith('v2') else 'ramp',
            p_start=float(golden['p_start']),
            p_end=float(golden['p_end']),
            eps_train=float(golden['eps_train']),
            base_lr=float(golden['base_lr']),
            lam=(0.1, 0.0005),
            eps_smooth=smooth)
        yield schedule, golden[f'{name}_rows']


def found(schedule, columns, epoch, batch):
    t = epoch * schedule.iters_per_epoch + batch
    values = dict(
        epoch=epoch,
        batch=batch,
        lr=schedule.lr(t),
        p=schedule.p(t),
        eps=schedule.eps(t))
    values['lambda'] = schedule.lam_at(t)
    return [values[name] for name in columns]


@pytest.mark.parametrize('prefix, names', [('s', 'columns'),
                                           ('v2_', 'v2_columns')])
def test_property_21_every_iteration(golden, prefix, names):
    for schedule, rows in recordings(golden, prefix):
        ours = [found(schedule, golden[names], row[0], row[1]) for row in rows]
        np.testing.assert_allclose(ours, rows, rtol=1e-9, atol=1e-12)
        # the final state, (T, 0)
        assert math.isinf(ours[-1][3]) and ours[-1][2] == 0


@pytest.mark.parametrize('prefix', ['s', 'v2_'])
def test_property_21_stock_learning_rate(golden, prefix):
    """mmengine's scheduler, as the configs have it, also resumed."""
    for schedule, rows in recordings(golden, prefix):
        n, total = schedule.iters_per_epoch, int(schedule.epochs[4])
        begin = int(schedule.epochs[1]) if prefix == 's' else 0
        cfg = dict(
            type='CosineAnnealingLR',
            by_epoch=True,
            begin=begin,
            T_max=total - begin,
            end=total + 1,
            eta_min=0.,
            convert_to_iter_based=True)
        rates = run(cfg, schedule, n * total)
        np.testing.assert_allclose(rates, rows[:, 2], rtol=1e-7, atol=1e-12)
        half = n * total // 2
        again = run(cfg, schedule, n * total, resume_at=half)
        assert again == rates


def run(cfg, schedule, iters, resume_at=None):

    def build():
        parameter = torch.nn.Parameter(torch.zeros(()))
        optimizer = torch.optim.SGD([parameter], lr=schedule.base_lr)
        klass = PARAM_SCHEDULERS.get(cfg['type'])
        options = {
            k: v
            for k, v in cfg.items()
            if k not in ('type', 'convert_to_iter_based')
        }
        scheduler = klass.build_iter_from_epoch(
            OptimWrapper(optimizer),
            epoch_length=schedule.iters_per_epoch,
            **options)
        return optimizer, scheduler

    optimizer, scheduler = build()
    rates = []
    for t in range(iters):
        if t == resume_at:
            saved = optimizer.state_dict(), scheduler.state_dict()
            optimizer, scheduler = build()
            optimizer.load_state_dict(saved[0])
            scheduler.load_state_dict(saved[1])
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return rates + [optimizer.param_groups[0]['lr']]


def test_lambda_along_the_ratio(recorded_arrays):
    wanted = recorded_arrays('lipschitz', 'losses.npz')
    wanted = wanted['v2_mixture_lam_schedule'].numpy()
    schedule = LpSchedule((0, 0, 0, 10, 20), 1, 'v2', lam=(0.1, 0.0005))
    ours = [schedule.lam_at(t) for t in range(11)]
    np.testing.assert_allclose(ours, wanted, rtol=1e-12)


def test_published_values():
    """The exponents that section 4.3 quotes for 0,100,100,750,800."""
    schedule = LpSchedule((0, 100, 100, 750, 800), 98)
    quoted = {100: 8, 200: 16.8, 425: 89, 600: 328}
    for epoch, p in quoted.items():
        assert schedule.p(epoch * 98) == pytest.approx(p, rel=0.01)
    assert schedule.p(750 * 98 - 1) < 1000
    assert math.isinf(schedule.p(750 * 98))


def test_finite_end_and_kappa():
    schedule = LpSchedule((0, 4, 0, 2, 4), 1, 'v2', p_end=50., kappa=(0, 1))
    assert schedule.p(4) == pytest.approx(50.)
    assert [schedule.kappa_at(t) for t in (0, 2, 4)] == [0., 0.5, 1.]
    assert schedule.lam_at(1) == 0.


@pytest.mark.parametrize('options, match', [
    (dict(style='v3'), "'ramp' or 'v2'"),
    (dict(epochs=(0, 1, 2)), 'five numbers'),
    (dict(epochs=5), 'five numbers'),
    (dict(epochs=(0, 1, 2, 3, 'four')), 'five numbers'),
    (dict(p_start='eight'), 'p_start'),
    (dict(eps_smooth='a bit', style='v2'), 'eps_smooth'),
    (dict(epochs=(0, 5, 0, 3, 9)), 'beginnings'),
    (dict(epochs=(0, 1, 0, 5, 4)), 'beginnings'),
    (dict(p_start=2000.), 'p_start'),
    (dict(p_start=0.99), 'p_start.*no norm'),
    (dict(p_end=math.inf), 'p_start'),
    (dict(eps_smooth=0.5), "style='v2'"),
    (dict(iters_per_epoch=0), 'at least one'),
    (dict(lam=(1., )), 'pair'),
])
def test_wrong_options(options, match):
    with pytest.raises(ConfigError, match=match):
        LpSchedule(**{
            **dict(epochs=(0, 1, 0, 5, 6), iters_per_epoch=3),
            **options
        })
