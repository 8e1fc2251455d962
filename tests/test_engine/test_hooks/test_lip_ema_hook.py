# Copyright (c) mmext contributors. All rights reserved.
"""Properties 22, 23 and 24: the average, in runs of the stock Runner."""
import math

import pytest
import torch
from mmengine.hooks import Hook
from torch import nn

from mmext.engine.hooks import LipschitzEMAHook
from mmext.models.lipschitz.averaging import (recalibrate_mean_shift,
                                              warmup_decay)
from mmext.models.lipschitz.layers import LpDistLinear
from mmext.models.teachers import GroupEMA
from mmext.utils.io import safe_load, tensors_digest
from mmext.utils.rng import get_rng_state
from mmext.utils.user_error import ConfigError
from .. import lip_training
from ..lip_training import SCHEDULE, train

BUFFERS = ('live', 'average', 'recalibrate')


def hooks(**options):
    # few batches and epochs: a cap below 1 - 1/5 is reached
    options = dict(decay=0.7, recalibrate_batches=2, **options)
    return [dict(type='mmext.LipschitzEMAHook', **options), SCHEDULE]


def ema_of(runner):
    return next(h for h in runner.hooks if isinstance(h, LipschitzEMAHook))


def test_property_22_recorded_trajectory(recorded_arrays):
    data = recorded_arrays('lipschitz', 'ema.npz')
    assert not bool(data['buffers_averaged'])
    net = nn.Module()
    net.w = nn.Parameter(data['init_w'].double())
    net.b = nn.Parameter(data['init_b'].double())
    net.register_buffer('running_mean', torch.zeros(3))
    average = GroupEMA(net)
    previous = dict(w=data['init_w'].double(), b=data['init_b'].double())
    for t, epoch in enumerate(data['epoch'].tolist()):
        alpha = warmup_decay(0.99, 'epoch', epoch, t)
        assert alpha == pytest.approx(float(data['alpha'][t]), abs=1e-12)
        assert 1 - alpha == pytest.approx(
            float(data['mmengine_momentum'][t]), abs=1e-12)
        for name in 'wb':
            getattr(net, name).data.copy_(data[name][t])
        net.running_mean.fill_(t + 1.)
        average.update(net, alpha)
        for name in 'wb':
            wanted = data[f'shadow_{name}'][t]
            moved = wanted - previous[name]
            found = getattr(average.module, name).detach() - previous[name]
            atol = min(1e-9, 0.1 * float(moved.abs().max())) or 1e-9
            torch.testing.assert_close(found, moved, rtol=0, atol=atol)
            previous[name] = wanted
        # buffers are no part of the average
        assert (average.module.running_mean == 0).all()


