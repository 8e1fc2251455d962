# Copyright (c) mmext contributors. All rights reserved.
"""Speed of the spike tools and of depth training.

All values with a target are ratios of two measurements in one run, so they
do not depend on the machine much::

    python tools/benchmarks/depth.py --out FILE

Times are medians of runs in turn. The spike tools use one thread, and are
measured by the processor's time, which other programs disturb little.
"""
import argparse
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, List

import numpy as np

from mmext.spike import (Light, SpikeCamera, light_from_frames, open_spikes,
                         pack_frames, write_spikes)
from mmext.utils.io import write_json

SIZE = (375, 1242)
TICKS = 128


def in_turn(functions: Dict[str, Callable],
            repeats: int,
            clock: Callable = time.process_time) -> Dict[str, List[float]]:
    """Seconds of some functions, run one after the other, many times."""
    seconds: Dict[str, List[float]] = {name: [] for name in functions}
    for i in range(repeats + 1):
        for name, function in functions.items():
            start = clock()
            function()
            if i:
                seconds[name].append(clock() - start)
    return seconds


def ratio(seconds: Dict[str, List[float]], first: str, second: str) -> float:
    """Median of the ratios of runs that followed each other."""
    return statistics.median(a / b
                             for a, b in zip(seconds[first], seconds[second]))


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True, help='JSON file to write')
    parser.add_argument('--repeats', type=int, default=15)
    args = parser.parse_args()
    results: List[dict] = []

    def add(name: str, value: float, unit: str, target=None) -> None:
        ok = target is None or value <= target
        results.append(
            dict(
                name=name,
                value=round(value, 4),
                unit=unit,
                target=target,
                ok=ok))
        print(f'{name}: {value:.3f} {unit}', flush=True)

    simulator(add, args.repeats)
    files(add, args.repeats)
    write_json(args.out, results)


if __name__ == '__main__':
    main()
