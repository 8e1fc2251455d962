# Copyright (c) mmext contributors. All rights reserved.
"""Compiles the C++ kernel on first use and caches it.

The kernel has a C interface and includes neither Python's nor torch's
headers, so that a bare compiler call of seconds is enough: no ninja, no
Python headers, and no lock that a killed build would leave behind. A cached
library is used again only on the same kind of CPU, with the same compiler,
torch and sources.
"""
import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

import torch
from mmengine.logging import print_log

SOURCES = Path(__file__).parent / 'csrc'
CACHE_VARIABLE = 'MMEXT_CACHE_DIR'
COMPILERS = ('c++', 'g++', 'clang++')
FLAGS = ('-std=c++17', '-O3', '-shared', '-fPIC', '-ffp-contract=fast',
         '-fno-math-errno', '-fno-trapping-math', '-fvisibility=hidden', '-w')
# Tried in turn: not every compiler knows them all.
VARIANTS = (('-march=native', '-fopenmp'), ('-mcpu=native', '-fopenmp'),
            ('-march=native', ), ())
ABI = 1
TIMEOUT = 600

_lock = threading.Lock()
_found: Optional[Tuple[Optional[ctypes.CDLL], str]] = None


def library() -> Optional[ctypes.CDLL]:
    """The compiled kernel, or None where it cannot be built.

    The first call of a process loads or compiles it. A failure is logged
    once.
    """
    return _result()[0]


def failure() -> str:
    """Why there is no kernel; empty if there is one."""
    return _result()[1]


def _result() -> Tuple[Optional[ctypes.CDLL], str]:
    global _found
    with _lock:
        if _found is None:
            try:
                _found = _load(), ''
            except (OSError, RuntimeError, subprocess.SubprocessError) as e:
                _found = None, str(e) or type(e).__name__
                print_log(
                    'The distance operator runs without its C++ kernel, '
                    'which makes it several times slower on a CPU: '
                    f'{_found[1]}',
                    logger='current')
        return _found


def reset() -> None:
    """Forget the kernel, so that the next call looks for it again."""
    global _found
    with _lock:
        _found = None


def _load() -> ctypes.CDLL:
    compiler = find_compiler()
    path = cache_folder() / f'lp_distance_{signature(compiler)}.so'
    if not path.is_file():
        with _file_lock(path.with_suffix('.lock')):
            # Another process may have built it in the meantime.
            if not path.is_file():
                _build(compiler, path)
    kernel = ctypes.CDLL(str(path))
    if kernel.lp_abi() != ABI:
        raise RuntimeError(f'{path} belongs to another version; delete it.')
    return kernel


def find_compiler() -> List[str]:
    """The command of a C++ compiler: ``$CXX`` or what is on the path.

    Returns:
        list[str]: The command.

    Raises:
        RuntimeError: If there is none.
    """
    asked = shlex.split(os.environ.get('CXX', ''))
    for command in ([asked] if asked else [[name] for name in COMPILERS]):
        if shutil.which(command[0]):
            return command
    raise RuntimeError(
        f'no C++ compiler was found ({", ".join(asked or COMPILERS)}); '
        'install g++ or clang++, or set CXX.')


def cache_folder() -> Path:
    """Where compiled kernels are kept.

    ``$MMEXT_CACHE_DIR``, or ``mmext`` in ``$XDG_CACHE_HOME`` or ``~/.cache``;
    a fresh temporary folder where none of them can be written.

    Returns:
        Path: An existing folder.
    """
    if os.environ.get(CACHE_VARIABLE):
        folder = Path(os.environ[CACHE_VARIABLE])
    else:
        folder = Path(
            os.environ.get('XDG_CACHE_HOME')
            or Path('~/.cache').expanduser()) / 'mmext'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):
        return Path(tempfile.mkdtemp(prefix='mmext_'))


def signature(compiler: List[str]) -> str:
    """A key of all that a compiled kernel depends on.

    Args:
        compiler (list[str]): The compiler's command.

    Returns:
        str: 16 hexadecimal digits.
    """
    version = subprocess.run([*compiler, '--version'],
                             capture_output=True,
                             text=True,
                             timeout=TIMEOUT).stdout
    parts = [
        *FLAGS, *map(str, VARIANTS), *compiler, version, torch.__version__,
        platform.platform(),
        _cpu()
    ]
    parts += [
        path.read_text() for path in sorted(SOURCES.iterdir())
        if path.suffix in ('.h', '.cpp')
    ]
    return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:16]


def _cpu() -> str:
    """Model and instruction sets of this machine's CPU."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return f'{platform.machine()} {platform.processor()}'
    names = ('model name', 'flags', 'Features', 'CPU part')
    return '\n'.join(
        sorted({line
                for line in lines if line.startswith(names)}))


@contextlib.contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    """One process at a time; the system releases it if a process dies.

    Without locks, as on Windows, processes build side by side, which is
    wasteful but safe.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path, 'w') as file:
        with contextlib.suppress(OSError):  # some network file systems
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(compiler: List[str], path: Path) -> None:
    """Compile into place, atomically."""
    print_log(
        'Compiling the distance operator for this CPU, once '
        f'({" ".join(compiler)}, {path})',
        logger='current')
    source = str(SOURCES / 'lp_distance.cpp')
    error = ''
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        for variant in VARIANTS:
            command = [*compiler, *FLAGS, *variant, source, '-o', str(made)]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT)
            if done.returncode == 0 and made.is_file():
                os.replace(made, path)
                return
            error = error or done.stderr.strip().splitlines()[:1]
    raise RuntimeError(f'{" ".join(compiler)} could not compile {source}'
                       f'{": " + error[0] if error else "."}')
