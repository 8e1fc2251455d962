# Copyright (c) mmext contributors. All rights reserved.
"""Compiling the C++ kernel, and living without a compiler."""
import math
import os
import shutil
import sys

import pytest
import torch

from mmext.models.lipschitz import cpp_build, reference
from mmext.models.lipschitz.functional import (find_backend, lp_distance,
                                               lp_distance_conv2d)
from mmext.utils.user_error import ConfigError
from tests.processes import run_python, run_together


@pytest.fixture
def fresh():
    """Look for the kernel anew, and forget what was found."""
    cpp_build.reset()
    yield
    cpp_build.reset()


@pytest.fixture
def lines(monkeypatch):
    found = []
    monkeypatch.setattr(cpp_build, 'print_log',
                        lambda message, **kwargs: found.append(message))
    return found


def test_no_compiler_means_the_reference_and_one_line(fresh, lines,
                                                      monkeypatch):
    monkeypatch.delenv('CXX', raising=False)
    monkeypatch.setattr(cpp_build.shutil, 'which', lambda name: None)
    x, w = torch.randn(3, 4), torch.randn(2, 4)
    for _ in range(2):
        assert find_backend('auto', x) is reference
        assert torch.equal(
            lp_distance(x, w, 8.), lp_distance(x, w, 8., backend='reference'))
    assert len(lines) == 1 and 'no C++ compiler' in lines[0]
    with pytest.raises(ConfigError, match='no C.. compiler'):
        lp_distance(x, w, 8., backend='cpp')


def test_failed_build_means_the_reference_and_one_line(fresh, lines, tmp_path,
                                                       monkeypatch):
    compiler = tmp_path / 'broken'
    compiler.write_text('#!/bin/sh\necho "internal error" >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv('CXX', str(compiler))
    monkeypatch.setenv('MMEXT_CACHE_DIR', str(tmp_path / 'cache'))
    assert find_backend('auto', torch.zeros(1)) is reference
    assert cpp_build.library() is None
    announced, failed = lines
    assert announced.startswith('Compiling')
    assert 'internal error' in failed
    # Nothing half-made is left for the next run to load.
    assert not list((tmp_path / 'cache').glob('*.so'))


def test_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('MMEXT_CACHE_DIR', str(tmp_path / 'a' / 'b'))
    assert cpp_build.cache_folder() == tmp_path / 'a' / 'b'
    monkeypatch.delenv('MMEXT_CACHE_DIR')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert cpp_build.cache_folder() == tmp_path / 'mmext'
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('MMEXT_CACHE_DIR', str(tmp_path / 'file'))
    folder = cpp_build.cache_folder()  # cannot be written
    assert folder.is_dir() and tmp_path not in folder.parents
    folder.rmdir()


def test_another_cpu_is_another_file(monkeypatch):
    compiler = [sys.executable]  # only its --version is called
    first = cpp_build.signature(compiler)
    assert cpp_build.signature(compiler) == first
    monkeypatch.setattr(cpp_build, '_cpu', lambda: 'flags: sse2')
    second = cpp_build.signature(compiler)
    monkeypatch.setattr(torch, '__version__', '0')
    assert len({first, second, cpp_build.signature(compiler)}) == 3


def test_processes_build_it_once(tmp_path):
    """Two at a time: both get a whole library, one compiles."""
    if not shutil.which('sh'):
        pytest.skip('needs a shell')
    compiler = tmp_path / 'compiler'
    # Stands in for a compiler: slow, and it writes in two steps.
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo 1 && exit\n'
        f'echo built >> {tmp_path}/log\n'
        'for last; do :; done\nprintf half > "$last"; sleep 0.5\n'
        'printf whole > "$last"\n')
    compiler.chmod(0o755)
    code = ('import ctypes; from mmext.models.lipschitz import cpp_build; '
            'cpp_build.ctypes.CDLL = lambda path: print(open(path).read()) '
            'or type("K", (), {"lp_abi": lambda self: cpp_build.ABI})(); '
            'cpp_build.library()')
    env = dict(CXX=str(compiler), MMEXT_CACHE_DIR=str(tmp_path / 'cache'))
    for out in run_together([[sys.executable, '-c', code]] * 2, [env] * 2):
        assert out.strip().splitlines()[-1] == 'whole'
    assert (tmp_path / 'log').read_text().split() == ['built']


def test_sources_are_packaged():
    names = {path.name for path in cpp_build.SOURCES.iterdir()}
    assert 'lp_distance.cpp' in names


@pytest.mark.skipif(
    not os.path.exists('/proc/self/status'), reason='needs /proc')
def test_convolution_never_unfolds():
    """Peak memory beyond inputs and results stays far below the unfold."""
    if cpp_build.library() is None:
        pytest.skip(f'no C++ kernel here: {cpp_build.failure()}')
    code = '''
import math, torch
from mmext.models.lipschitz.functional import lp_distance_conv2d
torch.set_num_threads(2)
def peak():
    for line in open('/proc/self/status'):
        if line.startswith('VmHWM'):
            return int(line.split()[1]) * 1024
def run(b, c, size):
    x = torch.randn(b, c, size, size).requires_grad_()
    w = torch.randn(8, c, 3, 3).requires_grad_()
    for p in (8., math.inf):
        y = lp_distance_conv2d(x, w, p, padding=1, backend='cpp')
        y.backward(torch.ones_like(y))
    return x, w
run(1, 2, 8)
b, c, size = 16, 96, 32
before = peak()
run(b, c, size)
known = 4 * (3 * b * c * size ** 2 + 5 * b * 8 * size ** 2 + 4 * 8 * c * 9)
print((peak() - before - known) / (4 * b * c * 9 * size ** 2))
'''
    # Pages of the allocator count too, so that the limit is not that of
    # tools/benchmarks/lp_distance.py, which takes a larger problem.
    assert float(run_python(code).split()[-1]) < 0.15


def test_fallback_computes_convolutions(fresh, lines, monkeypatch):
    monkeypatch.setattr(cpp_build.shutil, 'which', lambda name: None)
    monkeypatch.delenv('CXX', raising=False)
    # The image is above the weights, so that no two gradients cancel.
    x = torch.rand(2, 3, 5, 5).requires_grad_()
    y = lp_distance_conv2d(x, -torch.rand(4, 3, 3, 3), math.inf)
    y.sum().backward()
    assert x.grad.sum() == y.numel()
