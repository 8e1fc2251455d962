# Copyright (c) mmext contributors. All rights reserved.
r"""Write Fashion-MNIST's four files from a Debian package.

The package holds the official files. It need not be installed::

    apt-get download dataset-fashion-mnist
    python tools/dataset_converters/fashion_mnist.py \
        --archive dataset-fashion-mnist_*.deb --out data/fashion-mnist

writes ``data/fashion-mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte``,
which mmpretrain's ``FashionMNIST`` reads. A folder that has the files,
unpacked or as ``.gz`` (such as ``/usr/share/datasets/fashion-mnist``), is
taken in place of the package. Their checksums are verified.
"""
import argparse
import os.path as osp
import sys

from mmext.datasets.idx_files import (FASHION_MNIST_FILES, deb_members,
                                      read_idx_files, write_idx_files)
from mmext.utils.user_error import UserError, run_tool


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--archive',
        required=True,
        help='dataset-fashion-mnist_*.deb, or a folder')
    parser.add_argument(
        '--out', default='data/fashion-mnist', help='data_root')
    args = parser.parse_args()
    if not osp.exists(args.archive):
        raise UserError(f'There is no {osp.abspath(args.archive)}. Get it '
                        'with: apt-get download dataset-fashion-mnist')
    contents = read_idx_files(
        args.archive, FASHION_MNIST_FILES, deb_members,
        osp.join('usr', 'share', 'datasets', 'fashion-mnist'))
    for line in write_idx_files(contents, args.out):
        sys.stdout.write(line + '\n')


if __name__ == '__main__':
    run_tool(main)
