# Copyright (c) mmext contributors. All rights reserved.
"""GPU side of ``lp_distance.py``: what kernels could do and what they do.

A limit is a rate of cells (one x - w each) per clock of a multiprocessor,
from its 128 float32 results, 64 minima or maxima and 16 special functions
per clock, for the instructions that a method cannot do without.

``instruction_rows`` needs no GPU: it compiles every kernel for an H100 and
counts the machine instructions of its innermost loop, which bound the rate
from above. ``gpu_rows`` measures, against the limits and against what else
torch offers. Alone, the file prints both as a table, and writes them as rows
with their targets::

    python tools/benchmarks/lp_distance_gpu.py --out FILE
"""
import argparse
import collections
import math
import re
import subprocess
import tempfile
from pathlib import Path
from typing import (Any, Callable, Dict, Iterable, List, Optional, Sequence,
                    Tuple)

import torch
from torch import Tensor

from mmext.models.lipschitz import functional
from mmext.utils.dependency import has
from mmext.utils.user_error import run_tool
from rows import Rows
from timing import gpu_clocks

CAPABILITY = 90
# Times over the limit, and rivals' times over ours.
OVER_LIMIT, OVER_RIVAL = 2., 1.
# A layer that does not fill the card is measured, not judged by the limit.
SMALL = (128, 512, 512)
LARGE = (512, 5120, 5120)
# Cells per clock and multiprocessor that the units of an H100 allow.
LIMITS = {
    'inf forward': 64.,
    'inf forward and index': 43.,
    'inf bounds': 18.,
    'p = 8 forward': 18.,
    'p = 8 gradients': 16.,
    'general p forward': 8.,
    'general p gradients': 8.
}
_POINTERS = {
    'x', 'w', 'y', 'lower', 'upper', 'y_lower', 'y_upper', 'held', 'stream',
    'inverse', 'grad', 'result', 'stream_grad', 'grad_x', 'grad_w'
}
_LINEAR = dict(KH=1, KW=1, SH=1, SW=1, PH=0, PW=0, DH=1, DW=1, CONV=False)
_CONV = dict(_LINEAR, KH=3, KW=3, PH=1, PW=1, CONV=True)


