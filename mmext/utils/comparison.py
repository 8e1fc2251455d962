# Copyright (c) mmext contributors. All rights reserved.
"""Runs of a comparison: each in a process and a folder of its own.

A finished run is reused when nothing that decides its result has changed,
and an interrupted one goes on from its last checkpoint.
"""
import argparse
import hashlib
import os
import os.path as osp
import statistics
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Dict, Iterable, List, Optional, Sequence

from mmengine.config import Config

import mmext
from .config_io import CfgOptions, package_root
from .io import atomic_write, sha256_file
from .user_error import UserError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None


class RunError(UserError):
    """A run ended with an error; ``tail`` is the end of its log."""

    exit_code = 1

    def __init__(self, message: str, tail: str) -> None:
        super().__init__(f'{tail}\n{message}')
        self.tail = tail


def add_run_arguments(parser: argparse.ArgumentParser, work_dir: str) -> None:
    """Add the options that all comparisons have.

    Args:
        parser (ArgumentParser): Of the tool.
        work_dir (str): Default of ``--work-dir``.
    """
    parser.add_argument(
        '--work-dir',
        default=work_dir,
        help='folder of the runs and of the report')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        default={},
        help='settings to override in every config, as key=value')


def check_seeds(parser: argparse.ArgumentParser, seeds: Sequence[int]) -> None:
    """End the tool with a message if a seed is named twice."""
    if len(set(seeds)) < len(seeds):
        parser.error(f'--seeds names one twice: {list(seeds)}')


def run_digest(cfg: Config, seed: int, sources: Iterable[str] = ()) -> str:
    """What a finished run must agree in to be reused.

    Args:
        cfg (Config): The config with all options merged.
        seed (int): Seed of the run.
        sources (Iterable[str]): Files that the run starts from, whose
            content counts. Those that do not exist are left out.

    Returns:
        str: SHA-256 of all that and of the version of mmext.
    """
    text = f'{cfg.pretty_text}\n{seed}\n{mmext.__version__}'
    for source in sources:
        if osp.isfile(source):
            name = osp.abspath(source)
            text += _digest_of(name, osp.getmtime(name))
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=None)
def _digest_of(path: str, changed: float) -> str:
    return sha256_file(path)


class RunFolder:
    """Folder of one run, with a mark of what it was started for.

    Args:
        path (Path): The folder.
        digest (str): See :func:`run_digest`.
        report (str): Name of the file that a finished run leaves.
    """

    def __init__(self, path: Path, digest: str, report: str) -> None:
        self.path = path
        self.report = path / report
        self._mark = path / 'fingerprint'
        self.digest = digest
        self._lock: Optional[IO] = None

    @property
    def known(self) -> bool:
        """bool: Whether what the folder holds was made for this run."""
        return self._mark.is_file() and \
            self._mark.read_text().strip() == self.digest

    @property
    def finished(self) -> bool:
        """bool: Whether the run can be reused."""
        return self.known and self.report.is_file()

    @property
    def resumable(self) -> bool:
        """bool: Whether the run was interrupted and can go on."""
        return self.known and (self.path / 'last_checkpoint').is_file()

    def start(self) -> None:
        """Claim the folder; what another run left is not gone on from.

        Raises:
            UserError: If another comparison is at work there.
        """
        self._claim()
        if not self.known:
            (self.path / 'last_checkpoint').unlink(missing_ok=True)
        self.report.unlink(missing_ok=True)
        atomic_write(self._mark, self.digest)

    def _claim(self) -> None:
        """Keep other processes out while this object, or its run, lives."""
        if self._lock is not None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / 'lock', 'w')
        if fcntl is None:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock = None
            raise UserError(
                f'Another comparison is at work in {self.path}. Wait for it, '
                'or give another --work-dir.') from None
        except OSError:  # a file system without locks
            pass

    def run(self, tool: str, arguments: Sequence[str], log: str) -> float:
        """Run ``tools/TOOL.py`` and wait for it.

        Args:
            tool (str): ``'train'``, ``'test'`` or ``'train_bicross'``.
            arguments (Sequence[str]): Its command line.
            log (str): File in the folder for what it prints.

        Returns:
            float: Peak resident memory of the process in MB, 0 where the
            system does not tell.

        Raises:
            RunError: If it fails.
            UserError: If another comparison is at work there.
        """
        self._claim()
        # the run has the lock too, in case that it outlives this process
        shared = dict(pass_fds=[self._lock.fileno()]) if fcntl else {}
        script = package_root() / 'tools' / f'{tool}.py'
        command = [sys.executable, str(script), *map(str, arguments)]
        with open(self.path / log, 'w') as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, **shared)
            code, peak = _wait(process)
        if code:
            lines = (self.path / log).read_text().splitlines()
            raise RunError(
                f'{arguments[0]} failed (exit code {code}); the log is '
                f'{self.path / log}', '\n'.join(lines[-15:]))
        return peak


def _wait(process: subprocess.Popen) -> tuple:
    """Exit code and peak memory in MB of a child."""
    try:
        if not hasattr(os, 'wait4'):
            return process.wait(), 0.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        unit = 1 if sys.platform == 'darwin' else 1024
        return process.returncode, usage.ru_maxrss * unit / 2**20
    except BaseException:
        # An interrupted comparison leaves no run behind.
        if process.returncode is None:
            process.terminate()
        raise


def option_arguments(options: Dict[str, Any]) -> List[str]:
    """``KEY=VALUE`` for ``--cfg-options`` from parsed options."""
    return [f'{key}={value}' for key, value in options.items()]


def mean_of(values: Iterable[Optional[float]]) -> Optional[float]:
    """Mean of what was scored; None where nothing was."""
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None


def std_of(values: Iterable[Optional[float]]) -> float:
    """Sample standard deviation of what was scored; 0 of a single value."""
    known = [v for v in values if v is not None]
    return statistics.stdev(known) if len(known) > 1 else 0.


def number(value: Optional[float], digits: int = 2) -> str:
    """A cell of a table; ``-`` for None."""
    return '-' if value is None else f'{value:.{digits}f}'


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)
