# Copyright (c) mmext contributors. All rights reserved.
"""Speed and memory of the l_p distance operator.

All values with a target are ratios of two measurements of one run, so they
do not depend on the machine much::

    python tools/benchmarks/lp_distance.py --out FILE

The rivals are :func:`torch.cdist` and the chunked reference path. The floor
of the forward pass at p = inf is the vector instructions that no kernel can
do without, on registers only: per vector of cells a subtraction and one
instruction (AVX-512: range) or two (and, max) for the maximum of magnitudes.
The loop that measures it lies in the kernel's library (``lp_floor_inf``).

Times are the shortest of several runs, as other programs can only lengthen
them. Peak memory is the process's own, with the C++ kernel, beyond input,
weight, output, gradients and saved index. Rows about a GPU are there if CUDA
is. ``--plot FILE`` also draws the scaling over batch, width and threads.
"""
import argparse
import ctypes
import math
import subprocess
import sys
from typing import Callable, Dict, List

import torch
from torch import Tensor

from mmext.models.lipschitz import cpp_build
from mmext.models.lipschitz.functional import lp_distance, lp_distance_conv2d
from rows import Rows
from timing import best, gpu_clocks

BATCH, WIDTH = 128, 512
EXPONENTS = dict(inf=math.inf, p8=8., p9_5=9.5, p100=100.)
# Over torch.cdist, forward and backward (at p = inf also forward alone).
TARGETS = dict(inf=30., p8=20., p9_5=10., p100=10.)
# Instructions per cell and lane of spec sheets: results of FP32 per clock and
# multiprocessor, over instructions that a cell needs.
GPU_CELLS_PER_CLOCK = dict(inf=64, p8=18, p9_5=8, p100=8)
_MEMORY = '''
import math, torch
from mmext.models.lipschitz.functional import lp_distance_conv2d
def peak():
    for line in open('/proc/self/status'):
        if line.startswith('VmHWM'):
            return int(line.split()[1]) * 1024
def run(b, c, size, p):
    x = torch.randn(b, c, size, size).requires_grad_()
    w = torch.randn(c, c, 3, 3).requires_grad_()
    y = lp_distance_conv2d(x, w, p, padding=1, backend='cpp')
    y.backward(torch.ones_like(y))
    # input, gradient; output, upstream; index; weight, gradient
    pixels = b * c * size ** 2
    return 4 * (4 * pixels + pixels * math.isinf(p) + 2 * w.numel())
p = float('{p}')
run(1, 4, 16, p)
before = peak()
known = run(64, 96, 32, p)
print((peak() - before - known) / (4 * 64 * 96 * 9 * 32 ** 2))
'''


class Problem:
    """Inputs of a linear operator, and what to time with them.

    Args:
        batch (int): B. Defaults to 128.
        width (int): Ci and Co. Defaults to 512.
        device (str): Device. Defaults to 'cpu'.
    """

    def __init__(self,
                 batch: int = BATCH,
                 width: int = WIDTH,
                 device: str = 'cpu') -> None:
        torch.manual_seed(0)
        self.device = device
        self.x = torch.randn(batch, width, device=device)
        self.w = torch.randn(width, width, device=device)
        self.grad = torch.randn(batch, width, device=device)
        self.cells = batch * width * width

    def forward(self, operator: Callable, p: float, repeats: int = 7) -> float:
        """Seconds of a forward pass without gradients."""

        @torch.no_grad()
        def run():
            operator(self.x, self.w, p)

        return best(run, repeats, self.device)

    def both(self, operator: Callable, p: float, repeats: int = 7) -> float:
        """Seconds of a forward and a backward pass."""
        x, w = (t.detach().requires_grad_() for t in (self.x, self.w))

        def run():
            torch.autograd.grad(operator(x, w, p), (x, w), self.grad)

        return best(run, repeats, self.device)


def reference(x: Tensor, w: Tensor, p: float) -> Tensor:
    return lp_distance(x, w, p, backend='reference')


def floor_seconds(cells: int, threads: int, repeats: int = 7) -> float:
    """Seconds of the instructions that ``cells`` cells cannot do without."""
    floor = cpp_build.library().lp_floor_inf_f32
    floor.restype = ctypes.c_double
    count = ctypes.c_int64(cells), ctypes.c_int64(threads)
    return best(lambda: floor(*count), repeats)


def cpu_rows(add: Callable) -> None:
    """The CPU's targets."""
    problem = Problem()
    threads = torch.get_num_threads()
    floor = floor_seconds(problem.cells, threads, 15)
    ours = problem.forward(lp_distance, math.inf, 15)
    cdist = problem.forward(torch.cdist, math.inf, 3)
    add('inf_forward_speedup_over_cdist', cdist / ours, 'x', 20., more=True)
    add('inf_forward_over_instruction_floor', ours / floor, 'x', 1.5)
    add(
        'floor_vector_instructions_per_16_cells'
        if cpp_build.library().lp_vector_bytes() == 64 else
        'floor_vector_instructions_per_vector',
        cpp_build.library().lp_floor_instructions(), '')
    add('inf_forward_milliseconds', 1e3 * ours, 'ms')
    for name, p in EXPONENTS.items():
        ours = problem.both(lp_distance, p)
        cdist = problem.both(torch.cdist, p, 2)
        add(f'{name}_forward_backward_speedup_over_cdist',
            cdist / ours,
            'x',
            TARGETS[name],
            more=True)
        add(f'{name}_forward_backward_milliseconds', 1e3 * ours, 'ms')
        add(f'{name}_forward_backward_speedup_over_reference',
            problem.both(reference, p, 1) / ours, 'x')


