# Copyright (c) mmext contributors. All rights reserved.
"""Measure how many StreetWorld frames one core draws in a second."""
import argparse
import sys
import time

import cv2

from mmext.datasets.streetworld import DOMAINS, StreetWorld, apply_weather
from rows import Rows

_TARGET = 20.
_STEP = 0.1  # seconds between frames: a drive at 10 frames a second


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Frames per second at 256x512 on one core, by domain, '
        'while driving; town set-up is not counted. The clear rate has a '
        'target.')
    parser.add_argument(
        '--out', required=True, help='JSON file to write the results to')
    parser.add_argument(
        '--frames', type=int, default=60, help='frames per domain (60)')
    return parser.parse_args(argv)


def rate(domain: str, frames: int, rounds: int = 3) -> float:
    """Frames per second of processor time, the best of a few rounds.

    Args:
        domain (str): One of ``DOMAINS``.
        frames (int): Frames in a round.
        rounds (int): How often to measure. Defaults to 3.

    Returns:
        float: Frames per second of one core.
    """
    night = domain in ('night', 'dusk')
    best = 0.
    for k in range(rounds):
        world = StreetWorld(town=3 + k)
        apply_weather(world.render(0., night), domain)
        start = time.process_time()
        for i in range(frames):
            apply_weather(world.render(i * _STEP, night), domain)
        best = max(best, frames / (time.process_time() - start))
    return best


def main(argv=None) -> int:
    args = parse_args(argv)
    if args.frames < 1:
        print('error: --frames must be at least 1', file=sys.stderr)
        return 2
    cv2.setNumThreads(1)
    rows = Rows(digits=1, show=False, without_target=None)
    for domain in DOMAINS:
        value = rate(domain, args.frames)
        target = _TARGET if domain == 'clear' else None
        rows.add(
            f'StreetWorld {domain}, 256x512, one core',
            value,
            'frames/s',
            target,
            more=True)
        print(f'{domain:<6} {value:6.1f} frames/s')
    rows.write(args.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
