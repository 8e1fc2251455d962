# Copyright (c) mmext contributors. All rights reserved.
"""Distance nets trained by two processes are one network."""
import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, DataLoader

from mmext.engine.hooks import PNormScheduleHook
from mmext.engine.hooks.lip_distributed import epoch_length
from mmext.utils.io import safe_load
from tests.processes import run_ranks
from .. import lip_training

RUNS = dict(
    live=dict(buffers='live'),
    average_iter=dict(buffers='average'),
    recalibrate_iter=dict(buffers='recalibrate', recalibrate_batches=2))
"""Options of the average; some run by iterations."""

WORKER = '''
import os, sys
import torch
import mmext.compat
mmext.compat.patch_cpu_distributed()
from tests.test_engine.test_hooks.test_lip_distributed import train_all

torch.set_num_threads(1)
torch.save(train_all(sys.argv[1]),
           os.path.join(sys.argv[1], f'rank_{os.environ["RANK"]}.pth'))
'''


def running_means(state):
    return {k: v.clone() for k, v in state.items() if 'running_mean' in k}


class Seen(Hook):
    """What a process gathered, validated with and logged."""
    priority = 'LOW'

    def __init__(self):
        self.used, self.metrics, self.own = [], [], []

    def before_val_epoch(self, runner):
        self.used.append(running_means(runner.model.module.state_dict()))

    def after_val_epoch(self, runner, metrics=None):
        self.metrics.append(dict(metrics))


class Unshared(Hook):
    """The running means of the process's own batches."""
    priority = 'VERY_HIGH'

    def __init__(self, seen):
        self.seen = seen

    def after_train_epoch(self, runner):
        self.seen.own.append(running_means(runner.model.module.state_dict()))


def options(name):
    by_epoch = not name.endswith('iter')
    return dict(
        hooks=[
            dict(type='mmext.LipschitzEMAHook', decay=0.7, **RUNS[name]),
            lip_training.SCHEDULE
        ],
        by_epoch=by_epoch,
        scheduler=None,
        epochs=2)


def train_all(folder):
    """In each process."""
    found = {}
    for name in RUNS:
        seen = Seen()
        with lip_training.quick_runner():
            runner = lip_training.build(
                f'{folder}/{name}',
                launcher='pytorch',
                env_cfg=dict(dist_cfg=dict(backend='gloo')),
                **options(name))
            if name.startswith('recalibrate'):
                runner._randomness_cfg['diff_rank_seed'] = True
                runner.set_randomness(**runner._randomness_cfg)
            runner.register_hook(seen)
            runner.register_hook(Unshared(seen))
            runner.train()
        schedule = next(
            hook for hook in runner.hooks
            if isinstance(hook, PNormScheduleHook)).schedule
        found[name] = dict(
            used=seen.used,
            metrics=seen.metrics,
            own=seen.own,
            epoch=schedule.iters_per_epoch)
    return found


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory):
    """Folder, and what each process saw."""
    if torch.cuda.is_available() or not torch.distributed.is_available():
        pytest.skip('checks the machines without a GPU')
    folder = tmp_path_factory.mktemp('two')
    run_ranks(WORKER, folder)
    return folder, [
        torch.load(folder / f'rank_{rank}.pth', weights_only=False)
        for rank in range(2)
    ]


@pytest.mark.parametrize('name', RUNS)
def test_property_24_of_two_processes(two_processes, tmp_path, name):
    """All validate the network that is saved, without ``sync_mean``."""
    folder, ranks = two_processes
    first, second = (rank[name] for rank in ranks)
    assert len(first['used']) == len(second['used']) == 2
    for i, (mine, theirs) in enumerate(zip(first['used'], second['used'])):
        file = f'iter_{3 * i + 3}' if 'iter' in name else f'epoch_{i + 1}'
        path = folder / name / f'{file}.pth'
        saved = running_means(safe_load(path)['state_dict'])
        assert mine and set(mine) == set(saved)
        for key, value in mine.items():
            assert torch.equal(value, theirs[key]), key
            assert torch.equal(value, saved[key]), key
        fresh = lip_training.test(tmp_path / file, path, **options(name))
        for key, value in fresh.items():
            assert first['metrics'][i][key] == pytest.approx(
                value, rel=1e-5), key
        assert first['metrics'][i]['cert/p'] == math.inf


def test_running_means_are_those_of_both(two_processes):
    """Of all images, half of which each process has seen."""
    folder, (first, second) = two_processes
    for i in range(2):
        saved = safe_load(folder / 'live' / f'epoch_{i + 1}.pth')
        for key, value in first['live']['own'][i].items():
            other = second['live']['own'][i][key]
            if key.startswith('body.0'):  # later ones see centred inputs
                assert not torch.allclose(value, other, atol=1e-3)
            for state in ('state_dict', 'ema_state_dict'):
                torch.testing.assert_close(saved[state][key],
                                           (value + other) / 2)


def test_epochs_of_two_processes(two_processes):
    """12 images in batches of 2 times 4, whatever the sampler says."""
    for rank in two_processes[1]:
        assert {found['epoch'] for found in rank.values()} == {2}


@pytest.mark.parametrize('name, length', [('DefaultSampler', 3),
                                          ('InfiniteSampler', 2)])
def test_epoch_length(name, length):
    """``InfiniteSampler`` has the length of all images in each process."""
    data = lip_training.NoisyPoints(12)
    sampler = DATA_SAMPLERS.build(dict(type=name, dataset=data))
    sampler.world_size = 2
    for options in (dict(batch_size=4, sampler=sampler),
                    dict(batch_sampler=BatchSampler(sampler, 4, False))):
        assert epoch_length(DataLoader(data, **options)) == length
