# Copyright (c) mmext contributors. All rights reserved.
"""Speed of the spike tools and of depth training.

All values with a target are ratios of two measurements in one run, so they
do not depend on the machine much::

    python tools/benchmarks/depth.py --out FILE

Times are medians of runs in turn. Spike tools and training steps use one
thread on a CPU, and are measured by the processor's time, which other programs
disturb little. The wait for a loader, in training on all cores, needs a
machine that does nothing else. ``--parts`` takes some of them.

A training step of a stage is everything between two batches: preprocessing,
losses, backward, clipping, optimiser, mean teacher. The bare step makes the
same passes of the same networks on a batch that is ready, with two short
losses. ``--recipe vkitti2 --device cuda`` takes DPT-Hybrid.
"""
import argparse
import itertools
import os
import statistics
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmext.models.distillers import FeatureTap
from mmext.models.teachers import GroupEMA
from mmext.registry import MODELS
from mmext.spike import (Light, SpikeCamera, light_from_frames, open_spikes,
                         pack_frames, write_spikes)
from rows import Rows
from timing import in_turn, ratio, wall_clock

ROOT = Path(__file__).resolve().parents[2]
SIZE = (375, 1242)
TICKS = 128
#: Configs of the three stages.
RECIPES = dict(
    streetworld=('stage1_streetworld', 'stage2_streetworld',
                 'bicross_streetworld'),
    vkitti2=('stage1_vkitti2', 'stage2_vkitti2', 'bicross_vkitti2_kitti'))


def accumulator_copies() -> Callable:
    """Reads and writes an accumulator once per tick, nothing else."""
    pair = [np.ones(SIZE, np.uint32), np.ones(SIZE, np.uint32)]

    def run() -> None:
        for tick in range(TICKS):
            np.copyto(pair[(tick + 1) % 2], pair[tick % 2])

    return run


def accumulator_sums() -> Callable:
    """Adds a number to an accumulator in place once per tick."""
    value, one = np.ones(SIZE, np.uint32), np.uint32(1)

    def run() -> None:
        for _ in range(TICKS):
            np.add(value, one, out=value)

    return run