def compile_kernel(name: str,
                   config: Dict[str, int],
                   sizes: str = 'aligned',
                   **constants: int) -> Any:
    """Compile a kernel for an H100, without one.

    Args:
        name (str): Name of a kernel of ``triton_launch``.
        config (dict): Tile, one of ``triton_launch.CONFIGS``; for kernels
            without one, ``BLOCK`` and ``KB``.
        sizes (str): 'aligned' (all are multiples of 16), 'odd' or 'one'
            (all are 1, which Triton makes constants). Defaults to
            'aligned'.
        constants (int): Constants of the kernel beside the tile's.

    Returns:
        CompiledKernel: With ``asm['cubin']``.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mmext.models.lipschitz import triton_launch
    kernel = triton_launch.kernel(name)
    constants = dict(_LINEAR, FAST=True, **config) | constants
    signature, constexprs, attributes = {}, {}, {}
    for i, (param, arg) in enumerate(zip(kernel.params, kernel.arg_names)):
        if param.is_constexpr:
            signature[arg], constexprs[arg] = 'constexpr', constants[arg]
            continue
        pointer = arg in _POINTERS
        signature[arg] = '*fp32' if pointer else {
            'block': '*i32',
            'index': '*i32',
            'p': 'fp32'
        }.get(arg, 'i32')
        if sizes == 'one' and signature[arg] == 'i32':
            signature[arg], constexprs[arg] = 'constexpr', 1
        elif pointer or sizes == 'aligned' and signature[arg] == 'i32':
            attributes[(i, )] = [['tt.divisibility', 16]]
    warps = config['LM'] * config['LN'] // 32 if 'LM' in config else 4
    return triton.compile(
        ASTSource(
            fn=kernel,
            signature=signature,
            constexprs=constexprs,
            attrs=attributes),
        target=GPUTarget('cuda', CAPABILITY, 32),
        options=dict(num_warps=warps))


def disassembler() -> Optional[Path]:
    """Path of the ``cuobjdump`` that comes with Triton, if it does."""
    if not has('triton'):
        return None
    import triton
    path = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
    return path if path.exists() else None


def machine_code(compiled: Any) -> Tuple[List[Tuple[int, str]], str]:
    """Instructions (address, text) of a kernel, and its resources."""
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(compiled.asm['cubin'])
        file.flush()
        texts = [
            subprocess.run([str(disassembler()), option, file.name],
                           capture_output=True,
                           text=True,
                           check=True).stdout
            for option in ('-sass', '-res-usage')
        ]
    found = re.findall(r'/\*([0-9a-f]{4,})\*/\s+(.*?);', texts[0])
    return [(int(at, 16), text) for at, text in found], texts[1]


def loops(code: Sequence[Tuple[int, str]]) -> List[collections.Counter]:
    """How often each instruction occurs in each loop, in order."""
    found = []
    for at, text in code:
        branch = re.search(r'\bBRA\b.*?(0x[0-9a-f]+)', text)
        if branch and int(branch[1], 16) < at:
            start = int(branch[1], 16)
            found.append(
                collections.Counter(
                    re.sub(r'^@!?U?P\w+ ', '', t).split()[0].split('.')[0]
                    for a, t in code if start <= a <= at))
    return found


def instruction_rows() -> List[Dict[str, Any]]:
    """Instructions per cell of each kernel's loops, on an H100.

    ``cells_per_clock`` is what they allow if nothing ever waits: the fewest
    of 128 issued, 64 extrema and 16 special functions per clock. A kernel
    with two sweeps has the rate of both one after the other, gradients that
    of two kernels.
    """
    from mmext.models.lipschitz import triton_kernels
    powers = {
        'p = 8': 8,
        'p = 9.5': triton_kernels.GENERAL,
        'p = 100': triton_kernels.NEAR_ONE
    }
    jobs = [('inf forward', 'inf_forward', dict(NEED_BLOCK=False), 1),
            ('inf forward and index', 'inf_forward', dict(NEED_BLOCK=True), 1),
            ('inf bounds', 'inf_bounds', {}, 1)]
    for name, kind in powers.items():
        power = dict(POW=kind)
        kernel = 'power_forward' if kind == 8 else 'power_stable'
        jobs += [(f'{name} forward', kernel, power, 1),
                 (f'{name} gradients', 'power_backward_fused', power, 1),
                 (f'{name} gradients, deterministic', 'power_backward', power,
                  2)]
    conv = '3x3 convolution, '
    jobs += [(conv + 'inf forward', 'inf_forward',
              dict(_CONV, NEED_BLOCK=False), 1),
             (conv + 'p = 8 gradients', 'power_backward_fused',
              dict(_CONV, POW=8, MODE=1), 1),
             (conv + 'p = 8 input gradient, deterministic', 'power_backward',
              dict(_CONV, POW=8, MODE=1), 1),
             (conv + 'p = 8 weight gradient, deterministic', 'power_backward',
              dict(_CONV, POW=8, MODE=2), 1)]
    defaults = dict(REPAIR=False, MODE=0, SMALL=False)
    return [
        _counted(name, kernel, dict(defaults, **constants), sweeps)
        for name, kernel, constants, sweeps in jobs
    ]


def _counted(name: str, kernel: str, constants: Dict[str, int],
             sweeps: int) -> Dict[str, Any]:
    from mmext.models.lipschitz import triton_launch
    config = triton_launch.CONFIGS[kernel][0]
    code, resources = machine_code(compile_kernel(kernel, config, **constants))
    cells = config['RM'] * config['RN'] * config['KB']
    per_cell, clocks = [], 0.
    for count in loops(code):
        per_cell.append(sum(count.values()) / cells)
        clocks += max(per_cell[-1] / 128, count['FMNMX'] / cells / 64,
                      count['MUFU'] / cells / 16)
    row = dict(
        name=name,
        instructions_per_cell=[round(v, 2) for v in per_cell],
        cells_per_clock=round(1 / (clocks * sweeps), 1))
    row.update({
        k.lower(): int(v)
        for k, v in re.findall(r'(REG|STACK):(\d+)', resources)
    })
    limit = LIMITS.get(re.sub(r'p = (9.5|100)', 'general p', name))
    return dict(row, limit=limit) if limit else row


def _milliseconds(run: Callable[[], Any]) -> float:
    from triton.testing import do_bench
    return float(do_bench(run, warmup=50, rep=300, return_mode='median'))


def _broadcast(x: Tensor, w: Tensor, p: float) -> Tensor:
    d = (x.unsqueeze(1) - w).abs()
    return d.amax(-1) if math.isinf(p) else d.pow(p).sum(-1).pow(1 / p)


def _rivals(x: Tensor, w: Tensor, p: float) -> Dict[str, Optional[float]]:
    """Milliseconds of forward passes of what torch has, None if it fails."""
    torch._dynamo.reset()  # each shape on its own, not with unknown sizes
    compiled = torch.compile(_broadcast)
    runs = dict(
        cdist_ms=lambda: torch.cdist(x, w, p),
        compiled_broadcast_ms=lambda: compiled(x, w, p))
    found: Dict[str, Optional[float]] = {}
    for name, run in runs.items():
        try:
            with torch.no_grad():
                found[name] = _milliseconds(run)
        except RuntimeError:  # out of memory, or no compiler
            found[name] = None
    return found


def _linear(batch: int, inputs: int, outputs: int) -> str:
    return f'linear {batch} x {inputs} x {outputs}'


def _measured(name: str, cells: int, run: Callable[[], Any],
              limit: str) -> Dict[str, Any]:
    ms = _milliseconds(run)
    best = 1e3 * cells / LIMITS[limit] / gpu_clocks()
    return dict(name=name, ms=ms, limit_ms=best, over_limit=ms / best)


def _steps(tag: str, cells: int, p: float, call: Callable[..., Tensor],
           x: Tensor, w: Tensor) -> List[Dict[str, Any]]:
    """Forward pass and gradients of one layer."""
    kind = 'inf' if math.isinf(p) else 'p = 8' if p == 8 else 'general p'
    with torch.no_grad():
        rows = [
            _measured(f'{tag}, p = {p}, forward', cells, lambda: call(x, w, p),
                      f'{kind} forward')
        ]
    x, w = x.requires_grad_(), w.requires_grad_()
    y = call(x, w, p)
    grad = torch.randn_like(y)
    if math.isinf(p):
        rows.append(
            _measured(f'{tag}, p = {p}, forward and index', cells,
                      lambda: call(x, w, p), 'inf forward and index'))

    def back() -> None:
        torch.autograd.grad(y, (x, w), grad, retain_graph=True)

    if math.isinf(p):
        rows.append(
            dict(name=f'{tag}, p = {p}, gradients', ms=_milliseconds(back)))
    else:
        rows.append(
            _measured(f'{tag}, p = {p}, gradients', cells, back,
                      f'{kind} gradients'))
    x.requires_grad_(False), w.requires_grad_(False)
    return rows


def gpu_rows(powers: Sequence[float] = (8., 9.5, 100.,
                                        math.inf)) -> List[Dict[str, Any]]:
    """Measured times of layers on the first GPU, against their limits.

    Args:
        powers (Sequence[float]): Exponents.

    Returns:
        list[dict]: ``name``, ``ms``, and where they apply ``limit_ms``,
        ``over_limit``, ``cdist_ms`` and ``compiled_broadcast_ms``. Empty
        without a GPU.
    """
    if not torch.cuda.is_available():
        return []
    rows: List[Dict[str, Any]] = []
    generator = torch.Generator('cuda').manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device='cuda', generator=generator)

    for batch, inputs, outputs in (SMALL, LARGE):
        x, w = normal(batch, inputs), normal(outputs, inputs)
        tag = _linear(batch, inputs, outputs)
        for p in powers:
            steps = _steps(tag, batch * inputs * outputs, p,
                           functional.lp_distance, x, w)
            steps[0].update(_rivals(x, w, p))
            rows.extend(steps)
        rows.append(
            _measured(
                f'{tag}, bounds', batch * inputs * outputs,
                lambda: functional.inf_distance_bounds(x - .1, x + .1, w),
                'inf bounds'))
    x, w = normal(64, 96, 32, 32), normal(96, 96, 3, 3)
    cells = 64 * 32 * 32 * w.numel()
    for p in powers:
        rows.extend(
            _steps(
                '3x3 convolution 96 x 32 x 32, batch 64', cells, p,
                lambda a, b, c: functional.lp_distance_conv2d(
                    a, b, c, padding=1), x, w))
    return rows


def _numbers(row: Dict[str, Any]) -> Iterable[Tuple[str, float, str]]:
    """(what, number, unit) of a row, without those that could not be had."""
    if row.get('ms') is not None:
        yield 'milliseconds', row['ms'], 'ms'
    if 'over_limit' in row:
        yield 'over_limit', row['over_limit'], 'x'
    for rival in ('cdist', 'compiled_broadcast'):
        if row.get(f'{rival}_ms') is not None:
            yield f'speedup_over_{rival}', row[f'{rival}_ms'] / row['ms'], 'x'
    for k, count in enumerate(row.get('instructions_per_cell', ())):
        yield f'instructions_per_cell_of_loop_{k}', count, ''
    if 'cells_per_clock' in row:
        yield 'cells_per_clock', row['cells_per_clock'], ''


def as_rows(found: Sequence[Dict[str, Any]]) -> Rows:
    """The table in the form that all benchmarks write.

    Args:
        found (Sequence[dict]): Rows of :func:`gpu_rows` and
            :func:`instruction_rows`.

    Returns:
        Rows: Times over the limit have the target 2, except for the layer
        that does not fill the card; those over rivals more than 1.
    """
    rows = Rows(show=False)
    for row in found:
        tag = 'gpu' if 'ms' in row else 'code'
        for what, value, unit in _numbers(row):
            target = None
            if what == 'over_limit' and not row['name'].startswith(
                    _linear(*SMALL)):
                target = OVER_LIMIT
            elif what.startswith('speedup'):
                target = OVER_RIVAL
            name = re.sub(r'\W+', '_', f'{tag}_{row["name"]}_{what}')
            rows.add(
                name,
                value,
                unit,
                target,
                more=unit == 'x' and what != 'over_limit')
    return rows


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', help='JSON file to write')
    args = parser.parse_args(argv)
    found: List[Dict[str, Any]] = gpu_rows()
    if not found:
        print('No GPU, hence no measured times.')
    if disassembler():
        found += instruction_rows()
    else:
        print('No Triton with its tools for CUDA, hence no counts of '
              'instructions.')
    for row in found:
        print(row)
    if args.out:
        as_rows(found).write(args.out)


if __name__ == '__main__':
    run_tool(main)
