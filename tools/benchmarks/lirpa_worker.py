# Copyright (c) mmext contributors. All rights reserved.
"""Interval bounds by auto_LiRPA, for ``lip_bounds.py``.

It runs in an interpreter of its own, since auto_LiRPA 0.3 needs an older
torch than mmext, and so imports nothing of mmext. The network comes as
arrays and is built of what auto_LiRPA knows: gather, subtract, abs, max.
"""
import argparse
import json
import statistics
import sys
import time

import numpy as np
import torch
from torch import nn


class Distance(nn.Module):
    """max_i |x_i - w_oi| - shift + bias on windows that a gather forms."""

    def __init__(self, spec: dict, arrays: dict, shape: tuple) -> None:
        super().__init__()
        weight = torch.from_numpy(arrays[spec['weight']])
        offset = torch.from_numpy(arrays[spec['offset']])
        self.register_buffer('weight', weight.flatten(1))
        self.register_buffer('offset', offset)
        self.shape = None
        if weight.dim() == 4:
            index = torch.arange(int(np.prod(shape))).view(1, *shape).double()
            columns = nn.functional.unfold(
                index, weight.shape[2], stride=spec['stride'])[0].long()
            self.register_buffer('index', columns.flatten())
            self.size = tuple(columns.shape)
            side = [(n - weight.shape[2]) // spec['stride'] + 1
                    for n in shape[1:]]
            self.shape = (len(weight), *side)

    def forward(self, x):
        if self.shape is None:
            return (x.unsqueeze(1) -
                    self.weight).abs().max(dim=2)[0] + self.offset
        columns = x.flatten(1).index_select(1, self.index).view(
            -1, 1, *self.size)
        y = (columns - self.weight[:, :, None]).abs().max(dim=2)[0]
        y = y + self.offset[:, None]
        return y.view(-1, *self.shape)


def build(layers: list, arrays: dict, shape: tuple) -> nn.Sequential:
    """The network, layer by layer; ``shape`` is that of one image."""
    modules = []
    x = torch.zeros(1, *shape)
    for spec in layers:
        kind = spec['kind']
        if kind == 'distance':
            modules.append(Distance(spec, arrays, tuple(x.shape[1:])))
        elif kind == 'maxpool':
            modules.append(nn.MaxPool2d(spec['size'], spec['stride']))
        elif kind == 'flatten':
            modules.append(nn.Flatten())
        elif kind == 'negate':
            modules.append(Negate())
        else:
            raise ValueError(f'unknown layer {kind}')
        x = modules[-1](x)
    return nn.Sequential(*modules)


class Negate(nn.Module):

    def forward(self, x):
        return -x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('network', help='arrays (.npz)')
    parser.add_argument('out', help='bounds to write (.npz)')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--repeats', type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        import auto_LiRPA as lirpa
    except Exception as error:  # whatever an old package dies of
        print(f'{type(error).__name__}: {error}', file=sys.stderr)
        raise SystemExit(3)
    with np.load(args.network) as file:
        arrays = {key: file[key] for key in file.files}
    x = torch.from_numpy(arrays['x'])
    network = build(
        json.loads(str(arrays['layers'])), arrays, tuple(x.shape[1:])).eval()
    eps = float(arrays['eps'])
    bounded = lirpa.BoundedModule(network, torch.zeros_like(x))
    box = lirpa.BoundedTensor(
        x, lirpa.PerturbationLpNorm(norm=float('inf'), eps=eps))
    times = []
    with torch.no_grad():
        for _ in range(args.repeats):
            start = time.perf_counter()
            lower, upper = bounded.compute_bounds(x=(box, ), method='IBP')
            times.append(time.perf_counter() - start)
    np.savez(
        args.out,
        lower=lower.numpy(),
        upper=upper.numpy(),
        logits=network(x).numpy(),
        seconds=statistics.median(times),
        version=lirpa.__version__,
        torch=torch.__version__)


if __name__ == '__main__':
    main()