def exposures(out: np.ndarray) -> Dict[str, Callable]:
    """The simulator on one picture, on moving pictures, and with noise."""
    rng = np.random.default_rng(0)
    pictures = list(rng.integers(0, 256, (9, *SIZE), dtype=np.uint8))
    lights = dict(
        noise_free=[Light(pictures[0], TICKS)],
        noise_free_fresh_memory=[Light(pictures[0], TICKS)],
        noise_free_video_16_ticks_a_frame=list(
            itertools.islice(light_from_frames(pictures, TICKS // 8), 8)),
        noise_free_float64=[Light(pictures[0], TICKS)],
    )
    functions = {}
    for name, light in lights.items():
        precision = 'float64' if name.endswith('float64') else 'auto'
        camera = SpikeCamera(precision=precision)
        target = None if name.endswith('fresh_memory') else out

        def run(camera=camera, light=light, target=target) -> None:
            camera.expose(light, target)

        functions[name] = run
    return functions


def simulator(add: Callable, repeats: int) -> None:
    """Times of the simulator over those of the accumulator alone."""
    out = np.zeros((TICKS, *SIZE), np.uint8)
    functions = dict(
        copies=accumulator_copies(), sums=accumulator_sums(), **exposures(out))
    seconds = in_turn(functions, repeats)
    add('simulator_over_reading_and_writing_accumulator',
        ratio(seconds, 'noise_free', 'copies'), 'x', 3.)
    add('simulator_over_adding_a_number_in_place',
        ratio(seconds, 'noise_free', 'sums'), 'x')
    for name in functions:
        if name.startswith('noise_free_'):
            add(f'simulator{name[10:]}_over_reading_and_writing_accumulator',
                ratio(seconds, name, 'copies'), 'x')
    add('simulator_milliseconds',
        1e3 * statistics.median(seconds['noise_free']), 'ms')
    light = [Light(np.full(SIZE, 100, np.uint8), 8)]
    camera = SpikeCamera.from_preset('scsim')
    noisy = in_turn(dict(noisy=lambda: camera.expose(light)), 2)['noisy']
    value = statistics.median(noisy) * TICKS / light[0].ticks
    add('noisy_simulator_over_noise_free',
        value / statistics.median(seconds['noise_free']), 'x')
    add('noisy_simulator_seconds', value, 's')


def files(add: Callable, repeats: int) -> None:
    """Times of packing and reading over a plain copy of the spikes."""
    rng = np.random.default_rng(0)
    # The height of a crop of KITTI; 375 x 1242 pixels are no whole bytes.
    shape = (TICKS, 352, 1216)
    spikes = (rng.random(shape, np.float32) < 0.4).astype(np.uint8)
    copy = np.empty_like(spikes)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'spikes.dat')
        array = os.path.join(folder, 'spikes.npy')
        write_spikes(path, spikes)
        write_spikes(array, spikes)
        size = shape[1:]
        seconds = in_turn(
            dict(
                copy=lambda: np.copyto(copy, spikes),
                pack=lambda: pack_frames(spikes),
                read_dat=lambda: open_spikes(path, size).read(),
                read_npy=lambda: open_spikes(array, size).read(),
                bytes=lambda: np.frombuffer(
                    Path(array).read_bytes(), np.uint8)), repeats)
    for name in ('pack', 'read_dat', 'read_npy'):
        add(f'{name}_over_plain_copy', ratio(seconds, name, 'copy'), 'x')
    add('reading_plain_bytes_over_plain_copy', ratio(seconds, 'bytes', 'copy'),
        'x')


def configs(recipe: str) -> List[Config]:
    """Of the three stages."""
    folder = ROOT / 'configs' / 'bicross'
    return [Config.fromfile(folder / f'{name}.py') for name in RECIPES[recipe]]


class Step:
    """A training step of one stage, and the bare passes it must make.

    Args:
        number (int): The stage.
        cfg (Config): Its config.
        args (Namespace): Batch and device.
        published (bool): Stage 2 as published: the whole teacher runs, and
            its gradients are computed. Defaults to False.
    """

    def __init__(self,
                 number: int,
                 cfg: Config,
                 args: argparse.Namespace,
                 published: bool = False) -> None:
        torch.manual_seed(0)
        self.number, self.published = number, published
        self.model = MODELS.build(deepcopy(cfg.model)).to(args.device).train()
        self.net = getattr(self.model, 'estimator', self.model)
        self.average = None
        if number == 2:
            self.model.attach_teacher(self.model.build_teacher())
            if published:
                self.model.teacher.requires_grad_(True)
                self.model._teach = self._teach_with_gradients
        elif number == 3:
            self.average = GroupEMA(self.model, 0.999)
            self.model.attach_teacher(self.average.module)
            self.model.step = self.model.warmup_iters
        self.optim_wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        bare = dict(cfg.optim_wrapper.optimizer)
        self.optimizer = getattr(torch.optim,
                                 bare.pop('type'))(self.net.parameters(),
                                                   **bare)
        clip = cfg.optim_wrapper.get('clip_grad') or {}
        self.max_norm = clip.get('max_norm')
        self.data = self._batch(args)
        self.ready = self.model.data_preprocessor(deepcopy(self.data), True)
        self.target = torch.stack([
            one.gt_depth_map.data
            for one in self._labelled(self.ready['data_samples'])
        ])

    def _batch(self, args: argparse.Namespace) -> Dict[str, Any]:
        """Random pictures, spikes and depth of the network's size."""
        size, batch = self.model.data_preprocessor.size, args.batch
        rgb = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8)
        spikes = torch.randint(
            0, 2, (2, batch, TICKS, *size), dtype=torch.int8)
        spikes = 2 * spikes - 1
        depth = 2. + 60. * torch.rand(batch, 1, *size)
        samples = [
            SegDataSample(gt_depth_map=PixelData(data=one)) for one in depth
        ]
        if self.number == 1:
            inputs: Any = rgb
        elif self.number == 2:
            inputs = dict(rgb=rgb, spike=spikes[0])
        else:
            inputs = dict(source=spikes[0], target=spikes[1])
            samples = dict(source=samples, target=deepcopy(samples))
        return dict(inputs=inputs, data_samples=samples)

    @staticmethod
    def _labelled(samples: Any) -> list:
        return samples['source'] if isinstance(samples, dict) else samples

    def _teach_with_gradients(self, rgb: Tensor, used: List[dict]) -> tuple:
        paths = [one['teacher_path'] for one in used]
        with torch.enable_grad(), FeatureTap(self.model.teacher, paths) as tap:
            return tap, self.model.teacher.depth_and_uncertainty(rgb)[1]

    def __call__(self) -> None:
        """One step as the runner makes it."""
        self.model.train_step(self.data, self.optim_wrapper)
        if self.average is not None:
            self.average.update(self.model)

    def bare(self) -> None:
        """The same passes, and nothing else."""
        x = self.ready['inputs']
        self.optimizer.zero_grad()
        if self.number == 1:
            loss = self._plain(x)
        elif self.number == 2:
            paths = [self.model.fkd['teacher_path']]
            with torch.no_grad(), FeatureTap(
                    self.model.teacher, paths, stop=True):
                self.model.teacher.depth_and_uncertainty(x['rgb'])
            loss = self._plain(x['spike'])
        else:
            loss = self._plain(x['source'])
            with torch.no_grad():
                label = self.model.teacher.depth_and_uncertainty(
                    x['target'])[0]
            depth = self.net.depth_and_uncertainty(
                x['target'], uncertainty=False)[0]
            loss = loss + _log_distance(depth, label)
        loss.backward()
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.max_norm)
        self.optimizer.step()

    def _plain(self, x: Tensor) -> Tensor:
        depth, uncertainty = self.net.depth_and_uncertainty(x)
        return _log_distance(depth, self.target) + uncertainty.abs().mean()

    def saved(self) -> int:
        """Bytes that a step keeps for its backward pass."""
        kept: Dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda one: one):
            self()
        return sum(kept.values())


