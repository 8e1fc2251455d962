# Copyright (c) mmext contributors. All rights reserved.
"""Evaluate a checkpoint, or adapt it on the config's stream."""
import argparse
import os.path as osp
from copy import deepcopy

from mmengine.config import ConfigDict
from mmengine.dist import is_main_process
from mmengine.fileio import dump

from mmext.apis.certified_model import match_checkpoint, warn_resampling
from mmext.engine.hooks import CheckpointMatchHook
from mmext.utils.config_build import drop_pretrained
from mmext.utils.config_io import load_config
from mmext.utils.config_types import is_adaptation
from mmext.utils.launch import (add_common_arguments, brings_weights,
                                build_runner, enable_amp, finish_config,
                                is_certified, is_depth, is_tuned, parse,
                                predicts_depth, require_gpu,
                                set_loader_defaults, set_pipeline,
                                set_work_dir)
from mmext.utils.preflight import preflight
from mmext.utils.user_error import UserError, run_tool

_FILES = ('.pkl', '.pickle', '.json', '.yml', '.yaml')
_HOOKS = dict(mmseg='SegVisualizationHook', mmpretrain='VisualizationHook')


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Evaluate a checkpoint with test_dataloader and '
        'test_evaluator of the config. A config that adapts is evaluated '
        'without adapting, unless --adapt is given. The config is Python '
        'code and is executed.')
    parser.add_argument(
        'config', help='path of a config, or a name from the model zoo')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='checkpoint to evaluate; may be left out for an ensemble whose '
        'members name theirs in the config')
    parser.add_argument(
        '--adapt',
        action='store_true',
        help='adapt the checkpoint on the stream (train_dataloader) of the '
        'config, which is what tools/train.py does with load_from=CHECKPOINT')
    parser.add_argument(
        '--out',
        help='a folder: predicted label maps go there as PNG (mmseg); or a '
        'file .pkl, .json or .yml: results go there (see --out-item)')
    parser.add_argument(
        '--out-item',
        choices=['metrics', 'pred'],
        help='what --out FILE holds. Default: predictions for .pkl, metrics '
        'for .json and .yml')
    parser.add_argument(
        '--dump', metavar='FILE.pkl', help='file for all predictions')
    parser.add_argument(
        '--show', action='store_true', help='show predictions in a window')
    parser.add_argument(
        '--show-dir', help='folder for pictures of the predictions')
    parser.add_argument(
        '--interval',
        type=int,
        default=1,
        help='show or write every Nth picture (some versions of mmseg: all)')
    parser.add_argument(
        '--wait-time',
        type=float,
        default=2,
        help='seconds that each window of --show stays')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation: average over the views of tta_pipeline '
        '(not adaptation, which is --adapt)')
    add_common_arguments(parser)
    args = parse(parser, argv)
    if args.adapt:
        given = [
            name
            for name in ('out', 'out_item', 'dump', 'show', 'show_dir', 'tta')
            if getattr(args, name)
        ]
        if given:
            parser.error('--adapt runs the train loop; it cannot be combined '
                         'with --' + ', --'.join(given).replace('_', '-'))
    if args.out_item and not args.out:
        parser.error('--out-item needs --out FILE')
    if args.out_item and not args.out.endswith(_FILES):
        parser.error('--out-item is of a file; --out names a folder, which '
                     f'gets label maps: {args.out!r}')
    if args.dump and not args.dump.endswith(('.pkl', '.pickle')):
        parser.error(f'--dump needs a name that ends in .pkl, got '
                     f'{args.dump!r}')
    return args


def merge_args(cfg, args: argparse.Namespace) -> None:
    """Merge the options into the config; ``--cfg-options`` come last."""
    set_work_dir(cfg, args)
    if args.checkpoint is None and not brings_weights(cfg.get('model') or {}):
        raise UserError(
            'There are no weights to evaluate. Expected a checkpoint after '
            'the config; only a mmext.CertifiedEnsemble whose members all '
            'have a checkpoint in the config goes without.')
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.adapt:
        if args.amp:
            enable_amp(cfg)
    else:
        for key in ('test_dataloader', 'test_evaluator'):
            if cfg.get(key) is None:
                raise UserError(f'The config has no {key}, so there is '
                                'nothing to evaluate on.')
        if args.amp:
            require_gpu('--amp')
            cfg.test_cfg = dict(cfg.get('test_cfg') or {}, fp16=True)
        if args.show or args.show_dir:
            set_pictures(cfg, args)
        if args.tta:
            set_tta(cfg)
        add_outputs(cfg, args)
    set_loader_defaults(cfg, args)
    finish_config(cfg, args)


def set_pictures(cfg, args: argparse.Namespace) -> None:
    """Switch the host's visualization hook on."""
    scope = cfg.get('default_scope')
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    if hooks.get('visualization') is None:
        if scope not in _HOOKS:
            raise UserError('--show and --show-dir need '
                            'default_hooks.visualization in the config.')
        hooks.visualization = dict(type=_HOOKS[scope])
    hooks.visualization.update(
        show=args.show, wait_time=args.wait_time, interval=args.interval)
    if scope == 'mmpretrain':
        hooks.visualization.update(enable=True, out_dir=args.show_dir)
        return
    hooks.visualization.draw = True
    if args.show_dir:
        visualizer = cfg.get('visualizer') or dict(
            type='SegLocalVisualizer', vis_backends=[])
        # without a back-end mmseg would draw and throw the picture away
        if not visualizer.get('vis_backends'):
            visualizer['vis_backends'] = [dict(type='LocalVisBackend')]
        visualizer['save_dir'] = args.show_dir
        cfg.visualizer = visualizer


