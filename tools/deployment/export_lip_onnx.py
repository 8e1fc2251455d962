# Copyright (c) mmext contributors. All rights reserved.
r"""Export a certified classifier at p = inf to ONNX, and check it.

The graph has primitive operators only: a neuron is the largest of
``|x - w|``. It takes images as the data preprocessor does (0-255) and gives
logits::

    python tools/deployment/export_lip_onnx.py \
        configs/lipschitz/liplenet++_mnist.py \
        work_dirs/liplenet++_mnist/epoch_400.pth lenet.onnx

It needs the ``export`` extra: ``pip install 'mmext[export]'``.
"""
import argparse

from mmengine.logging import MMLogger

from mmext.apis.certified_model import certified_model
from mmext.apis.lip_onnx import check_onnx, export_onnx
from mmext.utils.config_check import merge_known_options
from mmext.utils.config_io import CfgOptions, load_config
from mmext.utils.user_error import UserError, run_tool


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'config', help='config of the classifier; it is executed')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help="its checkpoint; left out, or 'none', for an ensemble whose "
        'members name theirs')
    parser.add_argument('out', help='ONNX file to write, *.onnx')
    parser.add_argument(
        '--cells',
        type=int,
        default=1 << 16,
        help='largest number of differences an image that one node holds; '
        'less takes less memory. Default: 65536 (256 KiB an image)')
    parser.add_argument(
        '--tolerance',
        type=float,
        default=1e-4,
        help='largest difference to torch that passes. Default: 1e-4')
    parser.add_argument(
        '--no-check',
        action='store_true',
        help='do not compare with torch, which needs onnxruntime')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        default={},
        help='settings to override, key=value')
    # options may stand between config and checkpoint
    args = parser.parse_intermixed_args(argv)
    if args.checkpoint is None and not args.out.endswith('.onnx'):
        # a forgotten file to write: the checkpoint would be written over
        parser.error(f'expected a file *.onnx to write, but got {args.out!r}')
    if args.checkpoint == 'none':
        args.checkpoint = None
    return args


def main(argv=None) -> None:
    args = parse_args(argv)
    # Building a model logs every parameter.
    MMLogger.get_instance('mmext', log_level='WARNING')
    cfg = load_config(args.config)
    merge_known_options(cfg, args.cfg_options)
    model = certified_model(cfg, args.checkpoint)
    export_onnx(model, args.out, args.cells)
    print(f'written: {args.out}')
    if args.no_check:
        return
    error = check_onnx(args.out, model)
    print(f'largest difference to torch: {error:.3g}')
    if not error <= args.tolerance:
        raise UserError(
            f'{args.out} differs from torch by {error:.3g}, more than '
            f'{args.tolerance:g}. Do not use it.')


if __name__ == '__main__':
    run_tool(main)
