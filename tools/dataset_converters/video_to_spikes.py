# Copyright (c) mmext contributors. All rights reserved.
r"""Simulate a spike camera that watches a video, pictures or StreetWorld.

One running recording::

    python tools/dataset_converters/video_to_spikes.py \
        --video clip.mp4 --ticks-per-frame 32 --out data/clip.dat

A window of 128 ticks around every frame, as BiCross needs them, named after
the pictures; one folder at a time::

    d=2011_09_26/2011_09_26_drive_0001_sync/image_02/data
    python tools/dataset_converters/video_to_spikes.py \
        --folder data/kitti/raw/$d --window 128 --ticks-per-frame 16 \
        --out data/kitti/spike/$d

A window of 375 x 1242 pixels takes 60 MB; with ``--suffix .npz``, which holds
packed bits, at most 7.5 MB: read such files with ``spike_suffix='.npz'`` of
the data set.

Pictures of an external interpolator such as XVFI come in by their folder;
``--interpolated 8`` says that every eighth one is an original frame.
"""
import argparse
import itertools
import os
from collections import deque
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import cv2
import numpy as np

from mmext.spike import (PRESETS, SpikeCamera, SpikeWriter, folder_frames,
                         grey, light_from_frames, list_pictures,
                         streetworld_frames, video_frames, window_start,
                         write_spikes)
from mmext.spike.files import SUFFIXES
from mmext.spike.light import ALIGNMENTS, INTERPOLATIONS
from mmext.utils.arguments import is_positive
from mmext.utils.io import write_json
from mmext.utils.user_error import ConfigError, run_tool

# .dat has no header, and needs sizes whose product is a multiple of 8
WINDOW_SUFFIXES = ('.npy', '.npz')


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--video', help='The video file to read.')
    source.add_argument(
        '--folder', help='The folder of pictures to read, sorted by name.')
    source.add_argument(
        '--streetworld',
        type=int,
        metavar='TOWN',
        help='Draw the street scenes of this town instead of reading files.')
    parser.add_argument(
        '--out',
        required=True,
        help='The .dat, .npy or .npz file to write; with --window the folder '
        'to write one file a frame to.')
    _add_frame_options(parser)
    _add_camera_options(parser)
    args = parser.parse_args(argv)
    check_args(args)
    return args


def _add_frame_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--pattern',
        default='*',
        help='The names of the pictures of a folder to read, such as '
        '"rgb_*" where depth maps are in the same folder (all).')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='Resize frames to this height and width. Without it they keep '
        'their size; StreetWorld has 256 512.')
    parser.add_argument(
        '--start',
        type=int,
        default=0,
        help='The number of the first frame to read or draw (0).')
    parser.add_argument(
        '--frames',
        type=int,
        help='How many frames to read. Without it all; StreetWorld draws 32.')
    parser.add_argument(
        '--gamma',
        type=float,
        help='Raise grey values to this power to get light. Without it they '
        'are light, as in the public simulators.')
    parser.add_argument(
        '--fps',
        type=float,
        default=100.,
        help='Frames a second that StreetWorld draws (100).')
    parser.add_argument(
        '--domain',
        default='clear',
        help='Weather or light of StreetWorld (clear).')
    parser.add_argument(
        '--ticks-per-frame',
        type=int,
        default=16,
        help='How many ticks one frame lasts (16).')
    parser.add_argument(
        '--interpolated',
        type=int,
        default=1,
        help='Every how many pictures one is an original frame; the ticks of '
        'a frame are shared among the pictures (1).')
    parser.add_argument(
        '--interpolation',
        choices=INTERPOLATIONS,
        default='linear',
        help='How light goes from a picture to the next (linear).')
    parser.add_argument(
        '--window',
        type=int,
        metavar='TICKS',
        help='Write a window of this many ticks for each frame.')
    parser.add_argument(
        '--suffix',
        choices=WINDOW_SUFFIXES,
        help='The kind of files for windows: a byte a pixel and tick, or '
        'packed bits, at most an eighth of that (.npy).')
    parser.add_argument(
        '--align',
        choices=ALIGNMENTS,
        default='center',
        help='Where the frame is in its window (center).')


