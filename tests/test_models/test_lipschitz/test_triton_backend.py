# Copyright (c) mmext contributors. All rights reserved.
"""The Triton kernels: interpreted on a CPU, compiled for an H100, on a GPU.

Triton decides at import whether kernels are interpreted, so those tests run
in a process of their own, which one test here starts.
"""
import importlib
import math
import os
import sys
from pathlib import Path

import pytest
import torch

from mmext.models.lipschitz import functional, reference
from mmext.models.lipschitz.geometry import Geometry
from tests.processes import run
from tests.test_golden import lipschitz_runs
from tests.tool_fixtures import tool

triton = pytest.importorskip('triton')
backend = importlib.import_module('mmext.models.lipschitz.triton_backend')
launch = importlib.import_module('mmext.models.lipschitz.triton_launch')

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
interpreted = pytest.mark.skipif(
    not INTERPRETED, reason='runs in the process that interprets kernels')
compiled = pytest.mark.skipif(
    INTERPRETED, reason='kernels are interpreted here')


def on_gpu(test):
    return pytest.mark.gpu(compiled(test))


POWERS = [8., 9.5, 100., math.inf]

LINEAR = ((5, 22, 1, 1), (14, 11, 1, 1), Geometry(groups=2))
CONV = ((2, 4, 5, 7), (6, 2, 3, 2), Geometry((2, 1), (1, 1), (1, 2), 2))
POINTWISE = ((2, 9, 3, 5), (5, 9, 1, 1), Geometry())
SHAPES = pytest.mark.parametrize('shapes', [LINEAR, CONV])


def test_kernels_in_the_interpreter():
    """Property 1, 3, 5 for this backend: see the tests marked below."""
    if INTERPRETED:
        pytest.skip('this is that process')
    output = run(
        sys.executable,
        *('-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider'),
        Path(__file__).resolve(),
        timeout=600,
        TRITON_INTERPRET='1')
    assert ' passed' in output


