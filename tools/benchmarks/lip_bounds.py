# Copyright (c) mmext contributors. All rights reserved.
r"""Bounds of distance nets: ours and auto_LiRPA's, agreement and time.

The same network at p = inf with the same images and radius, in one run::

    python tools/benchmarks/lip_bounds.py --lirpa-python VENV/bin/python \
        --out FILE

auto_LiRPA 0.3, the release on PyPI, needs numpy 1 and torch 1.12, so it runs
in an interpreter of its own (Python 3.10)::

    python3.10 -m venv VENV
    VENV/bin/pip install "torch==1.12.1" "torchvision==0.13.1" "numpy<2" \
        "pillow<11" tqdm appdirs packaging pyyaml
    VENV/bin/pip install --no-deps auto_LiRPA

Without it only our rows are printed. ``--attack`` adds the time of PGD with
100 steps on the same images, what a certificate saves. ``--autoattack`` adds
AutoAttack (``pip install torchattacks``): how many images are certified, how
many stand, and how many of the certified ones fell, which must be none.
"""
import argparse
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import torch

from mmext.models.lipschitz.attacks import (autoattack, autoattack_package,
                                            pgd_attack)
from mmext.models.lipschitz.bounds import BoundFlatten, BoundMaxPool2d, Bounds
from mmext.models.lipschitz.certifier import Certifier
from mmext.models.lipschitz.functional import find_backend
from mmext.models.lipschitz.layers import DistanceLayer
from mmext.models.lipschitz.networks import DistanceNet, build_network
from mmext.models.lipschitz.p_norm import set_p
from mmext.utils.user_error import UserError, run_tool
from rows import Rows
from timing import times

WORKER = Path(__file__).with_name('lirpa_worker.py')
NETWORKS = dict(
    mlp=dict(arch='mlp', depth=3, width=0.5, input_size=(1, 28, 28)),
    lenet=dict(arch='lenet', hidden=512))


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--networks', nargs='+', choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--eps', type=float, default=0.1)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument(
        '--lirpa-python',
        default=sys.executable,
        help='interpreter that can import auto_LiRPA. Default: this one')
    parser.add_argument(
        '--attack', action='store_true', help='also time PGD-100')
    parser.add_argument(
        '--autoattack',
        action='store_true',
        help='also certify, and attack by AutoAttack; needs torchattacks')
    parser.add_argument('--out', help='JSON file to write')
    return parser.parse_args(argv)


def build(name: str, batch: int) -> DistanceNet:
    """A network of random weights whose running means fit its outputs."""
    torch.manual_seed(0)
    net = build_network(num_classes=10, momentum=1., **NETWORKS[name])
    set_p(net, math.inf)
    with torch.no_grad():
        net.train()(torch.randn(64, *net.body.input_size))
    return net.eval()


def describe(net: DistanceNet) -> tuple:
    """Layers and arrays for an interpreter without mmext."""
    layers: List[Dict[str, Any]] = []
    arrays: Dict[str, np.ndarray] = {}
    for module in [*net.body.layers, net.head.fc, net.head.negate]:
        if isinstance(module, DistanceLayer):
            offset = torch.zeros(len(module.weight))
            if module.mean_shift is not None:
                offset = offset - module.mean_shift.running_mean
            if module.bias is not None:
                offset = offset + module.bias.detach()
            name = f'layer{len(layers)}'
            arrays[f'{name}_weight'] = module.weight.detach().numpy()
            arrays[f'{name}_offset'] = offset.numpy()
            layers.append(
                dict(
                    kind='distance',
                    weight=f'{name}_weight',
                    offset=f'{name}_offset',
                    stride=getattr(module, 'stride', 1)))
        elif isinstance(module, BoundMaxPool2d):
            layers.append(
                dict(
                    kind='maxpool',
                    size=module.kernel_size,
                    stride=module.stride))
        elif isinstance(module, BoundFlatten):
            layers.append(dict(kind='flatten'))
        else:
            layers.append(dict(kind='negate'))
    return layers, arrays


@torch.no_grad()
def ours(net: DistanceNet, x: torch.Tensor, args: argparse.Namespace) -> tuple:
    """Bounds of the logits, and the row of the table."""
    box = Bounds(None, x - args.eps, x + args.eps)
    time_taken = statistics.median(times(lambda: net(box), args.repeats))
    clean = statistics.median(times(lambda: net(x), args.repeats))
    found = net(box)
    row = dict(
        library='mmext',
        backend=find_backend('auto', x).__name__.rsplit('.', 1)[-1],
        torch=torch.__version__,
        ms_per_image=1e3 * time_taken / len(x),
        forward_ms_per_image=1e3 * clean / len(x))
    return found, row