def _add_camera_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--preset',
        choices=sorted(PRESETS),
        default='ideal',
        help='The camera to simulate (ideal). scsim has measured noise.')
    parser.add_argument(
        '--gain',
        type=float,
        help='What full light adds in a tick, instead of the preset\'s.')
    parser.add_argument(
        '--threshold',
        type=float,
        help='Another threshold than the preset\'s.')
    parser.add_argument(
        '--seed', type=int, default=0, help='Seed of start and noise (0).')
    parser.add_argument(
        '--clip',
        action='store_true',
        help='Clip light that would fire more than once a tick instead of '
        'refusing it.')
    parser.add_argument(
        '--no-flip',
        action='store_true',
        help='Write the rows of a .dat file top to bottom, as some public '
        'simulators do; cameras store them bottom to top.')


def check_args(args: argparse.Namespace) -> None:
    """Refuse values with which there is nothing to simulate.

    Raises:
        ConfigError: With the option, and what it takes.
    """
    least = dict(streetworld=0, start=0, seed=0)
    least.update(frames=1, ticks_per_frame=1, interpolated=1, window=1)
    for name, low in least.items():
        value = getattr(args, name)
        if value is not None and value < low:
            raise ConfigError(f'Expected --{name.replace("_", "-")} to be at '
                              f'least {low}, but got {value}.')
    for name in ('fps', 'gamma'):
        value = getattr(args, name)
        if value is not None and not is_positive(value):
            raise ConfigError(f'Expected --{name} to be a positive number, '
                              f'but got {value}.')
    side = 1 if args.streetworld is None else 16
    if args.size and min(args.size) < side:
        raise ConfigError(
            f'Expected --size to be a height and width of at least {side} '
            f'pixels, but got {args.size[0]} x {args.size[1]}.')
    if args.window and (args.out.lower().endswith(SUFFIXES)
                        or os.path.isfile(args.out)):
        raise ConfigError(
            'Expected --out to be a folder, as --window writes a file for '
            f'each frame, but got {args.out}. Name a folder, or leave '
            '--window out for one recording.')
    if args.suffix and not args.window:
        raise ConfigError(
            f'Expected --suffix {args.suffix} only with --window: the name '
            'given as --out says what kind of file one recording is.')


def frames_of(args: argparse.Namespace) -> Iterator[np.ndarray]:
    """Grey frames of the source that was asked for."""
    if args.streetworld is not None:
        from mmext.datasets.streetworld import Intrinsics, StreetWorld
        world = StreetWorld(args.streetworld,
                            Intrinsics(*(args.size or (256, 512))))
        times = (args.start + np.arange(args.frames or 32)) / args.fps
        for frame in streetworld_frames(
                world, times, args.domain, seed=args.seed):
            yield grey(frame.image, args.gamma)
        return
    if args.video:
        stop = None if args.frames is None else args.start + args.frames
        yield from video_frames(args.video, args.start, stop, args.size,
                                args.gamma)
        return
    stop = None if args.frames is None else args.start + args.frames
    yield from itertools.islice(
        folder_frames(args.folder, args.size, args.gamma, args.pattern),
        args.start, stop)


class LookAhead:
    """An iterator that can say whether there will be an item.

    Args:
        items (Iterator): The items.
    """

    def __init__(self, items: Iterator) -> None:
        self.items, self.waiting, self.seen = items, deque(), 0

    def has(self, index: int) -> bool:
        """Whether there is an item of that number, counted from 0."""
        while self.seen <= index:
            if not self._fetch():
                return False
        return True

    def _fetch(self) -> bool:
        for item in self.items:
            self.waiting.append(item)
            self.seen += 1
            return True
        return False

    def __iter__(self) -> 'LookAhead':
        return self

    def __next__(self):
        if not self.waiting and not self._fetch():
            raise StopIteration
        return self.waiting.popleft()