@pytest.fixture(autouse=INTERPRETED)
def one_rounding(monkeypatch):
    """tl.fma rounds once, as on a GPU; the interpreter rounds twice."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def create_fma(self, x, y, z):
        exact = x.data.astype('float64') * y.data + z.data
        return TensorHandle(exact.astype(z.data.dtype), z.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, 'create_fma', create_fma)


def _problem(shapes, scale=1., device='cpu'):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(device) * scale

    x, weight = normal(*shapes[0]), normal(*shapes[1])
    grad = normal(*shapes[2].output_shape(x, weight)) / scale
    return x, weight, grad


def _gradients(module, x, weight, grad, p, geometry, deterministic):
    """Output, index or None, and both gradients of a backend."""
    y, index = module.forward(x, weight, p, geometry, math.isinf(p))
    if index is not None:
        grads = module.backward_inf(grad, index, x.shape, weight.shape,
                                    geometry, True, True, deterministic)
    else:
        grads = module.backward_finite(grad, x, weight, y, p, geometry, True,
                                       True, deterministic)
    return (y, index, *grads)


def _compare(shapes, p, deterministic, scale=1., device='cpu'):
    x, weight, grad = _problem(shapes, scale, device)
    found = _gradients(backend, x, weight, grad, p, shapes[2], deterministic)
    wanted = _gradients(reference, x.double(), weight.double(), grad.double(),
                        p, shapes[2], True)
    if math.isinf(p):
        # The float32 distances of two positions may tie, others not.
        exact = reference.forward(x, weight, p, shapes[2], True)
        assert torch.equal(found[0], exact[0])
        assert torch.equal(found[1], exact[1])
    torch.testing.assert_close(
        found[0].double(), wanted[0], rtol=1e-6, atol=1e-6 * scale)
    tolerance = 2e-4 if p > 100 and not math.isinf(p) else 2e-5
    # Large problems: what float32 costs the reference path, this one may
    # cost too; a power of p multiplies each rounding by p.
    plain = found if device == 'cpu' else _gradients(reference, x, weight,
                                                     grad, p, shapes[2], True)
    for got, want, other in zip(found[2:], wanted[2:], plain[2:]):
        allowed = tolerance
        if device != 'cpu':
            allowed = max(allowed, float((other - want).abs().max()))
        torch.testing.assert_close(
            got.double(), want, rtol=allowed, atol=allowed)


@interpreted
@SHAPES
@pytest.mark.parametrize('p', POWERS)
def test_forward_and_gradients(monkeypatch, p, shapes):
    """Properties 1 and 6: odd sizes, groups, stride, padding, dilation."""
    monkeypatch.setattr(backend, 'PADDED', math.inf)
    _compare(shapes, p, False)


@interpreted
@SHAPES
def test_sums_of_both_gradients_in_parts(monkeypatch, shapes):
    """Several programs share a sum over outputs; some have no term."""
    monkeypatch.setattr(backend, 'PADDED', math.inf)
    monkeypatch.setattr(backend, 'MIN_TERMS', 3)
    seen = []
    parts = backend._parts
    monkeypatch.setattr(
        backend, '_parts', lambda *args: seen.append(parts(*args)) or seen[-1])
    _compare(shapes, 8., False)
    assert seen[0][0] > 1


@interpreted
def test_blocks_smaller_than_what_is_searched(monkeypatch):
    """Tiles of p = inf differ in KB; positions are the same."""
    monkeypatch.setattr(launch, 'block', lambda: 2 * launch._INTERPRETED['KB'])
    for shapes in (LINEAR, CONV):
        _compare(shapes, math.inf, False)


@interpreted
@SHAPES
@pytest.mark.parametrize('p', [8., 9.5, 100.])
def test_deterministic_gradients(monkeypatch, p, shapes):
    # Sums of a few terms each, put together afterwards.
    monkeypatch.setattr(backend, 'MIN_TERMS', 3)
    _compare(shapes, p, True)


@interpreted
@pytest.mark.parametrize('p', [.5, 1., 1.5, 2., 3., 16., 31.5, 33., 1000.])
def test_every_kind_of_power(p):
    for deterministic in (True, False):
        _compare(LINEAR, p, deterministic)


@interpreted
def test_convolution_of_pixels(monkeypatch):
    monkeypatch.setattr(backend, 'MIN_TERMS', 3)
    for p in (8., math.inf):
        _compare(POINTWISE, p, False)


@interpreted
@pytest.mark.parametrize('scale', [1e-4, 1e4, 1e6])
@pytest.mark.parametrize('p', [8., 16., 1000.])
def test_any_scale(p, scale):
    """Property 3: what float32 cannot hold is computed again."""
    _compare(LINEAR, p, False, scale)


@interpreted
def test_one_result_out_of_range_among_others():
    x, weight, _ = _problem(LINEAR)
    x[2] = weight[0].repeat(2, 1, 1) + 1e-6
    y, _ = backend.forward(x, weight, 16., LINEAR[2], False)
    wanted, _ = reference.forward(x.double(), weight.double(), 16., LINEAR[2],
                                  False)
    assert wanted.min() < 1e-5
    torch.testing.assert_close(y.double(), wanted, rtol=1e-6, atol=0)


@interpreted
@pytest.mark.parametrize('p', [1., 1.5, 8., 9.5, 33., 100., 1000.])
def test_no_difference(p):
    """Property 3: x equal to w gives 0 and no gradient."""
    x = torch.randn(3, 5, 1, 1)
    for deterministic in (True, False):
        y, _, grad_x, grad_w = _gradients(backend, x[:1], x,
                                          torch.ones(1, 3, 1, 1), p,
                                          Geometry(), deterministic)
        assert y[0, 0] == 0
        assert torch.equal(grad_w[0], torch.zeros(5, 1, 1))
        assert grad_x.isfinite().all() and grad_w.isfinite().all()


@interpreted
def test_ties_go_to_the_first_and_zero_counts_as_positive():
    """Property 5, also across the blocks that the kernel remembers."""
    x = torch.zeros(1, 40, 1, 1)
    weight = torch.zeros(4, 40, 1, 1)
    weight[0, [3, 20]], weight[1, [7, 30]] = 2., -2.
    weight[2, [31, 39]] = torch.tensor([-1., 1.]).view(2, 1, 1)
    y, index = backend.forward(x, weight, math.inf, Geometry(), True)
    assert y.flatten().tolist() == [2., 2., 1., 0.]
    assert index.flatten().tolist() == [~3, 7, 31, 0]
    grads = backend.backward_inf(
        torch.ones(1, 4, 1, 1), index, x.shape, weight.shape, Geometry(), True,
        True, False)
    assert grads[1].flatten(1).abs().sum(1).tolist() == [1.] * 4
    assert grads[0].flatten()[[3, 7, 31, 0]].tolist() == [-1., 1., 1., 1.]


@interpreted
def test_ties_of_a_convolution_follow_the_flattened_kernel():
    x, weight = torch.zeros(1, 2, 4, 4), torch.ones(3, 2, 3, 3)
    geometry = Geometry(padding=(1, 1))
    found = backend.forward(x, weight, math.inf, geometry, True)
    wanted = reference.forward(x, weight, math.inf, geometry, True)
    assert torch.equal(found[1], wanted[1])


@interpreted
@pytest.mark.parametrize('p', POWERS)
def test_nan_is_not_lost(p):
    x, weight, _ = _problem(CONV)
    x[0, 0, 2, 2] = math.nan
    y, _ = backend.forward(x, weight, p, CONV[2], False)
    wanted, _ = reference.forward(x, weight, p, CONV[2], False)
    assert wanted.isnan().any() and not wanted.isnan().all()
    assert torch.equal(y.isnan(), wanted.isnan())


@interpreted
@SHAPES
def test_bounds_are_exact(shapes):
    x, weight, _ = _problem(shapes)
    box = x - .1, x + .2
    for got, want in zip(
            backend.bounds(*box, weight, shapes[2]),
            reference.bounds(*box, weight, shapes[2])):
        assert torch.equal(got, want)


@interpreted
def test_reached_through_the_public_functions():
    x = torch.randn(3, 8).t().requires_grad_()
    weight = torch.randn(4, 3, requires_grad=True)
    results = []
    for name in ('triton', 'reference'):
        y = functional.lp_distance(x, weight, 8., backend=name)
        results.append((y, *torch.autograd.grad(y.sum(), (x, weight))))
    for got, want in zip(*results):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    y = functional.lp_distance(x, weight, math.inf, backend='triton')
    grad, = torch.autograd.grad(y.sum(), x)
    assert grad.abs().sum() <= y.numel()


@interpreted
@pytest.mark.parametrize('file', ['dist_linear', 'dist_conv'])
def test_recorded_numbers(file, monkeypatch):
    """Property 1: the operator's arrays of the golden set."""
    golden = importlib.import_module('tests.test_golden.test_lipschitz')
    path = golden.ROOT / f'{file}.npz'
    if not path.exists():
        pytest.skip(f'{path} is missing; set MMEXT_GOLDEN')
    run = lipschitz_runs.Run('triton', 'cpu', torch.float32)
    lipschitz_runs.need(run, monkeypatch)
    for function, _ in lipschitz_runs.CHECKS[file]:
        function(golden.Recorded(path, run.dtype, run.device), run)


