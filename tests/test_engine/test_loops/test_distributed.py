# Copyright (c) mmext contributors. All rights reserved.
"""Several processes: independent adapters on parts of the stream."""
import os.path as osp
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

pytest.importorskip('mmseg')

from mmext.datasets.domain_sequence import DomainSequence  # noqa: E402
from mmext.engine.loops import test_time_adapt_loop as module  # noqa: E402
from mmext.engine.loops.stream_loader import split_stream  # noqa: E402
from mmext.engine.loops.stream_loader import stream_dataloader  # noqa: E402
from mmext.utils.io import safe_load  # noqa: E402
from tests.processes import run_ranks  # noqa: E402
from .common import (SVDP, adaptation_config, assert_equal,  # noqa: E402
                     predictions, report, run, state)

ROOT = Path(__file__).parents[3]

WORKER = '''
import os, sys
import torch
import mmext.compat
from mmengine.config import Config
mmext.compat.patch_cpu_distributed()
from tests.test_engine.test_loops.common import run, state

torch.set_num_threads(1)
cfg = Config.fromfile(sys.argv[1])
runner = run(cfg)
torch.save(dict(state=state(runner), metrics=runner.train_loop.metrics),
           os.path.join(cfg.work_dir, f'rank_{os.environ["RANK"]}.pth'))
'''


def two_processes(cfg):
    """Run a config with gloo in two processes; what each ended with."""
    cfg.launcher = 'pytorch'
    cfg.env_cfg = dict(dist_cfg=dict(backend='gloo', timeout=300))
    path = f'{cfg.work_dir}.py'
    cfg.dump(path)
    run_ranks(WORKER, path)
    return [
        torch.load(osp.join(cfg.work_dir, f'rank_{rank}.pth'),
                   weights_only=False) for rank in range(2)
    ]


@pytest.mark.skipif(not torch.distributed.is_available(),
                    reason='torch without distributed')
def test_each_rank_equals_its_sub_stream(tmp_path, monkeypatch):
    """Property 40: a rank equals one process on its share of frames."""
    options = dict(domains=('fog', 'night'), count=2, save_predictions=True)
    cfg = adaptation_config(tmp_path, SVDP, work='two', **options)
    cfg.default_hooks.checkpoint.interval = -1
    ranks = two_processes(cfg)
    both = predictions(cfg.work_dir)
    assert len(both) == 4
    for rank in range(2):
        monkeypatch.setattr(
            module, 'split_stream',
            lambda stream, *args: list(range(rank, len(stream), 2)))
        alone = run(adaptation_config(tmp_path, SVDP, work=f'rank{rank}',
                                      **options))
        mine = predictions(alone)
        assert len(mine) == 2
        assert_equal(mine, {k: both[k] for k in mine})
        assert_equal(state(alone), ranks[rank]['state'])
    # Counts of both ranks are added up, and no frame counts twice.
    assert ranks[0]['metrics'] == ranks[1]['metrics']
    rounds = report(cfg.work_dir)['report']['rounds']['r1']
    assert [rounds[d]['frames'] for d in ('fog', 'night')] == [2, 2]


@pytest.mark.skipif(not torch.distributed.is_available(),
                    reason='torch without distributed')
def test_reset_by_domain_equals_one_process(tmp_path):
    """Property 40: independent domains: the same result as one process.

    One process has two domains and the other one, and both save after each
    frame, with the shipped hooks.
    """
    options = dict(domains=('fog', 'night', 'rain'), count=2,
                   save_predictions=True, reset='domain')
    hooks = Config.fromfile(
        ROOT / 'configs/_base_/mmseg_runtime.py').default_hooks
    hooks.checkpoint.update(interval=1, max_keep_ckpts=-1)
    cfg = adaptation_config(tmp_path, SVDP, work='two', **options)
    cfg.default_hooks = hooks
    ranks = two_processes(cfg)
    alone = adaptation_config(tmp_path, SVDP, work='one', **options)
    alone.custom_hooks = [dict(type='mmext.RNGStateHook')]
    one = run(alone)
    assert_equal(predictions(cfg.work_dir), predictions(one))
    for key in ('report', 'frames', 'stopped', 'source'):
        assert report(cfg.work_dir)[key] == report(one)[key]
    assert ranks[0]['metrics'] == one.train_loop.metrics
    for name, states in (('two', [True, False]), ('one', [True])):
        saved = safe_load(tmp_path / name / 'iter_2.pth')
        assert [r is not None for r in saved['rng_state']['ranks']] == states
    assert 'of rank 0 only' not in ''.join(
        p.read_text() for p in Path(cfg.work_dir).glob('*/*.log'))


class Domain:
    """A number of frames with the classes of the others."""
    metainfo = dict(classes=('a', 'b'))

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


@pytest.mark.parametrize('reset', ['never', 'domain', 'round'])
@pytest.mark.parametrize('world', [1, 2, 3, 5])
def test_split(reset, world):
    """Property 40: every frame once, in order, none repeated."""
    stream = DomainSequence(
        dict(fog=Domain(5), night=Domain(3), rain=Domain(4)), rounds=2)
    parts = [split_stream(stream, reset, world, r) for r in range(world)]
    assert sorted(i for part in parts for i in part) == list(range(24))
    for part in parts:
        assert part == sorted(part)
        if reset == 'domain':
            for visit in stream.visits:
                inside = [i for i in part if visit.start <= i < visit.stop]
                assert len(inside) in (0, visit.stop - visit.start)
        if reset == 'round':
            assert len(part) % 12 == 0


def test_built_loader_must_comply():
    """A loader built in advance needs batch size 1 and our sampler."""
    from torch.utils.data import DataLoader

    from mmext.datasets.samplers import StreamSampler
    data = Domain(3)
    good = DataLoader(data, batch_size=1, sampler=StreamSampler(data))
    assert stream_dataloader(good) is good
    with pytest.raises(ValueError, match='StreamSampler'):
        stream_dataloader(DataLoader(data, batch_size=1))
