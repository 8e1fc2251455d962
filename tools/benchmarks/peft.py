# Copyright (c) mmext contributors. All rights reserved.
r"""Speed and memory of MoSA against a standard adapter and the plain backbone.

All values with a target are ratios of two measurements in one run, so they
do not depend on the machine much::

    python tools/benchmarks/peft.py --out FILE

Times are medians of runs in turn. Memory is the peak of all tensors that are
alive during a training step (on a GPU, of the allocator). ``--compile`` adds
the same ratios under ``torch.compile``.
"""
import argparse
import copy
import functools
import gc
import statistics
import weakref
from typing import Callable, Dict

import torch
import torch.nn as nn
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import mmext  # noqa: F401
from mmext.models.adapters import MoSAModel
from mmext.registry import MODELS
from rows import Rows
from timing import in_turn, ratio, wall_clock

WIDTH = {'vit-small': 384, 'vit-base': 768}
BOTTLENECK = {'vit-small': 32, 'vit-base': 64}
CLASSES = 100


@functools.lru_cache(maxsize=1)
def host(arch: str, size: int) -> nn.Module:
    """A classifier of the size of DeiT-S or ViT-B, not initialised."""
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(
                type='VisionTransformer',
                arch='deit-small' if arch == 'vit-small' else 'base',
                img_size=size,
                patch_size=16),
            head=dict(
                type='LinearClsHead',
                num_classes=CLASSES,
                in_channels=WIDTH[arch])))


def build(args: argparse.Namespace, **options) -> nn.Module:
    """A tuned model; the default options are those of the recipes."""
    torch.manual_seed(0)
    adapter = dict(type='AdaptFormer', bottleneck=BOTTLENECK[args.arch])
    options = dict(dict(adapter=adapter), **options)
    module = copy.deepcopy(host(args.arch, args.size))
    return MoSAModel(module, **options).to(args.device)


class Memory(TorchDispatchMode):
    """Context: the most bytes that tensors made inside it hold at a time.

    The allocator of a CPU keeps no such record.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: Dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for item in tree_flatten(out)[0]:
            if isinstance(item, torch.Tensor):
                self._add(item.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self.now += size
        self.peak = max(self.peak, self.now)
        self._known[key] = weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.now -= size


def held(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers."""
    tensors = list(model.parameters()) + list(model.buffers())
    return sum(t.numel() * t.element_size() for t in tensors)


class Step:
    """One training step of a model.

    Args:
        model (nn.Module): The model.
        args (Namespace): Batch, size and device.
        compiled (bool): Whether to compile the model. Defaults to False.
    """

    def __init__(self,
                 model: nn.Module,
                 args: argparse.Namespace,
                 compiled: bool = False) -> None:
        self.model = model.train()
        self.device = args.device
        self.run = torch.compile(model) if compiled else model
        self.x = torch.randn(
            args.batch, 3, args.size, args.size, device=args.device)
        self.samples = [
            DataSample().set_gt_label(i % CLASSES).to(args.device)
            for i in range(args.batch)
        ]
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        model.guard(self.optimizer)

    def __call__(self) -> None:
        self.model.draw()
        losses = self.run(self.x, self.samples, mode='loss')
        loss, _ = self.model.parse_losses(losses)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def memory(self) -> float:
        """Peak bytes of a step, with the model and the optimizer's state."""
        gc.collect()  # earlier models are in cycles with their guards
        if self.device != 'cpu':
            self()
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self()
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated()
        with Memory() as memory:
            self()
            self()
        return memory.peak + held(self.model)


VARIANTS = dict(
    mosa=dict(),
    standard=dict(num_modules=1),
    standard_one_pass=dict(num_modules=1, num_passes=1),
    replicated=dict(storage='replicated'),
    sequential=dict(batch_passes=False),
)


def training_times(args: argparse.Namespace,
                   add: Callable,
                   compiled: bool = False) -> None:
    """Step times, as ratios."""
    names = ('mosa', 'standard', 'standard_one_pass') if compiled else \
        tuple(VARIANTS)
    steps = {
        name: Step(build(args, **VARIANTS[name]), args, compiled)
        for name in names
    }
    seconds = in_turn(steps, args.repeats, wall_clock(args.device), 2)
    end = '_compiled' if compiled else ''
    value = ratio(seconds, 'mosa', 'standard')
    add(f'step_over_standard_same_passes{end}', value, 'x', 1.05)
    add(f'step_over_standard_one_pass{end}',
        ratio(seconds, 'mosa', 'standard_one_pass'), 'x')
    for name in ('replicated', 'sequential'):
        if name in names:
            add(f'step_over_{name}', ratio(seconds, 'mosa', name), 'x')
    add(f'step_seconds{end}', statistics.median(seconds['mosa']), 's')


def training_memory(args: argparse.Namespace, add: Callable) -> None:
    """Peak memory of a step, as ratios; each model alone on the device."""
    variants = dict(
        VARIANTS,
        full=dict(
            adapter=dict(type='FullFineTune'), num_modules=1, num_passes=1))
    peak = {}
    for name, options in variants.items():
        peak[name] = Step(build(args, **options), args).memory()
    mosa = peak['mosa']
    add('memory_over_standard_same_passes', mosa / peak['standard'], 'x', 1.05)
    add('memory_over_standard_one_pass', mosa / peak['standard_one_pass'], 'x')
    add('memory_over_replicated', mosa / peak['replicated'], 'x')
    add('memory_over_sequential', mosa / peak['sequential'], 'x')
    add('memory_over_full_fine_tuning_one_pass', mosa / peak['full'], 'x')
    add('memory_megabytes', mosa / 2**20, 'MB')


def inference(args: argparse.Namespace,
              add: Callable,
              compiled: bool = False) -> None:
    """Merged inference, as ratios."""
    merged, standard = build(args), build(args, num_modules=1)
    plain = build(args, adapter=dict(type='LinearProbe'))
    merged.collapse()
    x = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    functions = {}
    for name, model in dict(
            merged=merged, standard=standard, plain=plain,
            mosa=build(args)).items():
        run = torch.compile(model.eval()) if compiled else model.eval()

        def forward(run=run):
            with torch.no_grad():
                run(x)

        functions[name] = forward
    seconds = in_turn(functions, 2 * args.repeats, wall_clock(args.device), 2)
    end = '_compiled' if compiled else ''
    # The two are the same layers; what is left is noise.
    add(f'merged_inference_over_standard{end}',
        ratio(seconds, 'merged', 'standard'), 'x', 1.05)
    add(f'merged_inference_over_plain_backbone{end}',
        ratio(seconds, 'merged', 'plain'), 'x')
    add(f'unmerged_inference_over_merged{end}', ratio(seconds, 'mosa',
                                                      'merged'), 'x')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True, help='JSON file to write')
    parser.add_argument('--arch', choices=list(WIDTH), default='vit-small')
    parser.add_argument('--size', type=int, default=112)
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--compile', action='store_true')
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args()
    # Building a model logs every parameter.
    MMLogger.get_instance('mmext', log_level='WARNING')
    init_default_scope('mmpretrain')
    rows = Rows()
    training_memory(args, rows.add)
    training_times(args, rows.add)
    inference(args, rows.add)
    if args.compile:
        training_times(args, rows.add, compiled=True)
        inference(args, rows.add, compiled=True)
    rows.write(args.out)


if __name__ == '__main__':
    main()
