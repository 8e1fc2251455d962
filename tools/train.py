# Copyright (c) mmext contributors. All rights reserved.
"""Train a model, or adapt one to a stream, with a stock mmengine runner."""
import argparse

from mmext.utils.config_io import load_config
from mmext.utils.launch import (add_common_arguments, build_runner, enable_amp,
                                finish_config, is_certified, parse,
                                set_loader_defaults, set_resume, set_work_dir)
from mmext.utils.preflight import preflight
from mmext.utils.user_error import UserError, run_tool


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Train a model, or adapt it at test time if the config '
        'says so. The config is Python code and is executed.')
    parser.add_argument(
        'config', help='path of a config, or a name from the model zoo')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='go on from a checkpoint: from PATH, or without PATH from the '
        'newest readable one in the work dir')
    parser.add_argument(
        '--no-validate',
        action='store_true',
        help='do not evaluate during training')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the ratio of the real batch size to '
        'auto_scale_lr.base_batch_size of the config')
    add_common_arguments(parser)
    return parse(parser, argv)


def merge_args(cfg, args: argparse.Namespace) -> None:
    """Merge the options into the config; ``--cfg-options`` come last."""
    if args.no_validate:
        for key in ('val_cfg', 'val_dataloader', 'val_evaluator'):
            cfg[key] = None
    set_work_dir(cfg, args)
    if args.amp:
        enable_amp(cfg)
    if args.auto_scale_lr:
        if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
            raise UserError(
                '--auto-scale-lr needs the batch size that the learning rate '
                'of the config is meant for. Add for example '
                'auto_scale_lr=dict(base_batch_size=16) to the config.')
        cfg.auto_scale_lr.enable = True
    set_loader_defaults(cfg, args)
    finish_config(cfg, args)
    set_resume(cfg, args.resume)


def main(argv=None) -> None:
    args = parse_args(argv)
    cfg = load_config(args.config)
    merge_args(cfg, args)
    preflight(cfg, 'train', folders={'work_dir': cfg.work_dir})
    runner = build_runner(cfg)
    if cfg.get('resume') and is_certified(cfg.model):
        from mmext.apis.certified_model import match_checkpoint
        match_checkpoint(runner)
    runner.train()


if __name__ == '__main__':
    run_tool(main)