@pytest.mark.parametrize('warmup', ['epoch', 'iter', None])
def test_property_22_in_a_run(tmp_path, warmup):
    """The average of what the iterations left; equal to them in epoch 0."""
    averages = []

    class Average(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner, **kwargs):
            averages.append({
                k: v.clone()
                for k, v in ema_of(runner).teacher.module.state_dict().items()
            })

    _, watch = train(
        tmp_path, hooks=hooks(warmup=warmup), more_hooks=[Average()])
    expected = {
        k: v.clone()
        for k, v in lip_training.DistanceNet().named_parameters()
    }
    for t, (state, average) in enumerate(zip(watch.states, averages)):
        alpha = warmup_decay(0.7, warmup, t // 3, t)
        for name, value in expected.items():
            expected[name] = alpha * value + (1 - alpha) * state[name]
            torch.testing.assert_close(average[name], expected[name])
        if warmup == 'epoch' and t < 3:
            assert all(torch.equal(average[k], state[k]) for k in expected)
        # default: running means are the live ones
        for name in set(state) - set(expected):
            assert torch.equal(average[name], state[name])
    assert t == 14 and warmup_decay(0.7, 'epoch', 4, 14) == 0.7


@pytest.mark.stack_subset
@pytest.mark.parametrize('buffers', BUFFERS)
def test_property_22_resume(tmp_path, buffers):
    """Live weights and average are those of an uninterrupted run, bit for
    bit; the recalibration leaves no trace in the random numbers."""
    options = dict(hooks=hooks(buffers=buffers))
    train(tmp_path / 'whole', **options)
    train(
        tmp_path / 'parts',
        resume=tmp_path / 'whole' / 'epoch_2.pth',
        **options)
    whole, parts = (
        safe_load(tmp_path / name / 'epoch_5.pth')
        for name in ('whole', 'parts'))
    for key in ('state_dict', 'ema_state_dict', 'optimizer'):
        assert tensors_digest(whole[key]) == tensors_digest(parts[key]), key
    different = tensors_digest(whole['state_dict']) != tensors_digest(
        whole['ema_state_dict'])
    assert different
    # what the hook does is no part of the training
    _, without = train(tmp_path / 'without')
    for key, value in without.states[-1].items():
        assert torch.equal(whole['ema_state_dict'][key], value), key


class Around(Hook):
    """Digest of everything that training goes on with."""
    priority = 'VERY_HIGH'

    def __init__(self):
        self.before, self.after = [], []

    def digest(self, runner):
        layers = [m for m in runner.model.modules() if hasattr(m, 'p')]
        return (tensors_digest(runner.model.state_dict()),
                tensors_digest(runner.optim_wrapper.state_dict()),
                tensors_digest(
                    ema_of(runner).teacher.module.
                    state_dict() if self.average else {}),
                tensors_digest(get_rng_state()), [m.p for m in layers])

    average = True

    def before_val_epoch(self, runner):
        self.before.append(self.digest(runner))

    def before_train_epoch(self, runner):
        if runner.epoch:
            self.after.append(self.digest(runner))


@pytest.mark.parametrize('buffers', BUFFERS)
def test_property_23_validation_changes_nothing(tmp_path, buffers):
    around = Around()
    # means that were gathered anew stay in the average until the next update
    around.average = buffers != 'recalibrate'
    train(tmp_path, hooks=hooks(buffers=buffers), more_hooks=[around])
    assert len(around.after) == 4
    assert around.before[:4] == around.after


@pytest.mark.parametrize('buffers', BUFFERS)
def test_property_24_fresh_test_run(tmp_path, buffers):
    """Validation of an epoch logs what a test of its checkpoint gives."""
    logged = []

    class Logged(Hook):
        priority = 'VERY_LOW'

        def after_val_epoch(self, runner, metrics=None):
            logged.append(dict(metrics))

    runner, _ = train(
        tmp_path / 'train',
        hooks=hooks(buffers=buffers),
        more_hooks=[Logged()])
    for epoch in (4, 5):
        path = tmp_path / 'train' / f'epoch_{epoch}.pth'
        fresh = lip_training.test(
            tmp_path / f'test{epoch}', path, hooks=hooks(buffers=buffers))
        row = logged[epoch - 1]
        assert fresh == {k: row[k] for k in ('margin', 'cert/clean', 'cert/p')}
        assert math.isinf(row['cert/p']) and math.isinf(row['cert/p_live'])
        # the live weights are in the file, too
        net = lip_training.DistanceNet().eval()
        net.load_state_dict(safe_load(path)['ema_state_dict'])
        live = lip_training.test(
            tmp_path / f'live{epoch}',
            save_live(path, tmp_path / f'live{epoch}.pth'))
        assert live['margin'] == row['margin_live'] != row['margin']
        assert safe_load(path)['lp_norm'] == math.inf
    assert runner.message_hub.get_scalar('val/margin_live').current() == \
        logged[-1]['margin_live']
    # a test after training in the same run is of the average as well
    assert runner.test()['margin'] == logged[-1]['margin']


def save_live(path, out):
    torch.save(dict(state_dict=safe_load(path)['ema_state_dict']), out)
    return out


def test_mid_schedule_means(tmp_path):
    """Recalibrated means fit p = inf at any time."""
    train(tmp_path, hooks=hooks(buffers='recalibrate'), epochs=3)
    saved = safe_load(tmp_path / 'epoch_3.pth')
    assert saved['lp_norm'] == math.inf
    name = 'body.0.mean_shift.running_mean'
    assert not torch.allclose(
        saved['state_dict'][name], saved['ema_state_dict'][name], atol=0.05)


def test_clean_only(tmp_path):
    """The scope of the authors' code: certified and saved is what is live."""
    options = dict(hooks=hooks(eval_scope='clean_only'))
    runner, watch = train(tmp_path / 'whole', **options)
    hub = runner.message_hub
    assert 'val/margin_ema' in hub.log_scalars
    assert 'val/cert/p_ema' not in hub.log_scalars
    assert 'val/cert/clean_ema' in hub.log_scalars
    saved = safe_load(tmp_path / 'whole' / 'epoch_5.pth')
    for key, value in watch.states[-1].items():
        assert torch.equal(saved['state_dict'][key], value)
    everywhere, _ = train(tmp_path / 'all', hooks=hooks())
    other = everywhere.message_hub
    assert other.get_scalar('val/margin').current() == \
        hub.get_scalar('val/margin_ema').current()
    assert other.get_scalar('val/margin_live').current() == \
        hub.get_scalar('val/margin').current()
    train(
        tmp_path / 'parts',
        resume=tmp_path / 'whole' / 'epoch_2.pth',
        **options)
    again = safe_load(tmp_path / 'parts' / 'epoch_5.pth')
    for key in ('state_dict', 'ema_state_dict'):
        assert tensors_digest(saved[key]) == tensors_digest(again[key]), key


def test_resuming_without_an_average(tmp_path):
    train(tmp_path / 'plain', epochs=5)
    train(
        tmp_path / 'more',
        hooks=hooks(evaluate_live=False),
        resume=tmp_path / 'plain' / 'epoch_2.pth')
    log = next((tmp_path / 'more').rglob('*.log')).read_text()
    assert 'holds no average of weights' in log
    assert 'margin_live' not in log


def test_iteration_based_loop(tmp_path):
    """Validation in the middle of the loader's pass."""
    scheduler = dict(type='CosineAnnealingLR', by_epoch=False, T_max=15)
    options = dict(by_epoch=False, scheduler=scheduler, val_interval=1)
    _, plain = train(tmp_path / 'plain', **options)
    _, watch = train(
        tmp_path / 'ema', hooks=hooks(buffers='recalibrate'), **options)
    for key, value in plain.states[-1].items():
        assert torch.equal(watch.states[-1][key], value), key


def test_recalibration_is_the_mean_over_all_images():
    torch.manual_seed(0)
    net = nn.Sequential(LpDistLinear(4, 6, p=8.), LpDistLinear(6, 3, p=8.))
    net.train()
    batches = torch.randn(10, 4).split(4)  # 4, 4 and 2 images
    assert recalibrate_mean_shift(net, batches) == 10
    assert net.training and net[0].mean_shift.training and net[0].p == 8.
    assert net[0].mean_shift.momentum == 0.1
    raw = (torch.cat(batches)[:, None] - net[0].weight).abs().amax(2)
    torch.testing.assert_close(net[0].mean_shift.running_mean, raw.mean(0))
    total = 0.
    for part in batches:
        raw = (part[:, None] - net[0].weight).abs().amax(2)
        raw = raw - raw.mean(0)
        total += (raw[:, None] - net[1].weight).abs().amax(2).sum(0)
    torch.testing.assert_close(net[1].mean_shift.running_mean,
                               total.detach() / 10)
    assert recalibrate_mean_shift(nn.Linear(2, 2), []) == 0
    with pytest.raises(ValueError, match='no image'):
        recalibrate_mean_shift(net, [])


def test_recalibration_does_not_wait_for_other_processes():
    """A checkpoint is saved by the main process alone."""
    net = nn.Sequential(LpDistLinear(4, 6, mean_shift=dict(sync=True)))
    seen = []

    def forward(model, batch):
        seen.append(model[0].mean_shift.sync)
        model(batch)

    recalibrate_mean_shift(net, [torch.randn(5, 4)], forward)
    assert seen == [False] and net[0].mean_shift.sync


def test_averages_after_steps_only(tmp_path):
    """With accumulated gradients, every second iteration."""
    moved = []

    class Accumulate(Hook):
        priority = 'LOWEST'

        def before_train(self, runner):
            runner.optim_wrapper._accumulative_counts = 2
            self.last = None

        def after_train_iter(self, runner, **kwargs):
            weight = ema_of(runner).teacher.module.body[0].weight.clone()
            if self.last is not None:
                moved.append(not torch.equal(weight, self.last))
            self.last = weight

    train(
        tmp_path,
        hooks=hooks(warmup=None),
        epochs=2,
        val_interval=100,
        more_hooks=[Accumulate()])
    assert moved == [True, False, True, False, True]


@pytest.mark.parametrize('options, match', [
    (dict(buffers='copied'), 'buffers to be one of'),
    (dict(eval_scope='none'), "'clean_only'"),
    (dict(warmup='step'), "'epoch', 'iter' or None"),
    (dict(recalibrate_batches=0), 'at least 1'),
])
def test_wrong_options(options, match):
    with pytest.raises(ConfigError, match=match):
        LipschitzEMAHook(**options)
    with pytest.raises(ValueError, match="'average'"):
        GroupEMA(nn.Linear(1, 1), update_buffers='mean')
