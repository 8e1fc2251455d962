# Copyright (c) mmext contributors. All rights reserved.
"""Properties 21, 23 and 25 in runs of the stock Runner."""
import math

import pytest
import torch

from mmext.engine.hooks import PNormScheduleHook
from mmext.models.lipschitz.p_norm import get_p
from mmext.models.lipschitz.schedules import LpSchedule
from mmext.utils.io import safe_load
from mmext.utils.user_error import ConfigError
from .. import lip_training
from ..lip_training import EPOCHS, SCHEDULE, train

V2 = dict(
    type='mmext.PNormScheduleHook',
    epochs=(0, 2, 1, 4, 5),
    style='v2',
    eps_smooth=0.4,
    eps_train=0.3,
    lam=(0.1, 0.001),
    kappa=(0.5, 1.))


def expected(hook, base_lr=0.05):
    options = {
        k: v
        for k, v in hook.items()
        if k in ('style', 'eps_smooth', 'lam', 'kappa')
    }
    return LpSchedule(
        hook['epochs'],
        3,
        eps_train=hook.get('eps_train', 0.2),
        base_lr=base_lr,
        **options)


def check(rows, schedule, first=0):
    assert [row['t'] for row in rows] == list(range(first, 15))
    for row in rows:
        t = row['t']
        assert row['p'] == schedule.p(t)
        assert row['p_norm'] == [schedule.p(t), None]
        assert row['eps'] == pytest.approx(schedule.eps(t), rel=1e-12)
        assert row['lr'] == pytest.approx(schedule.lr(t), rel=1e-9, abs=1e-15)


@pytest.mark.stack_subset
def test_property_21_and_25_every_iteration(tmp_path):
    """Also p of the optimizer's groups; again after a resume in the middle."""
    runner, watch = train(tmp_path / 'whole')
    check(watch.rows, expected(SCHEDULE))
    assert all(r['lam'] == 0.1 and r['kappa'] == 1. for r in watch.rows)
    # the final state
    assert math.isinf(get_p(runner.model))
    group = runner.optim_wrapper.optimizer.param_groups[0]
    assert group['lr'] == pytest.approx(0., abs=1e-15)
    assert math.isinf(group['p_norm'])

    for epoch in (1, 3):
        path = tmp_path / 'whole' / f'epoch_{epoch}.pth'
        again, later = train(tmp_path / f'from{epoch}', resume=path)
        check(later.rows, expected(SCHEDULE), first=3 * epoch)
        for key, value in watch.states[-1].items():
            assert torch.equal(later.states[-1][key], value), key


def test_second_generation(tmp_path):
    cosine = dict(lip_training.COSINE, begin=0, T_max=EPOCHS[4])
    runner, watch = train(tmp_path, hooks=[V2], scheduler=cosine)
    schedule = expected(V2)
    check(watch.rows, schedule)
    for row in watch.rows:
        assert row['lam'] == pytest.approx(schedule.lam_at(row['t']))
        assert row['kappa'] == pytest.approx(schedule.kappa_at(row['t']))
    scalars = runner.message_hub.log_scalars
    assert {'train/p', 'train/eps', 'train/lam', 'train/kappa'} <= set(scalars)


def test_one_number_scales_everything(tmp_path):
    """Fractions of the run, and the learning rate from the hook."""
    hook = dict(SCHEDULE, epochs=tuple(e / 5 for e in EPOCHS), lr=True)
    _, watch = train(tmp_path / 'a', hooks=[hook], scheduler=None)
    schedule = expected(dict(SCHEDULE))
    for row in watch.rows:
        assert row['lr'] == pytest.approx(schedule.lr(row['t']), abs=1e-12)
        assert row['p'] == pytest.approx(schedule.p(row['t']))
    _, later = train(
        tmp_path / 'b',
        hooks=[hook],
        scheduler=None,
        resume=tmp_path / 'a' / 'epoch_3.pth')
    for key, value in watch.states[-1].items():
        assert torch.equal(later.states[-1][key], value), key
    _, short = train(tmp_path / 'c', hooks=[hook], scheduler=None, epochs=3)
    assert math.isinf(short.rows[-1]['p']) and short.rows[0]['p'] == 8.