def camera_of(args: argparse.Namespace) -> SpikeCamera:
    options = dict(seed=args.seed)
    for name in ('gain', 'threshold'):
        if getattr(args, name) is not None:
            options[name] = getattr(args, name)
    if args.clip:
        options['saturation'] = 'clip'
    return SpikeCamera.from_preset(args.preset, **options)


def ticks_of(args: argparse.Namespace) -> Tuple[int, int]:
    """Ticks of one frame, and of one picture."""
    ticks, rest = divmod(args.ticks_per_frame, args.interpolated)
    if rest:
        raise ConfigError(
            'Expected --ticks-per-frame to be a multiple of --interpolated, '
            f'but got {args.ticks_per_frame} and {args.interpolated}.')
    return args.ticks_per_frame, ticks


def write_recording(args: argparse.Namespace) -> str:
    """One file with all ticks."""
    _, ticks = ticks_of(args)
    light = light_from_frames(frames_of(args), ticks, args.interpolation)
    flip = False if args.no_flip else None
    shape: Tuple[int, ...] = ()
    with SpikeWriter(args.out, flipud=flip) as writer:
        for piece in camera_of(args).stream(light, 256):
            writer.write(piece)
            shape = piece.shape[1:]
    return (f'{args.out}: {writer.ticks} ticks of {shape[0]} x {shape[1]} '
            'pixels')


def check_start(args: argparse.Namespace) -> None:
    """Refuse to start behind the last picture of a folder."""
    count = len(list_pictures(args.folder, args.pattern))
    if args.start >= count:
        raise ConfigError(
            f'Expected --start to be below {count}, as {args.folder} has '
            f'{count} pictures that match {args.pattern!r}, but got '
            f'{args.start}.')


def window_names(args: argparse.Namespace) -> Optional[List[str]]:
    """Names of the windows of a folder, without suffix.

    Raises:
        ConfigError: If two windows would go to one file.
    """
    if not args.folder:
        return None
    stop = None if args.frames is None else args.start + args.frames
    paths = list_pictures(args.folder, args.pattern)[args.start:stop]
    owners: Dict[str, str] = {}
    for path in map(Path, paths[::args.interpolated]):
        other = owners.setdefault(path.stem, path.name)
        if other != path.name:
            raise ConfigError(
                f'Expected pictures whose names differ without their suffix, '
                f'as windows are named after them, but {args.folder} has '
                f'{other} and {path.name}. Choose with --pattern, such as '
                f"--pattern '*{path.suffix}'.")
    return list(owners)


def write_windows(args: argparse.Namespace) -> str:
    """A file with a window of ticks for each frame."""
    per_frame, ticks = ticks_of(args)
    names = window_names(args)
    place = (per_frame, args.window, args.align, args.interpolation)
    lead = max(0, -window_start(0, *place))
    frames = LookAhead(frames_of(args))
    # The last frame is held for the rest of its own window.
    light = light_from_frames(frames, ticks, args.interpolation, lead,
                              args.window + per_frame)
    numbers = itertools.takewhile(lambda k: frames.has(k * args.interpolated),
                                  itertools.count())
    windows = camera_of(args).windows(light, (lead + window_start(k, *place)
                                              for k in numbers), args.window)
    suffix = args.suffix or WINDOW_SUFFIXES[0]
    written = 0
    for spikes in windows:
        name = names[written] if names else f'{args.start + written:06d}'
        write_spikes(os.path.join(args.out, name + suffix), spikes)
        written += 1
    return f'{args.out}: {written} windows of {args.window} ticks'


def main(argv=None) -> int:
    args = parse_args(argv)
    cv2.setNumThreads(1)
    if args.folder:
        check_start(args)
    if args.window is None:
        print(write_recording(args))
    else:
        print(write_windows(args))
    record = Path(args.out)
    record = record / 'spikes.json' if args.window else record.with_suffix(
        record.suffix + '.json')
    write_json(record, vars(args))
    return 0


if __name__ == '__main__':
    run_tool(main)