@interpreted
def test_one_gradient_alone():
    x, weight, grad = _problem(LINEAR)
    for p in (8., math.inf):
        y, index = backend.forward(x, weight, p, LINEAR[2], True)
        for need in ((True, False), (False, True)):
            shapes = (x.shape, weight.shape, LINEAR[2], *need, False)
            grads = (
                backend.backward_inf(grad, index, *shapes)
                if math.isinf(p) else backend.backward_finite(
                    grad, x, weight, y, p, LINEAR[2], *need, False))
            assert [g is not None for g in grads] == list(need)


def test_says_why_it_cannot(monkeypatch):
    assert 'float32' in backend.unavailable(torch.zeros(1).double())
    if not INTERPRETED:
        assert 'CUDA' in backend.unavailable(torch.zeros(1))
    monkeypatch.setattr(backend, 'triton', None)
    assert 'not installed' in backend.unavailable(torch.zeros(1))


def test_tiles_that_mostly_idle_are_not_tried():
    configs = [
        triton.Config(config) for config in launch.CONFIGS['power_forward']
    ]
    wide = launch._prune(configs, dict(M=4096, N=512))
    narrow = launch._prune(configs, dict(M=4096, N=6))
    assert len(wide) == len(configs)
    assert {c.kwargs['RN'] * c.kwargs['LN'] for c in narrow} == {8}


@compiled
def test_tuner_knows_the_arguments():
    for name, configs in launch.CONFIGS.items():
        known = set(launch.kernel(name).arg_names)
        assert set(launch._KEY[name]) | set(configs[0]) <= known
        assert set(launch._ADDED_TO.get(name, [])) <= known
        assert launch._tuned(name).keys == launch._KEY[name]


def _cases():
    linear = dict(KH=1, KW=1, SH=1, SW=1, PH=0, PW=0, DH=1, DW=1, CONV=False)
    conv = dict(linear, KH=5, KW=3, SH=2, PH=1, DW=2, CONV=True)
    tile = dict(RM=2, RN=2, LM=16, LN=8, KB=4, STAGES=3)
    fused = dict(tile, LM=4, LN=32)
    each = dict(BLOCK=256)
    power = dict(SMALL=False, MODE=0)
    yield 'inf_forward', tile, dict(linear, NEED_BLOCK=False)
    yield 'inf_forward', tile, dict(conv, NEED_BLOCK=True)
    yield 'inf_resolve', each, dict(conv, KB=8)
    yield 'inf_scatter', each, dict(conv, NEED_X=True, NEED_W=True)
    yield 'inf_bounds', tile, conv
    yield 'power_forward', tile, dict(linear, POW=7)
    yield 'power_stable', tile, dict(linear, POW=8, REPAIR=True)
    yield 'power_stable', tile, dict(conv, POW=17, REPAIR=False)
    yield 'power_stable', tile, dict(linear, POW=18, REPAIR=False)
    yield 'power_backward', tile, dict(linear | power, POW=7)
    yield 'power_backward', tile, dict(conv | power, POW=18, MODE=1)
    yield 'power_backward', tile, dict(
        conv | power, POW=17, MODE=2, SMALL=True)
    yield 'power_backward_fused', fused, dict(linear | power, POW=8)
    yield 'power_backward_fused', fused, dict(conv | power, POW=17, MODE=1)


