# Copyright (c) mmext contributors. All rights reserved.
"""Folders of runs; tests/test_compare_*.py have the comparisons."""
import subprocess
import sys

import pytest

from mmext.utils.comparison import RunFolder
from mmext.utils.user_error import UserError

pytest.importorskip('fcntl')


def folder(path):
    return RunFolder(path / 'run', 'digest', 'done.json')


def test_one_comparison_at_a_time_in_a_folder(tmp_path):
    """Two of them would write over each other's checkpoints."""
    first, second = folder(tmp_path), folder(tmp_path)
    first.start()
    first.start()  # its own lock is no obstacle
    with pytest.raises(UserError, match='at work in .*run'):
        second.start()
    with pytest.raises(UserError, match='at work in .*run'):
        second.run('train', ['--help'], 'log.txt')
    assert not (tmp_path / 'run' / 'log.txt').exists()
    del first
    second.start()


def test_a_run_that_outlives_its_comparison_keeps_the_folder(tmp_path,
                                                             monkeypatch):
    sleep = [sys.executable, '-c', 'input()']
    children = []

    def popen(command, **options):
        options.update(stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        children.append(real(sleep, **options))
        raise KeyboardInterrupt  # the comparison is stopped, the run is not

    real = subprocess.Popen
    monkeypatch.setattr(subprocess, 'Popen', popen)
    with pytest.raises(KeyboardInterrupt):
        folder(tmp_path).run('train', [], 'log.txt')
    with pytest.raises(UserError, match='at work'):
        folder(tmp_path).start()
    children[0].communicate(b'\n')
    folder(tmp_path).start()
