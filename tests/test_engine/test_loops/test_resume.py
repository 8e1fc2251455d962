# Copyright (c) mmext contributors. All rights reserved.
"""Interrupted and resumed equals uninterrupted, bit for bit."""
import os.path as osp
import signal
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg')

from tests.processes import run_python  # noqa: E402
from .common import (METHODS, SVDP, adaptation_config,  # noqa: E402
                     assert_equal, interrupt, predictions, report, resumed,
                     run, state)

ROOT = Path(__file__).parents[3]


def config(tmp_path, method, **kwargs):
    return adaptation_config(
        tmp_path, method, domains=('fog', 'night'), rounds=2, count=1,
        save_predictions=True, **kwargs)


def test_resume_at_any_frame(tmp_path):
    """Property 37: SVDP, stopped after each of its four frames."""
    cfg = config(tmp_path, SVDP, reset='never')
    whole = run(cfg)
    frames = whole.train_loop.max_iters
    assert frames == 4
    expected, scores = predictions(whole), report(whole)
    assert len(expected) == frames
    for frame in range(1, frames + 1):
        again = run(interrupt(cfg, frame, f'again_{frame}'))
        later = predictions(again)
        assert len(later) == frames - frame
        assert_equal(later, {k: expected[k] for k in later})
        assert_equal(state(whole), state(again))
        assert report(again) == scores
        assert again.train_loop.metrics == whole.train_loop.metrics


@pytest.mark.parametrize('name, options', [
    ('svdp', dict(reset='domain')),
    ('svdp', dict(reset='round')),
    ('cotta', dict(reset_optimizer='domain')),
    ('tent', dict(reset='domain')),
    ('vdp', dict()),
    ('source', dict()),
])
def test_resume_of_every_method(name, options, tmp_path):
    """Property 37: other methods and resets, in a domain and at a border."""
    options = dict(options)
    method = dict(METHODS[name])
    if 'reset_optimizer' in options:
        method.update(reset_optimizer=options.pop('reset_optimizer'))
    cfg = config(tmp_path, method, **options)
    whole = run(cfg)
    for frame in (1, 2):
        again = run(interrupt(cfg, frame, f'again_{frame}'))
        later = predictions(again)
        assert_equal(later, {k: predictions(whole)[k] for k in later})
        assert_equal(state(whole), state(again))
        assert report(again) == report(whole)


def test_equal_seeds(tmp_path):
    """Property 38: two runs are bit-equal; another seed is not."""
    first = run(config(tmp_path, SVDP))
    torch.rand(7)
    cfg = config(tmp_path, SVDP, work='second')
    second = run(cfg)
    assert_equal(state(first), state(second))
    assert_equal(predictions(first), predictions(second))
    assert report(first) == report(second)
    cfg = config(tmp_path, SVDP, work='third')
    cfg.randomness.seed = 4
    third = state(run(cfg))
    key = '/student/visual_prompt.patch'
    assert not torch.equal(state(first)[key], third[key])


KILLED = '''
import os, signal, sys
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
import tests.toy_models

@HOOKS.register_module()
class Kill(Hook):
    priority = 'VERY_HIGH'

    def after_train_iter(self, runner, batch_idx, **kwargs):
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGKILL)

cfg = Config.fromfile(sys.argv[1])
cfg.custom_hooks = [dict(type='Kill')]
Runner.from_cfg(cfg).train()
'''


def test_kill_nine(tmp_path):
    """Property 37: a process killed in the third frame, then resumed."""
    cfg = config(tmp_path, SVDP)
    whole = run(cfg)
    killed = config(tmp_path, SVDP, work='killed')
    path = osp.join(tmp_path, 'killed.py')
    killed.dump(path)
    run_python(KILLED, path, code=-signal.SIGKILL)
    assert not osp.exists(osp.join(killed.work_dir,
                                   'adaptation_report.json'))
    again = run(resumed(killed, 'killed'))
    assert again.train_loop.iter == 4
    assert_equal(state(whole), state(again))
    # Frames before the kill were written by the other process.
    assert_equal(predictions(again), predictions(whole))
    assert report(again) == report(whole)