def _log_distance(depth: Tensor, label: Tensor) -> Tensor:
    return (depth.clamp_min(1e-3).log() -
            label.clamp_min(1e-3).log()).abs().mean()


def steps(add: Callable, args: argparse.Namespace) -> None:
    """Training steps over their passes; stage 2 over the published one."""
    clock = time.process_time if args.device == 'cpu' else wall_clock(
        args.device)
    torch.set_num_threads(1)
    for number, cfg in enumerate(configs(args.recipe), 1):
        step = Step(number, cfg, args)
        functions = dict(step=step, bare=step.bare)
        if number == 2:
            functions['published'] = Step(2, cfg, args, published=True)
        seconds = in_turn(functions, args.steps, clock)
        add(f'stage{number}_step_over_bare_passes',
            ratio(seconds, 'step', 'bare'), 'x', 1.1)
        add(f'stage{number}_step_seconds', statistics.median(seconds['step']),
            's')
        if number == 2:
            add('stage2_step_over_published_procedure',
                ratio(seconds, 'step', 'published'), 'x')
            add('stage2_bytes_kept_for_backward_over_published_procedure',
                step.saved() / functions['published'].saved(), 'x')


def loaders(add: Callable, args: argparse.Namespace) -> None:
    """Share of an epoch in which a stage waits for its loader."""
    with tempfile.TemporaryDirectory() as folder:
        for number, cfg in enumerate(configs('streetworld'), 1):
            loader_cfg = deepcopy(cfg.train_dataloader)
            for dataset in (loader_cfg.dataset.get('source'),
                            loader_cfg.dataset.get('target'),
                            loader_cfg.dataset):
                if dataset is not None and 'frames' in dataset:
                    dataset.update(frames=args.frames, cache_dir=folder)
            loader = Runner.build_dataloader(loader_cfg, seed=0)
            torch.set_num_threads(os.cpu_count() or 1)
            step = Step(number, cfg, args)
            for epoch in range(2):  # the first draws the frames
                waited, begin = 0., time.perf_counter()
                batches = iter(loader)
                while True:
                    start = time.perf_counter()
                    step.data = next(batches, None)
                    waited += time.perf_counter() - start
                    if step.data is None:
                        break
                    if epoch:
                        step()
                whole = time.perf_counter() - begin
            add(f'stage{number}_loader_wait_over_epoch', waited / whole, '',
                0.05)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True, help='JSON file to write')
    parser.add_argument(
        '--parts',
        nargs='+',
        choices=PARTS,
        default=list(PARTS),
        help='what to measure')
    parser.add_argument('--repeats', type=int, default=15)
    parser.add_argument(
        '--steps', type=int, default=9, help='repeats of the training steps')
    parser.add_argument(
        '--frames', type=int, default=64, help='drawn for the loaders')
    parser.add_argument('--recipe', choices=RECIPES, default='streetworld')
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    init_default_scope('mmseg')
    rows = Rows()
    for part in args.parts:
        PARTS[part](rows.add, args)
    rows.write(args.out)


PARTS = dict(
    simulator=lambda add, args: simulator(add, args.repeats),
    files=lambda add, args: files(add, args.repeats),
    steps=steps,
    loaders=loaders)

if __name__ == '__main__':
    main()