@compiled
@pytest.mark.parametrize('sizes', ['aligned', 'odd', 'one'])
@pytest.mark.parametrize('name,config,constants', _cases())
def test_compiles_for_a_gpu(name, config, constants, sizes):
    """Down to machine code, which needs Triton's compiler and no GPU."""
    gpu = tool('benchmarks/lp_distance_gpu')
    if gpu.disassembler() is None:
        pytest.skip('Triton came without its tools for CUDA')
    kernel = gpu.compile_kernel(name, config, sizes, **constants)
    assert kernel.asm['cubin']


@compiled
@pytest.mark.slow
def test_inner_loops_are_lean():
    """What the benchmark's table promises, with nothing spilled in loops."""
    rows = {
        row['name']: row
        for row in tool('benchmarks/lp_distance_gpu').instruction_rows()
    }
    for name, row in rows.items():
        if 'limit' in row:
            assert 2 * row['cells_per_clock'] > row['limit'], name
    assert rows['inf forward']['instructions_per_cell'][0] < 2.5


@pytest.fixture
def one_tile(monkeypatch):
    """Kernels with the first tile of each: the tuner compiles them all."""
    run = launch.run
    monkeypatch.setattr(
        launch, 'run', lambda *args, **kwargs: run(*args, **kwargs | dict(
            tune=False)))
    return monkeypatch


@on_gpu
@pytest.mark.parametrize('deterministic', [True, False])
@pytest.mark.parametrize('p', [*POWERS, 2., 1.5, 1000.])
@pytest.mark.parametrize('shapes', [
    LINEAR, CONV, POINTWISE, ((130, 300, 1, 1), (270, 300, 1, 1), Geometry()),
    ((8, 6, 32, 32), (16, 6, 5, 5), Geometry()),
    ((4, 32, 17, 17), (32, 32, 3, 3), Geometry(padding=(1, 1)))
])
def test_on_a_gpu(one_tile, shapes, p, deterministic):
    """Property 1 on the machine that the kernels are for."""
    _compare(shapes, p, deterministic, device='cuda')


@on_gpu
@pytest.mark.parametrize('shapes', [
    ((130, 304, 1, 1), (272, 304, 1, 1), Geometry()),
    ((4, 32, 17, 17), (48, 32, 3, 3), Geometry(padding=(1, 1)))
])
@pytest.mark.parametrize('name,p', [('inf_forward', math.inf),
                                    ('inf_bounds', math.inf),
                                    ('power_forward', 8.),
                                    ('power_stable', 9.5),
                                    ('power_backward', 8.),
                                    ('power_backward_fused', 100.)])
def test_every_tile_on_a_gpu(one_tile, name, p, shapes):
    for tile in launch.CONFIGS[name]:
        one_tile.setitem(launch.CONFIGS, name, (tile, ))
        _compare(shapes, p, name == 'power_backward', device='cuda')
        if name == 'inf_bounds':
            x, weight, _ = _problem(shapes, device='cuda')
            box = x - .1, x + .2
            for got, want in zip(
                    backend.bounds(*box, weight, shapes[2]),
                    reference.bounds(*box, weight, shapes[2])):
                assert torch.equal(got, want)


@on_gpu
def test_tuned_on_a_gpu():
    """With the tuner: its trials leave nothing behind in the results."""
    shapes = (130, 304, 1, 1), (272, 304, 1, 1), Geometry()
    for p in (8., math.inf):
        for _ in range(2):
            _compare(shapes, p, False, device='cuda')


@on_gpu
@pytest.mark.parametrize('p', POWERS)
def test_deterministic_on_a_gpu(one_tile, p):
    x, weight, grad = _problem(
        ((256, 320, 1, 1), (288, 320, 1, 1)) + (Geometry(), ), device='cuda')
    first, second = (
        _gradients(backend, x, weight, grad, p, Geometry(), True)
        for _ in range(2))
    for got, want in zip(first, second):
        assert got is None or torch.equal(got, want)


@on_gpu
def test_guards_on_a_gpu(one_tile):
    x, weight, _ = _problem(CONV, device='cuda')
    x[0, 0, 2, 2] = math.nan
    for p in POWERS:
        y, _ = backend.forward(x, weight, p, CONV[2], False)
        wanted, _ = reference.forward(x, weight, p, CONV[2], False)
        assert torch.equal(y.isnan(), wanted.isnan())
    for scale in (1e-4, 1e4):
        for p in (8., 16., 1000.):
            _compare(LINEAR, p, False, scale, 'cuda')
