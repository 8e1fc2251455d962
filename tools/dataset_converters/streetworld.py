# Copyright (c) mmext contributors. All rights reserved.
"""Draw StreetWorld, the embedded street scenes, in the layouts of Cityscapes
(clear) and ACDC (every other domain)."""
import argparse
import sys
from contextlib import nullcontext
from typing import List

import cv2
from rich.progress import (BarColumn, MofNCompleteColumn, Progress, TextColumn,
                           TimeRemainingColumn)

from mmext.datasets.streetworld.classes import DOMAINS
from mmext.datasets.streetworld.writer import Part, Writer

_ADVERSE = ('fog', 'night', 'rain', 'snow')
_QUICK_FRAMES = 25


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw the embedded street scenes and write them as '
        'leftImg8bit/, gtFine/ (clear, Cityscapes layout) and rgb_anon/, gt/ '
        '(other domains, ACDC layout). A second run writes only what is '
        'missing.')
    parser.add_argument(
        '--out', default='data/streetworld', help='folder to write to')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        default=(256, 512),
        metavar=('H', 'W'),
        help='height and width of the frames in pixels (256 512)')
    parser.add_argument(
        '--frames',
        type=int,
        help='frames of every part that is written; without it 600 for clear '
        'training, 60 for clear validation and 100 for each other part')
    parser.add_argument(
        '--quick',
        action='store_true',
        help=f'only fog, night, rain and snow with {_QUICK_FRAMES} frames '
        'each, as the quickstart needs')
    parser.add_argument(
        '--domains',
        nargs='+',
        choices=DOMAINS,
        help='which domains (clear fog night rain snow)')
    parser.add_argument(
        '--splits',
        nargs='+',
        choices=('train', 'val'),
        help='which splits; without it both of clear and the training split '
        'of the others, which is the one that is adapted to')
    parser.add_argument(
        '--depth',
        action='store_true',
        help='write depth too: uint16 PNG, metres times 256, 0 in the sky')
    parser.add_argument('--seed', type=int, default=0, help='which world (0)')
    parser.add_argument(
        '--strength',
        type=float,
        default=1.,
        help='how bad the weather is (1)')
    args = parser.parse_args(argv)
    if args.frames is not None and args.frames < 1:
        parser.error(f'--frames must be at least 1, got {args.frames}')
    if args.strength <= 0:
        parser.error(f'--strength must be positive, got {args.strength}')
    return args


def parts_of(args: argparse.Namespace) -> List[Part]:
    """The parts that the options ask for."""
    domains = args.domains or (_ADVERSE if args.quick else
                               ('clear', *_ADVERSE))
    parts = []
    for domain in domains:
        splits = args.splits or (('train', 'val') if domain == 'clear' else
                                 ('train', ))
        for split in splits:
            count, per_town = 100, None
            if domain == 'clear':
                count = 600 if split == 'train' else 60
            if args.quick:
                count = _QUICK_FRAMES
            parts.append(Part(domain, split, args.frames or count, per_town))
    return parts


def main(argv=None) -> int:
    args = parse_args(argv)
    cv2.setNumThreads(1)
    try:
        writer = Writer(args.out, tuple(args.size), args.seed, args.strength,
                        args.depth)
        todo = [p for p in parts_of(args) if not writer.complete(p)]
        bar = Progress(
            TextColumn('{task.description:<14}'), BarColumn(),
            MofNCompleteColumn(), TimeRemainingColumn())
        with bar if todo else nullcontext():
            for part in todo:
                task = bar.add_task(part.key, total=part.frames)
                writer.write(part, lambda t=task: bar.advance(t))
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    written = sum(p.frames for p in todo)
    print(f'{args.out}: {written} frames written'
          if todo else f'{args.out}: complete, nothing to do')
    return 0


if __name__ == '__main__':
    sys.exit(main())
