# Copyright (c) mmext contributors. All rights reserved.
r"""Look at recordings of spikes: what is in them, as pictures or a video."""
import argparse
import os
import warnings
from typing import Iterator, List

import cv2
import numpy as np

from mmext.spike import (SpikeRecording, open_spikes, preview, strip,
                         write_picture, write_video)
from mmext.spike.preview import METHODS
from mmext.spike.sources import list_recordings
from mmext.utils.arguments import is_positive
from mmext.utils.result_names import result_names
from mmext.utils.user_error import ConfigError, run_tool


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Report size, spike rate and doubts about size and bit '
        'order of recordings, and write previews of them.')
    parser.add_argument(
        'recording',
        help='The .dat, .npy or .npz file, or a folder of such files.')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='Height and width of the pictures, which .dat files need.')
    parser.add_argument(
        '--bitorder',
        choices=('little', 'big'),
        default='little',
        help='The order of bits in the bytes of a .dat file (little).')
    parser.add_argument(
        '--no-flip',
        action='store_true',
        help='Do not turn the rows of a .dat file upside down.')
    parser.add_argument(
        '--repair',
        action='store_true',
        help='Turn .npy cubes of Respike upright, which were unpacked with '
        'the wrong bit order.')
    parser.add_argument('--key', help='The array to read from an .npz file.')
    parser.add_argument(
        '--begin', type=int, default=0, help='The first tick to use (0).')
    parser.add_argument(
        '--ticks',
        type=int,
        default=128,
        help='How many ticks to use at most (128).')
    parser.add_argument(
        '--out',
        help='Write a picture of bare spikes, playback, interval and one row '
        'over time: a file such as preview.png, or a folder when the '
        'recording is a folder.')
    parser.add_argument(
        '--video',
        help='Write a video of the whole recording, named .mp4 or .avi.')
    parser.add_argument(
        '--method',
        choices=METHODS,
        default='playback',
        help='What the video shows (playback).')
    parser.add_argument(
        '--half-window',
        type=int,
        default=16,
        help='Ticks before and after each picture of the video (16).')
    parser.add_argument(
        '--step',
        type=int,
        default=8,
        help='Ticks from one picture of the video to the next (8).')
    parser.add_argument(
        '--fps', type=float, default=25., help='Pictures a second (25).')
    parser.add_argument(
        '--stretch',
        action='store_true',
        help='Brighten pictures of dim recordings.')
    args = parser.parse_args(argv)
    if args.begin < 0 or args.ticks < 1:
        raise ConfigError(
            'Expected --begin of at least 0 and --ticks of at least 1, but '
            f'got {args.begin} and {args.ticks}.')
    if not is_positive(args.fps):
        raise ConfigError('Expected --fps to be a positive number, but got '
                          f'{args.fps}.')
    return args


def files_of(args: argparse.Namespace) -> List[str]:
    """The recordings that are meant, sorted by name."""
    if not os.path.isdir(args.recording):
        return [args.recording]
    return list_recordings(args.recording)


def opened(path: str, args: argparse.Namespace) -> SpikeRecording:
    return open_spikes(
        path,
        None if args.size is None else tuple(args.size),
        bitorder=args.bitorder,
        flipud=False if args.no_flip else None,
        repair=args.repair,
        key=args.key)


def describe(path: str, recording: SpikeRecording, spikes: np.ndarray) -> str:
    """A line about the recording and a line for each doubt."""
    ticks, height, width = recording.shape
    pixels = spikes.mean(0, dtype=np.float32)
    lines = [
        f'{path}: {ticks} ticks of {height} x {width} pixels, '
        f'{spikes.mean():.4f} spikes a tick and pixel, '
        f'{(pixels == 0).mean():.1%} of pixels dark, '
        f'{(pixels == 1).mean():.1%} saturated'
    ]
    lines += [f'  doubtful: {text}' for text in recording.findings()]
    return '\n'.join(lines)


def video_pictures(recording: SpikeRecording,
                   args: argparse.Namespace) -> Iterator[np.ndarray]:
    """Pictures of the whole recording, read window by window."""
    half = args.half_window
    if half < 1 or args.step < 1:
        raise ConfigError('Expected --half-window and --step of at least 1, '
                          f'but got {half} and {args.step}.')
    for key in range(args.begin + half, len(recording) - half, args.step):
        window = recording.read(key - half, 2 * half + 1)
        yield preview(window, half, args.method, half, args.stretch)


def browse(path: str, args: argparse.Namespace, picture: str) -> None:
    """Report one recording, and draw it to a file, unless that is ''."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        recording = opened(path, args)
    for item in caught:
        print(f'Warning: {item.message}')
    left = len(recording) - args.begin
    spikes = recording.read(args.begin, max(1, min(args.ticks, left)))
    print(describe(path, recording, spikes))
    if picture:
        write_picture(picture, strip(spikes, stretch=args.stretch))
        print(f'  {picture}')
    if args.video:
        count = write_video(args.video, video_pictures(recording, args),
                            args.fps)
        print(f'  {args.video}: {count} pictures')


def main(argv=None) -> int:
    args = parse_args(argv)
    cv2.setNumThreads(1)
    files = files_of(args)
    if args.video and len(files) > 1:
        raise ConfigError('Expected one recording for a --video, but got '
                          f'{len(files)}. Name one file of the folder.')
    pictures = [args.out or ''] * len(files)
    if args.out and os.path.isdir(args.recording):
        pictures = [
            os.path.join(args.out, f'{name}.png')
            for name in result_names(files)
        ]
    for path, picture in zip(files, pictures):
        browse(path, args, picture)
    return 0


if __name__ == '__main__':
    run_tool(main)