def conv_rows(add: Callable, batch: int = 64) -> None:
    """Memory and speed of the convolution 3x3, 96 channels, 32x32.

    Args:
        add (Callable): ``Rows.add``.
        batch (int): Images whose time is taken; memory is that of 64.
            Defaults to 64.
    """
    for name in ('inf', 'p8'):
        code = _MEMORY.format(p=EXPONENTS[name])
        done = subprocess.run([sys.executable, '-c', code],
                              check=True,
                              capture_output=True,
                              text=True)
        add(f'{name}_conv_extra_memory_over_im2col',
            float(done.stdout.split()[-1]), 'x', 0.05)
    x, w = torch.randn(batch, 96, 32, 32), torch.randn(96, 96, 3, 3)
    ours = best(lambda: lp_distance_conv2d(x, w, math.inf, padding=1), 3)
    cells = x.numel() * 96 * 9
    floor = floor_seconds(cells, torch.get_num_threads(), 3)
    add('inf_conv_over_instruction_floor', ours / floor, 'x')


def gpu_rows(add: Callable) -> None:
    """The GPU against its instruction limits and against torch."""
    problem = Problem(512, 5120, 'cuda')
    small = Problem(128, 512, 'cuda')
    rate = gpu_clocks()

    def broadcast(x: Tensor, w: Tensor, p: float) -> Tensor:
        d = (x[:, None] - w).abs()
        if math.isinf(p):
            return d.amax(-1)
        largest = d.amax(-1, keepdim=True)
        return largest[..., 0] * (d / largest).pow(p).sum(-1).pow(1 / p)

    compiled = torch.compile(broadcast, dynamic=False)
    for name, p in EXPONENTS.items():
        limit = problem.cells / (GPU_CELLS_PER_CLOCK[name] * rate)
        ours = problem.forward(lp_distance, p)
        add(f'gpu_{name}_forward_over_limit', ours / limit, 'x', 2.)
        add(f'gpu_{name}_forward_milliseconds', 1e3 * ours, 'ms')
        add(f'gpu_{name}_forward_backward_milliseconds',
            1e3 * problem.both(lp_distance, p), 'ms')
        for rival, operator in (('cdist', torch.cdist), ('compiled_broadcast',
                                                         compiled)):
            ratio = small.both(operator, p) / small.both(lp_distance, p)
            add(f'gpu_{name}_speedup_over_{rival}', ratio, 'x', 1., more=True)


def scaling() -> Dict[str, Dict[str, List[float]]]:
    """Milliseconds over batch, width and threads."""
    threads = torch.get_num_threads()
    axes = dict(
        batch=[1, 4, 16, 64, 128, 256, 512],
        width=[64, 128, 256, 512, 1024],
        threads=list(range(1, threads + 1)))
    table: Dict[str, Dict[str, List[float]]] = {}
    for axis, values in axes.items():
        rows: Dict[str, List[float]] = dict({axis: values})
        for value in values:
            if axis == 'threads':
                torch.set_num_threads(value)
                problem = Problem()
            else:
                problem = Problem(**{axis: value})
            for name, p in EXPONENTS.items():
                rows.setdefault(name, []).append(
                    1e3 * problem.both(lp_distance, p, 3))
            rows.setdefault('cdist inf', []).append(
                1e3 * problem.both(torch.cdist, math.inf, 1))
        torch.set_num_threads(threads)
        table[axis] = rows
    return table


def plot(path: str) -> None:
    """Draw the scaling."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    table = scaling()
    figure, axes = plt.subplots(1, len(table), figsize=(12, 3.6), sharey=True)
    for ax, (axis, rows) in zip(axes, table.items()):
        values = rows.pop(axis)
        for name, times in rows.items():
            style = '--' if name.startswith('cdist') else '-'
            ax.plot(values, times, style, marker='o', label=name)
        ax.set(xlabel=axis, yscale='log', title=f'over {axis}')
        if axis != 'threads':
            ax.set_xscale('log', base=2)
        ax.grid(alpha=.3)
    axes[0].set_ylabel('forward + backward, ms')
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True, help='JSON file to write')
    parser.add_argument('--plot', help='picture of the scaling to write')
    parser.add_argument('--threads', type=int, help='as torch by default')
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = Rows()
    rows.add('threads', torch.get_num_threads(), '')
    if cpp_build.library() is None:
        print(f'No C++ kernel, hence no rows of the CPU: '
              f'{cpp_build.failure()}')
    else:
        cpu_rows(rows.add)
        conv_rows(rows.add)
    if torch.cuda.is_available():
        gpu_rows(rows.add)
    rows.write(args.out)
    if args.plot:
        plot(args.plot)


if __name__ == '__main__':
    main()
