# Copyright (c) mmext contributors. All rights reserved.
r"""Make fog, night, rain and snow domains from CamVid frames.

    export MMEXT_CAMVID=/path/to/camvid
    python tools/dataset_converters/camvid_weather.py \
        --src $MMEXT_CAMVID --out data/camvid_weather

reads ``images/Seq05VD`` and ``labels/Seq05VD`` (the held-out day sequence)
and writes, for each domain and severity, a folder that
``mmext.CamVidDataset`` reads as its ``data_root``::

    data/camvid_weather/fog_2/images/Seq05VD/NAME.jpg
    data/camvid_weather/fog_2/labels/Seq05VD/NAME.png

There is no depth in CamVid; it is guessed from the labels (see
``mmext/datasets/transforms/pseudo_depth.py``). The random state of a frame
depends on its name only, so any part of the data can be made again. Frames
that are there already are kept: a second run is quick. The stream on which
settings are chosen is made with another salt from the first 22 % of a
training sequence, which the source models did not see::

    python tools/dataset_converters/camvid_weather.py \
        --src $MMEXT_CAMVID --out data/camvid_weather_tune \
        --sequence 0016E5 --stop 0.223 --salt 1

CamVid is CC BY-NC 4.0, and so are frames made from it: keep them out of
repositories.
"""
import argparse
import json
import os
import os.path as osp
import sys
import time
from typing import List, Tuple

import cv2
import numpy as np

from mmext.datasets.data_help import missing_data_error
from mmext.datasets.transforms.weather import (WEATHER, add_weather,
                                               weather_seed)
from mmext.utils.io import atomic_write, write_json

# Goes up when the pictures change, so that old folders are not mixed in.
RENDERER = 1


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--src',
        default=os.environ.get('MMEXT_CAMVID', 'data/camvid'),
        help='CamVid (default: $MMEXT_CAMVID, else data/camvid)')
    parser.add_argument('--out', required=True, help='folder to write')
    parser.add_argument('--sequence', default='Seq05VD')
    parser.add_argument(
        '--severity', type=int, nargs='+', default=[2], choices=(1, 2, 3))
    parser.add_argument(
        '--domains', nargs='+', default=list(WEATHER), choices=list(WEATHER))
    parser.add_argument(
        '--start', type=float, default=0.0, help='fraction of the sequence')
    parser.add_argument(
        '--stop', type=float, default=1.0, help='fraction of the sequence')
    parser.add_argument(
        '--salt', type=int, default=0, help='another number, other weather')
    parser.add_argument('--quality', type=int, default=95, help='JPEG quality')
    return parser.parse_args()


def list_frames(src: str, sequence: str, start: float,
                stop: float) -> List[Tuple[str, str]]:
    """Image and label paths of the wanted part of one sequence.

    Raises:
        FileNotFoundError: If images or labels are missing.
    """
    from mmext.datasets.camvid import CamVidDataset
    folder = osp.join(src, 'images', sequence)
    names = sorted(n for n in os.listdir(folder)
                   if n.endswith('.jpg')) if osp.isdir(folder) else []
    if not names:
        raise missing_data_error(f'CamVid sequence {sequence}', folder,
                                 CamVidDataset.data_help)
    names = names[round(start * len(names)):round(stop * len(names))]
    pairs = [(osp.join(folder,
                       n), osp.join(src, 'labels', sequence, n[:-4] + '.png'))
             for n in names]
    for _, label in pairs:
        if not osp.isfile(label):
            raise missing_data_error('CamVid labels', label,
                                     CamVidDataset.data_help)
    return pairs


def check_record(folder: str, record: dict) -> None:
    """Note how a folder was made; refuse to mix two ways in one folder.

    Raises:
        ValueError: If the folder holds frames made with other settings.
    """
    path = osp.join(folder, 'weather.json')
    if osp.isfile(path):
        with open(path) as file:
            found = json.load(file)
        if found != record:
            raise ValueError(
                f'{folder} was made with {found}, this run has {record}. '
                'Give another --out, or delete that folder.')
    write_json(path, record)


def make_domain(pairs: List[Tuple[str, str]], folder: str, sequence: str,
                domain: str, severity: int, salt: int, quality: int) -> int:
    """Write one domain at one severity, and return the new frames' count."""
    made = 0
    for image_path, label_path in pairs:
        name = osp.basename(image_path)
        image_out = osp.join(folder, 'images', sequence, name)
        label_out = osp.join(folder, 'labels', sequence,
                             osp.basename(label_path))
        if osp.isfile(image_out) and osp.isfile(label_out):
            continue
        image = cv2.imread(image_path, cv2.IMREAD_COLOR)
        labels = cv2.imread(label_path, cv2.IMREAD_UNCHANGED)
        if image is None or labels is None:
            raise ValueError(f'Cannot read {image_path} or {label_path}.')
        image = add_weather(image, labels, domain, severity,
                            weather_seed(name, domain, salt))
        _, data = cv2.imencode('.jpg', image,
                               [cv2.IMWRITE_JPEG_QUALITY, quality])
        os.makedirs(osp.dirname(image_out), exist_ok=True)
        os.makedirs(osp.dirname(label_out), exist_ok=True)
        with open(label_path, 'rb') as file:
            atomic_write(label_out, file.read())
        atomic_write(image_out, np.asarray(data).tobytes())
        made += 1
    return made


def main() -> int:
    args = parse_args()
    cv2.setNumThreads(1)
    try:
        if not 0 <= args.start < args.stop <= 1:
            raise ValueError('Expected 0 <= --start < --stop <= 1, but got '
                             f'{args.start} and {args.stop}.')
        pairs = list_frames(args.src, args.sequence, args.start, args.stop)
        for severity in args.severity:
            for domain in args.domains:
                start = time.time()
                folder = osp.join(args.out, f'{domain}_{severity}')
                check_record(
                    folder,
                    dict(
                        renderer=RENDERER,
                        domain=domain,
                        severity=severity,
                        salt=args.salt,
                        quality=args.quality))
                made = make_domain(pairs, folder, args.sequence, domain,
                                   severity, args.salt, args.quality)
                print(f'{folder}: {made} frames made, {len(pairs) - made} '
                      f'kept, {time.time() - start:.0f} s')
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
