# Copyright (c) mmext contributors. All rights reserved.
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmext.utils.io import safe_load
from mmext.utils.resume import find_resumable
from tests.test_engine.tiny_training import build

pytestmark = pytest.mark.stack_subset
ROOT = Path(__file__).resolve().parents[3]

# The stock hook is patched by mmext.compat and must behave the same.
HOOKS = ['mmext.AtomicCheckpointHook', 'CheckpointHook']


def _names(folder):
    return sorted(p.name for p in Path(folder).glob('*.pth'))


@pytest.mark.parametrize('type_', HOOKS)
def test_old_one_goes_after_the_new_one_is_complete(tmp_path, type_):
    runner = build(
        tmp_path,
        checkpoint=dict(type=type_, max_keep_ckpts=1),
        validate=False)
    seen = []
    save = runner.save_checkpoint

    def watch(out_dir, filename, *args, **kwargs):
        before = _names(tmp_path)
        save(out_dir, filename, *args, **kwargs)
        seen.append((before, filename, _names(tmp_path)))

    runner.save_checkpoint = watch
    runner.train()
    assert seen[0] == ([], 'iter_1.pth', ['iter_1.pth'])
    for step, (before, name, after) in enumerate(seen[1:], 2):
        assert before == [f'iter_{step - 1}.pth']
        assert after == [f'iter_{step - 1}.pth', f'iter_{step}.pth']
    assert _names(tmp_path) == ['iter_6.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path /
                                                             'iter_6.pth')


@pytest.mark.parametrize('type_', HOOKS)
def test_failed_save_removes_nothing(tmp_path, type_):
    runner = build(
        tmp_path,
        checkpoint=dict(type=type_, max_keep_ckpts=1),
        validate=False)
    save = runner.save_checkpoint

    def disk_full(out_dir, filename, *args, **kwargs):
        if filename == 'iter_4.pth':
            raise OSError('No space left on device')
        save(out_dir, filename, *args, **kwargs)

    runner.save_checkpoint = disk_full
    with pytest.raises(OSError, match='No space'):
        runner.train()
    assert _names(tmp_path) == ['iter_3.pth']
    assert find_resumable(str(tmp_path)) == str(tmp_path / 'iter_3.pth')


@pytest.mark.parametrize('type_', HOOKS)
def test_best_checkpoint_is_replaced_in_the_same_order(tmp_path, type_):
    runner = build(
        tmp_path,
        checkpoint=dict(
            type=type_, max_keep_ckpts=1, save_best='mean', rule='greater'))
    values = iter([1., 2., 3.])
    for metric in runner._val_evaluator:
        metric.compute_metrics = lambda results: dict(mean=next(values))
    best = []
    save = runner.save_checkpoint

    def watch(out_dir, *args, **kwargs):
        save(out_dir, *args, **kwargs)
        best.append([n for n in _names(tmp_path) if n.startswith('best')])

    runner.save_checkpoint = watch
    runner.train()
    assert ['best_mean_iter_2.pth', 'best_mean_iter_4.pth'] in best
    assert _names(tmp_path)[0] == 'best_mean_iter_6.pth'
    assert len([n for n in _names(tmp_path) if n.startswith('best')]) == 1


_ENDLESS = '''
import sys
import torch
import tests.conftest  # Makes the hosts importable.
from tests.test_engine.tiny_training import DropoutModel, build
model = DropoutModel()
model.register_buffer('ballast', torch.zeros(300000))
build(sys.argv[1], model=model, length=10**6, validate=False,
      checkpoint=dict(max_keep_ckpts=1)).train()
'''


def test_kill_leaves_a_checkpoint_to_resume_from(tmp_path, after=3):
    process = subprocess.Popen([sys.executable, '-c', _ENDLESS,
                                str(tmp_path)],
                               cwd=ROOT,
                               stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            if any(
                    int(n[5:-4]) >= after for n in _names(tmp_path)
                    if n.startswith('iter_')):
                break
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    path = find_resumable(str(tmp_path))
    assert path is not None
    step = safe_load(path)['meta']['iter']
    assert step >= after
    runner = build(
        tmp_path / 'resumed',
        length=step + 1,
        load_from=path,
        resume=True,
        validate=False)
    runner.train()
    assert runner.iter == step + 1


def _train(folder, **kwargs):
    build(folder, length=3, validate=False, **kwargs).train()


def test_find_resumable_falls_back_and_says_so(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmext.utils.resume.print_log',
                        lambda message, **_: said.append(message))
    assert find_resumable(str(tmp_path)) is None
    _train(tmp_path)
    assert find_resumable(str(tmp_path)) == str(tmp_path / 'iter_3.pth')
    third = tmp_path / 'iter_3.pth'
    third.write_bytes(third.read_bytes()[:-100])
    (tmp_path / 'iter_2.pth').write_bytes(b'')
    said.clear()
    assert find_resumable(str(tmp_path)) == str(tmp_path / 'iter_1.pth')
    assert 'iter_3.pth' in said[0] and 'truncated' in said[0]
    assert 'iter_2.pth' in said[1] and 'empty' in said[1]
    assert 'Resuming from' in said[2] and 'iter_1.pth' in said[2]


def test_find_resumable_refuses_bombs_and_bare_weights(tmp_path):

    class Bomb:

        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'executed'), )

    _train(tmp_path)
    torch.save(dict(meta=Bomb()), tmp_path / 'iter_9.pth')
    torch.save(dict(state_dict={}), tmp_path / 'iter_8.pth')
    torch.save([1], tmp_path / 'iter_7.pth')
    torch.save(
        dict(state_dict={}, meta=3, message_hub={}), tmp_path / 'iter_6.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_9.pth'))
    assert find_resumable(str(tmp_path)) == str(tmp_path / 'iter_3.pth')
    assert not (tmp_path / 'executed').exists()


def test_find_resumable_sees_a_save_that_was_not_noted(tmp_path):
    _train(tmp_path)
    last = tmp_path / 'last_checkpoint'
    last.write_text(str(tmp_path / 'iter_2.pth'))
    assert find_resumable(str(tmp_path)) == str(tmp_path / 'iter_3.pth')
    # A later step of an older run in the same folder does not count.
    os.utime(tmp_path / 'iter_3.pth', (1, 1))
    assert find_resumable(str(tmp_path)) == str(tmp_path / 'iter_2.pth')


@pytest.mark.parametrize('note', ['', '/nowhere/iter_2.pth', None])
def test_find_resumable_in_a_moved_folder(tmp_path, note):
    _train(tmp_path / 'old')
    (tmp_path / 'old').rename(tmp_path / 'new')
    last = tmp_path / 'new' / 'last_checkpoint'
    last.unlink()
    if note is not None:
        last.write_text(note)
    os.utime(tmp_path / 'new' / 'iter_3.pth', (1, 1))
    expected = 'iter_2.pth' if note else 'iter_3.pth'
    assert find_resumable(str(tmp_path / 'new')) == str(tmp_path / 'new' /
                                                        expected)
