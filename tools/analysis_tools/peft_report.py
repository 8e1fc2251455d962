# Copyright (c) mmext contributors. All rights reserved.
"""Parameters of a MoSA config: trainable, unique, per step, total, by layer.

Pretrained weights are not needed: only sizes are counted.
"""
import argparse

from mmengine.logging import MMLogger

from mmext.apis.adapters import build_tuned
from mmext.models.adapters import load_adapter
from mmext.models.adapters.report import adapter_report, report_text
from mmext.utils.config_check import merge_known_options
from mmext.utils.config_io import CfgOptions, load_config
from mmext.utils.io import write_json
from mmext.utils.user_error import run_tool


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Count the parameters of a model tuned with adapters')
    parser.add_argument('config', help='config with a mmext.MoSAModel')
    parser.add_argument(
        '--adapter',
        nargs='*',
        default=[],
        metavar='FOLDER',
        help='adapters to add, under the names of their folders')
    parser.add_argument(
        '--head',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help="config of the adapters' head, where it has other classes than "
        'the one of CONFIG: type=LinearClsHead num_classes=120 '
        'in_channels=768')
    parser.add_argument(
        '--merged', action='store_true', help='report after merging')
    parser.add_argument('--out', help='JSON file to write')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        default={},
        help='settings to override, key=value')
    return parser.parse_args(argv)


def main(argv=None) -> None:
    args = parse_args(argv)
    # Building a model logs every parameter.
    MMLogger.get_instance('mmext', log_level='WARNING')
    cfg = load_config(args.config)
    merge_known_options(cfg, args.cfg_options)
    model = build_tuned(cfg)
    for path in args.adapter:
        name = path.rstrip('/').split('/')[-1].replace('.safetensors', '')
        load_adapter(model, path, name=name, check=False, head=args.head)
    if args.merged:
        model.merge()
    report = adapter_report(model)
    print(report_text(report))
    if args.out:
        write_json(args.out, report)


if __name__ == '__main__':
    run_tool(main)
