# Copyright (c) mmext contributors. All rights reserved.
"""Commands in processes of their own; a failure shows what they printed."""
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, List, Optional, Sequence

ROOT = Path(__file__).resolve().parents[1]
_TAIL = 3000


def _tail(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors='replace')


def run_together(commands: Sequence[Sequence],
                 environments: Optional[Sequence[dict]] = None,
                 cwd: Path = ROOT,
                 code: Optional[int] = 0,
                 timeout: float = 400) -> List[str]:
    """Run commands at the same time.

    Args:
        commands (Sequence[Sequence]): Words of each; they become text.
        environments (Sequence[dict], optional): Variables of each, on top of
            this process's and one thread.
        cwd (Path): Where they run. Defaults to the checkout.
        code (int, optional): The exit code that each must have; None for
            any. When one has another, the others are ended.
        timeout (float): Seconds for all.

    Returns:
        list[str]: What each printed, stdout and stderr together.

    Raises:
        AssertionError: If a code is another one or the time is over; shows
            the end of what was printed.
    """
    # Files, as a pipe that is not read stops who writes to it.
    outputs = [tempfile.TemporaryFile() for _ in commands]
    jobs = []
    end = time.monotonic() + timeout
    try:
        for i, (words, output) in enumerate(zip(commands, outputs)):
            env = dict(os.environ, OMP_NUM_THREADS='1')
            env.update(environments[i] if environments else {})
            jobs.append(
                subprocess.Popen([*map(str, words)],
                                 cwd=cwd,
                                 env=env,
                                 stdout=output,
                                 stderr=subprocess.STDOUT,
                                 start_new_session=True))
        while any(job.poll() is None for job in jobs):
            late = time.monotonic() > end
            if late or code is not None and any(job.poll() not in (None, code)
                                                for job in jobs):
                break
            time.sleep(0.02)
        # None: it still ran
        codes = [job.poll() for job in jobs]
    finally:
        for job in jobs:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)  # with its children
            job.wait()
        texts = [_tail(output) for output in outputs]
        for output in outputs:
            output.close()
    if None in codes or code is not None and set(codes) != {code}:
        raise AssertionError('\n'.join(
            f'{" ".join(map(str, words))[:300]}\nended with '
            f'{"nothing, it was stopped" if found is None else found}, '
            f'expected {code}, after printing\n{text[-_TAIL:]}'
            for words, found, text in zip(commands, codes, texts)))
    return texts


def run(*command: object,
        cwd: Path = ROOT,
        code: Optional[int] = 0,
        timeout: float = 300,
        **environment: str) -> str:
    """Run one command, see :func:`run_together`; return what it printed."""
    return run_together([command], [environment], cwd, code, timeout)[0]


def run_python(source: str, *words: object, **options) -> str:
    """Run Python code with this interpreter, see :func:`run`."""
    return run(sys.executable, '-c', source, *words, **options)


def run_distributed(script: Path, *words: object, **options) -> str:
    """Run a script in two processes of ``torch.distributed.run``."""
    return run(sys.executable, '-m', 'torch.distributed.run', '--standalone',
               '--nproc-per-node=2', script, *words, **options)


def run_ranks(source: str, *words: object, ranks: int = 2) -> List[str]:
    """Run Python code in processes that know their rank.

    Starts faster than :func:`run_distributed`, and shows the output of each.
    """
    environments = [
        dict(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(ranks),
            MASTER_ADDR='127.0.0.1') for rank in range(ranks)
    ]
    port = str(free_port())
    for environment in environments:
        environment['MASTER_PORT'] = port
    return run_together([[sys.executable, '-c', source, *words]] * ranks,
                        environments)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]