def test_iteration_based_loop(tmp_path):
    _, watch = train(
        tmp_path,
        by_epoch=False,
        scheduler=dict(
            type='CosineAnnealingLR',
            by_epoch=False,
            begin=6,
            T_max=9,
            eta_min=0.))
    check(watch.rows, expected(SCHEDULE))


def test_property_23_validation_sees_infinity(tmp_path):
    """And gives p back; without validation the same weights come out."""
    runner, watch = train(tmp_path / 'val')
    assert math.isinf(runner.message_hub.get_scalar('val/cert/p').current())
    _, without = train(tmp_path / 'none', val_interval=100)
    assert watch.rows == without.rows
    for key, value in without.states[-1].items():
        assert torch.equal(watch.states[-1][key], value), key


def test_checkpoint_says_its_p(tmp_path, caplog):
    runner, _ = train(tmp_path / 'work')
    schedule = expected(SCHEDULE)
    for epoch in range(1, 6):
        saved = safe_load(tmp_path / 'work' / f'epoch_{epoch}.pth')
        assert saved['lp_norm'] == schedule.p(3 * epoch)
    assert runner.model.trained_p is None

    seen = []

    class Look(lip_training.Margin):

        def process(self, data_batch, data_samples):
            seen.append(test_runner.model.trained_p)
            super().process(data_batch, data_samples)

    for epoch, finite in ((3, True), (5, False)):
        seen.clear()
        test_runner = lip_training.build(
            tmp_path / f'test{epoch}',
            load_from=str(tmp_path / 'work' / f'epoch_{epoch}.pth'))
        test_runner.test_loop.evaluator.metrics[:] = [Look()]
        metrics = test_runner.test()
        assert metrics['cert/p'] == math.inf
        assert set(seen) == {schedule.p(3 * epoch)}
        assert get_p(test_runner.model) == 8.
        log = next((tmp_path / f'test{epoch}').rglob('*.log')).read_text()
        assert ('in the middle of the schedule' in log) == finite


def test_a_run_that_ends_too_early_is_told(tmp_path):
    train(tmp_path, epochs=2)
    log = next(tmp_path.rglob('*.log')).read_text()
    assert 'ends after 2 epochs, but p becomes infinite after 4' in log


@pytest.mark.parametrize('options, match', [
    (dict(epochs=(0, 1)), 'five numbers'),
    (dict(style='v3'), "'ramp' or 'v2'"),
    (dict(eps_train=8.), 'in pixel units'),
    (dict(eps_train='a lot'), 'a lot'),
    (dict(p_start=-1.), 'p_start'),
    (dict(p_start=0.5), 'p_start.*no norm'),
    (dict(lam=0.05), 'lam of PNormScheduleHook is a pair'),
    (dict(kappa=(0., 'x')), 'kappa of PNormScheduleHook is a pair'),
])
def test_wrong_options(options, match):
    with pytest.raises(ConfigError, match=match):
        PNormScheduleHook(**{**dict(epochs=EPOCHS), **options})


def test_the_radius_may_be_a_text():
    hook = PNormScheduleHook(epochs=EPOCHS, eps_train='8/255')
    assert hook.eps_train == 8 / 255


def test_wrong_surroundings(tmp_path):
    with pytest.raises(ConfigError, match='param_scheduler'):
        train(tmp_path / 'a', hooks=[dict(SCHEDULE, lr=True)])
    with pytest.raises(ConfigError, match='LpOptimWrapperConstructor'):
        runner = lip_training.build(tmp_path / 'b')
        runner.optim_wrapper.pop('constructor')
        runner.train()
    with pytest.raises(ConfigError, match='no distance layer'):
        runner = lip_training.build(tmp_path / 'c')
        runner.model.body = torch.nn.Linear(4, 3)
        runner.train()