def test_checkpoint_at_the_end_of_the_epoch(tmp_path):
    """Property 37: a checkpoint written by epoch has the same position."""
    cfg = config(tmp_path, METHODS['cotta'])
    cfg.default_hooks.checkpoint.update(by_epoch=True, interval=1)
    whole = run(cfg)
    path = osp.join(cfg.work_dir, 'epoch_1.pth')
    saved = torch.load(path, weights_only=False)
    assert saved['adaptation']['position'] == 4
    cfg = resumed(cfg, 'again')
    cfg.load_from = path
    again = run(cfg)
    assert again.train_loop.iter == 4
    assert predictions(again) == {}
    assert report(again) == report(whole)


def test_stop_is_not_the_end(tmp_path):
    """Property 37: a hook that stops the loop leaves a resumable run."""
    cfg = config(tmp_path, METHODS['cotta'])
    whole = run(cfg)
    stopped = config(tmp_path, METHODS['cotta'], work='stopped')
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    class Stop(Hook):

        def after_train_iter(self, runner, batch_idx, **kwargs):
            runner.train_loop.stop_training = batch_idx == 1

    runner = Runner.from_cfg(stopped)
    runner.register_hook(Stop())
    runner.train()
    assert len(predictions(runner)) == 2
    again = run(resumed(stopped, 'stopped'))
    assert_equal(state(whole), state(again))
    assert report(again) == report(whole)


def test_resume_of_a_resumed_run(tmp_path):
    """Property 37: twice, each time into another work folder."""
    cfg = config(tmp_path, METHODS['cotta'])
    whole = run(cfg)
    assert report(whole)['source']['path'] == cfg.load_from
    for work, folder, frame in (('b', 'work', 1), ('c', 'b', 3)):
        again = resumed(cfg, work)
        again.load_from = str(tmp_path / folder / f'iter_{frame}.pth')
        last = run(again)
        assert len(predictions(last)) == 4 - frame
        assert_equal(state(whole), state(last))
        assert report(last) == report(whole)


def test_resume_of_another_run(tmp_path):
    """A checkpoint of another stream or method is refused."""
    cfg = config(tmp_path, SVDP)
    run(cfg)
    other = interrupt(cfg, 1, 'longer')
    other.train_dataloader.dataset.rounds = 3
    with pytest.raises(ValueError, match='another run: its frames'):
        run(other)
    other = interrupt(cfg, 1, 'method')
    other.train_cfg.method = dict(METHODS['cotta'])
    with pytest.raises(ValueError, match='another run'):
        run(other)
    other = interrupt(cfg, 1, 'prompt')
    other.train_cfg.method.sparse_rate = 0.1
    with pytest.raises(ValueError, match=r'visual_prompt.patch is \(\d+, 3, '
                       r'1, 1\), this config has .*sparse_rate'):
        run(other)


def test_resume_without_its_source(tmp_path):
    """The source weights are needed again, and must be the same."""
    cfg = config(tmp_path, METHODS['cotta'])
    run(cfg)
    lost = interrupt(cfg, 1, 'lost')
    source = osp.join(lost.work_dir, 'adaptation_source.pth')
    weights = torch.load(source)
    Path(source).unlink()
    with pytest.raises(FileNotFoundError, match='adaptation_source.pth'):
        run(lost)
    weights['decode_head.conv_seg.bias'] += 1
    torch.save(weights, source)
    with pytest.raises(ValueError, match='other source weights'):
        run(lost)


def test_resume_from_a_source_checkpoint(tmp_path):
    """``resume`` with ``load_from`` still at the source explains itself."""
    cfg = config(tmp_path, METHODS['cotta'])
    cfg.resume = True
    with pytest.raises(ValueError, match='load_from=None'):
        run(cfg)