def lirpa(net: DistanceNet, x: torch.Tensor, found: Bounds,
          args: argparse.Namespace) -> Optional[dict]:
    """The row of auto_LiRPA, or None with a line that says why."""
    layers, arrays = describe(net)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, 'net.npz'), Path(folder, 'out.npz')
        np.savez(
            source,
            x=x.numpy(),
            eps=args.eps,
            layers=np.array(json.dumps(layers)),
            **arrays)
        done = subprocess.run([
            args.lirpa_python,
            str(WORKER),
            str(source),
            str(target), '--threads',
            str(args.threads), '--repeats',
            str(args.repeats)
        ],
                              stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT,
                              text=True)
        if done.returncode or not target.is_file():
            last = (done.stdout.strip() or 'no message').splitlines()[-1]
            print(f'no row of auto_LiRPA: {last} (--lirpa-python names an '
                  'interpreter that has it; see --help)')
            return None
        with np.load(target) as file:
            theirs = {key: file[key] for key in file.files}
    lower, upper = found.lower.numpy(), found.upper.numpy()
    clean = net(x).detach().numpy()
    return dict(
        library=f'auto_LiRPA {theirs["version"]}',
        backend='IBP',
        torch=str(theirs['torch']),
        ms_per_image=1e3 * float(theirs['seconds']) / len(x),
        largest_difference_of_logits=float(
            np.abs(theirs['logits'] - clean).max()),
        largest_difference_of_bounds=float(
            max(
                np.abs(theirs['lower'] - lower).max(),
                np.abs(theirs['upper'] - upper).max())),
        mean_width_ours=float((upper - lower).mean()),
        mean_width=float((theirs['upper'] - theirs['lower']).mean()))


@torch.no_grad()
def own_labels(net: DistanceNet, x: torch.Tensor) -> torch.Tensor:
    """Predicted classes, as labels of an attack on the inputs alone."""
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return net(x).argmax(1)


def attack(net: DistanceNet, x: torch.Tensor,
           args: argparse.Namespace) -> dict:
    """The row of the attack."""
    labels = own_labels(net, x)
    start = time.perf_counter()
    found = pgd_attack(net, x, labels, args.eps, steps=100, restarts=1)
    taken = time.perf_counter() - start
    with torch.no_grad():
        standing = (net(found).argmax(1) == labels).double().mean()
    return dict(
        library='mmext',
        backend='PGD-100, 1 start',
        ms_per_image=1e3 * taken / len(x),
        standing=float(standing))


def strongest(net: DistanceNet, x: torch.Tensor,
              args: argparse.Namespace) -> dict:
    """The row of AutoAttack, beside the certificates of the same balls.

    It takes images in [0, 1], so that the range of these inputs is black to
    white; the certificates leave out what lies beyond it, too.
    """
    labels = own_labels(net, x)
    black = float(x.min())
    scale = float(x.max()) - black
    certifier = Certifier(
        net.body, net.head, mean=-black / scale, std=1 / scale)
    with torch.no_grad():
        certified = certifier.residual(x, labels,
                                       args.eps / scale).certified(labels)
    start = time.perf_counter()
    found = autoattack(lambda images: net(black + scale * images),
                       ((x - black) / scale).clamp(0, 1), labels,
                       args.eps / scale)
    taken = time.perf_counter() - start
    with torch.no_grad():
        standing = net(black + scale * found).argmax(1) == labels
    return dict(
        library=autoattack_package(),
        backend='AutoAttack',
        ms_per_image=1e3 * taken / len(x),
        certified=float(certified.double().mean()),
        standing=float(standing.double().mean()),
        violations=int((certified & ~standing).sum()))


def as_rows(args: argparse.Namespace, results: Dict[str, List[dict]]) -> Rows:
    """Settings and numbers in the form that all benchmarks write."""
    found = [(name, getattr(args, name))
             for name in ('batch', 'eps', 'threads')]
    found += [('_'.join(
        (name, row['library'], row['backend'], measure)), value)
              for name, rows in results.items() for row in rows
              for measure, value in row.items()
              if isinstance(value, (int, float))]
    rows = Rows(digits=None, show=False)
    for name, value in found:
        unit = 'ms' if 'ms_per_image' in name else ''
        target = 0 if name.endswith('violations') else None
        rows.add(re.sub(r'\W+', '_', name), value, unit, target)
    return rows


def main(argv=None) -> None:
    args = parse_args(argv)
    if args.autoattack:
        try:
            autoattack_package()
        except ImportError as error:
            raise UserError(str(error)) from None
    torch.set_num_threads(args.threads)
    results = {}
    for name in args.networks:
        net = build(name, args.batch)
        x = torch.randn(
            args.batch,
            *net.body.input_size,
            generator=torch.Generator().manual_seed(1))
        found, row = ours(net, x, args)
        rows = [row]
        other = lirpa(net, x, found, args)
        if other is not None:
            other['times_slower'] = other['ms_per_image'] / \
                row['ms_per_image']
            rows.append(other)
        if args.attack:
            rows.append(attack(net, x, args))
        if args.autoattack:
            rows.append(strongest(net, x, args))
        results[name] = rows
        for row in rows:
            print(
                name,
                ' '.join(f'{k}={v:.4g}' if isinstance(v, float) else f'{k}={v}'
                         for k, v in row.items()))
    if args.out:
        as_rows(args, results).write(args.out)


if __name__ == '__main__':
    run_tool(main)
