# Copyright (c) mmext contributors. All rights reserved.
r"""Write the adapter and head of a training run, without the backbone.

``SOURCE`` is a checkpoint of a run with ``CONFIG`` or an adapter; the output
is a folder or a ``*.safetensors`` file::

    python tools/model_converters/export_adapter.py CONFIG \
        work_dirs/run/epoch_100.pth adapters/cub --merged

``--program FILE`` also writes the tuned model with merged adapters by
``torch.export``, with ordinary layers only: it runs on images, normalised as
in training, without mmext or its hosts.
"""
import argparse

import torch
import torch.nn as nn
from mmengine.logging import MMLogger

from mmext.apis.adapters import build_tuned, tuned_from
from mmext.models.adapters import (MoSAModel, load_standard, read_adapter,
                                   save_adapter)
from mmext.utils.config_check import merge_known_options
from mmext.utils.config_io import CfgOptions, load_config
from mmext.utils.user_error import UserError, run_tool


class _Scores(nn.Module):
    """Images to the scores of the head."""

    def __init__(self, model: MoSAModel) -> None:
        super().__init__()
        self.model = model.module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images, mode='tensor')


def write_program(model: MoSAModel, path: str, size: list) -> None:
    """Export a merged model; its batch size stays open."""
    if model.merged or model.split_layers():
        model.unmerge()
        model.collapse()
    model.eval()
    example = torch.randn(2, 3, *size)
    batch = torch.export.Dim('batch')
    with torch.no_grad():
        program = torch.export.export(
            _Scores(model), (example, ), dynamic_shapes=({
                0: batch
            }, ))
        torch.export.save(program, path)


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the run')
    parser.add_argument('source', help='checkpoint (.pth) or adapter')
    parser.add_argument('out', help='folder or .safetensors file to write')
    parser.add_argument(
        '--merged',
        action='store_true',
        help='write the standard adapter that the modules merge to')
    parser.add_argument(
        '--name',
        help='which adapter, where a checkpoint has several. Default: that '
        'of the config')
    parser.add_argument(
        '--backbone',
        metavar='CHECKPOINT',
        help='the whole host, where SOURCE is an adapter. Default: what the '
        'config loads')
    parser.add_argument(
        '--from-standard',
        action='store_true',
        help='SOURCE is a standard adapter (num_modules=1); write the '
        'modules of CONFIG that start from it')
    parser.add_argument(
        '--no-check',
        action='store_true',
        help='accept other frozen weights than the adapter was trained on')
    parser.add_argument('--program', metavar='FILE', help='.pt2 file to write')
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        default=[224, 224],
        metavar=('H', 'W'),
        help='images of the program. Default: 224 224')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        default={},
        help='settings to override, key=value')
    return parser.parse_args(argv)


def modules_from_standard(cfg, args: argparse.Namespace) -> MoSAModel:
    """A model with the split of ``cfg`` that starts from an adapter."""
    standard = tuned_from(cfg, args.source, args.backbone, not args.no_check)
    _, tensors = read_adapter(args.source)
    model = build_tuned(cfg)
    try:
        load_standard(model, tensors)
    except ValueError as error:
        raise UserError(f'{args.source}: {error}') from error
    host = {
        k: v
        for k, v in standard.state_dict().items() if '.mosa.' not in k
    }
    model.load_state_dict(host, strict=False)
    return model


def main(argv=None) -> None:
    args = parse_args(argv)
    # Building a model logs every parameter.
    MMLogger.get_instance('mmext', log_level='WARNING')
    cfg = load_config(args.config)
    merge_known_options(cfg, args.cfg_options)
    if args.from_standard and args.source.endswith('.pth'):
        raise UserError('--from-standard takes an adapter. Export the '
                        'checkpoint with its own config first.')
    model = modules_from_standard(cfg, args) if args.from_standard else \
        tuned_from(cfg, args.source, args.backbone, not args.no_check)
    if args.name and args.name not in model.adapter_cfgs:
        raise UserError(f'--name {args.name}: there is no such adapter in '
                        f'{args.source}, which has '
                        f'{", ".join(sorted(model.adapter_cfgs))}.')
    model.set_active(args.name or model.active_adapter)
    weights = save_adapter(model, args.out, merged=args.merged)
    print(f'{weights}: {weights.stat().st_size / 1e6:.2f} MB')
    if args.program:
        write_program(model, args.program, args.size)
        print(f'{args.program}: scores of {args.size[0]} x {args.size[1]} '
              'images')


if __name__ == '__main__':
    run_tool(main)