def set_tta(cfg) -> None:
    """Wrap the model and replace the test pipeline, as the hosts do."""
    if (cfg.model.get('test_cfg') or {}).get('certify'):
        raise UserError(
            'A certificate speaks of one image, not of an average over '
            'views. Leave out --tta, or set model.test_cfg.certify=None and '
            'remove mmext.CertifiedAccuracy.')
    if cfg.get('default_scope') == 'mmpretrain':
        cfg.setdefault('tta_model', dict(type='AverageClsScoreTTA'))
        if cfg.get('tta_pipeline') is None:
            steps = deepcopy(cfg.test_dataloader.dataset.pipeline)
            flips = [dict(type='RandomFlip', prob=p) for p in (1., 0.)]
            cfg.tta_pipeline = steps[:-1] + [
                dict(type='TestTimeAug', transforms=[flips, [steps[-1]]])
            ]
    missing = [
        key for key in ('tta_model', 'tta_pipeline') if cfg.get(key) is None
    ]
    if missing:
        raise UserError(f'--tta needs {" and ".join(missing)} in the config. '
                        'Augmented views are chosen there.')
    set_pipeline(cfg.test_dataloader.dataset, cfg.tta_pipeline)
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def add_outputs(cfg, args: argparse.Namespace) -> None:
    """Add the metrics that write predictions."""
    extra = []
    if args.dump:
        extra.append(dict(type='DumpResults', out_file_path=args.dump))
    if args.out and not args.out.endswith(_FILES):
        if predicts_depth(cfg.model):
            raise UserError(
                '--out with a folder writes label maps, and this model '
                'predicts depth. SpikeDepthInferencer of '
                'mmext.apis.spike_depth_inferencer writes pictures and '
                '16-bit PNG to its out_dir; a file name that ends in .json '
                'gets the metrics.')
        if cfg.get('default_scope') != 'mmseg':
            raise UserError('--out with a folder writes label maps, which '
                            'only mmseg models predict. Give a file name '
                            'that ends in .pkl, .json or .yml.')
        extra.append(
            dict(type='IoUMetric', format_only=True, output_dir=args.out))
    elif args.out and out_item(args) == 'pred':
        if not args.out.endswith(('.pkl', '.pickle')):
            raise UserError('--out-item pred needs a file name that ends in '
                            f'.pkl, got {args.out!r}.')
        extra.append(dict(type='DumpResults', out_file_path=args.out))
    if extra:
        given = cfg.test_evaluator
        given = given if isinstance(given, (list, tuple)) else [given]
        cfg.test_evaluator = [*given, *extra]


def out_item(args: argparse.Namespace) -> str:
    """What ``--out FILE`` holds."""
    is_pickle = args.out.endswith(('.pkl', '.pickle'))
    return args.out_item or ('pred' if is_pickle else 'metrics')


def main(argv=None) -> None:
    args = parse_args(argv)
    cfg = load_config(args.config)
    if args.adapt and not is_adaptation(cfg):
        raise UserError('--adapt needs a config whose train_cfg.type is '
                        "'mmext.TestTimeAdaptLoop'; this one trains. Use "
                        'tools/train.py.')
    merge_args(cfg, args)
    is_file = bool(args.out) and args.out.endswith(_FILES)
    preflight(
        cfg,
        'adapt' if args.adapt else 'test',
        args.checkpoint,
        folders={
            'work_dir': cfg.work_dir,
            '--show-dir': args.show_dir,
            '--out': None if is_file else args.out
        },
        files={
            '--dump': args.dump,
            '--out': args.out if is_file else None
        })
    tuned = is_tuned(cfg.model) and not args.adapt
    if tuned:
        # It initialises its host when it is built; the checkpoint has it all.
        drop_pretrained(cfg.model)
    if (cfg.model.get('test_cfg') or {}).get('certify'):
        warn_resampling(cfg)
    runner = build_runner(cfg)
    if args.adapt:
        runner.train()
        return
    if is_adaptation(cfg):
        runner.register_hook(
            CheckpointMatchHook(
                cfg.train_cfg.get('source_ignore', ('^auxiliary_head', ))))
    elif is_certified(cfg.model):
        match_checkpoint(runner)
    elif tuned:
        # modules that started from zero have no ``init`` in the model
        runner.register_hook(CheckpointMatchHook((r'\.(bias_)?init$', )))
    elif is_depth(cfg.model):
        # the stages of BiCross leave what only their training has
        runner.register_hook(
            CheckpointMatchHook(('^(projection_|domain_loss|connector)', )))
    metrics = runner.test()
    if is_file and out_item(args) == 'metrics' and is_main_process():
        dump(metrics, osp.expanduser(args.out))


if __name__ == '__main__':
    run_tool(main)
