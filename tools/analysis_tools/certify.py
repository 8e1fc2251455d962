# Copyright (c) mmext contributors. All rights reserved.
r"""Certified accuracy of a checkpoint, at several radii in one pass.

It is ``tools/test.py`` with ``mmext.CertifiedAccuracy``: a table, a plot of
certified accuracy against eps, a histogram of radii and one line per image::

    python tools/analysis_tools/certify.py \
        configs/lipschitz/liplenet++_mnist.py \
        work_dirs/liplenet++_mnist/epoch_400.pth \
        --eps 0.1 0.2 0.3 --attack --out-dir certified
"""
import argparse
import os.path as osp

from mmengine.model import is_model_wrapper
from mmengine.registry import MODELS

from mmext.apis.certified_model import (match_checkpoint, prepare_certified,
                                        warn_resampling)
from mmext.models.classification.certification import CertifiedPredictions
from mmext.models.lipschitz.boxes import check_eps
from mmext.utils.config_io import load_config
from mmext.utils.io import load_checkpoint_file
from mmext.utils.launch import (add_common_arguments, brings_weights,
                                build_runner, finish_config, parse,
                                set_loader_defaults, set_work_dir)
from mmext.utils.preflight import preflight
from mmext.utils.user_error import UserError, run_tool


def radius(text: str) -> float:
    """A radius such as ``0.1`` or ``8/255``."""
    try:
        return check_eps(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error))


def count(text: str) -> int:
    """How many of something, at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f'expected a whole number of at least 1, got {text!r}')
    return int(text)


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__ + '\nThe config is Python code and is executed.',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'config', help='path of a config, or a name from the model zoo')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help="checkpoint of a finished training; left out, or 'none', for an "
        'ensemble whose members name theirs')
    parser.add_argument(
        '--eps',
        nargs='+',
        type=radius,
        help='radii in pixel units, such as 0.1 or 8/255. Default: those of '
        'model.test_cfg.certify')
    parser.add_argument(
        '--method',
        choices=['interval', 'lipschitz'],
        help='interval bounds (default), or the margin alone')
    parser.add_argument(
        '--no-clamp',
        action='store_true',
        help='count images that are not in [0, 1], too')
    parser.add_argument(
        '--radius-steps',
        type=int,
        help='halvings by which intervals refine the radius of each image, a '
        'pass each. Default: that of the config')
    parser.add_argument(
        '--attack',
        action='store_true',
        help='also attack at every radius: PGD on margin and cross-entropy')
    parser.add_argument(
        '--steps', type=count, help='steps of PGD. Default: 100')
    parser.add_argument(
        '--restarts', type=count, help='starts of PGD. Default: 5')
    parser.add_argument(
        '--samples', type=count, metavar='N', help='the first N images only')
    parser.add_argument(
        '--out-dir',
        help='folder of certified.json, the plots and the export. Default: '
        'certified in the work dir')
    parser.add_argument(
        '--export',
        default='samples.csv',
        metavar='FILE',
        help='one line per image, .csv or .jsonl. Default: samples.csv')
    add_common_arguments(parser)
    args = parse(parser, argv)
    if args.checkpoint == 'none':
        args.checkpoint = None
    if not args.attack and (args.steps or args.restarts):
        parser.error('--steps and --restarts are of --attack')
    return args


def merge_args(cfg, args: argparse.Namespace) -> None:
    """Merge the options into the config; ``--cfg-options`` come last."""
    if args.amp:
        raise UserError('--amp has no certificates: their bounds hold in '
                        'float32. Leave it out.')
    for key in ('model', 'test_dataloader'):
        if cfg.get(key) is None:
            raise UserError(f'The config has no {key}, so there is nothing '
                            'to certify.')
    set_work_dir(cfg, args)
    if args.checkpoint is None and not brings_weights(cfg.model):
        raise UserError(
            'There are no weights to certify. Expected a checkpoint after the '
            'config; only a mmext.CertifiedEnsemble whose members all name '
            'theirs does without.')
    cfg.load_from = args.checkpoint
    cfg.resume = False
    test_cfg = cfg.model.setdefault('test_cfg', dict()) or dict()
    certify = test_cfg.setdefault('certify', dict()) or dict()
    certify.update(given(args))
    if not certify.get('eps'):
        raise UserError('The config has no model.test_cfg.certify.eps: say '
                        'which radii with --eps, such as --eps 8/255.')
    cfg.model.test_cfg = dict(test_cfg, certify=certify)
    if args.samples is not None:
        cfg.test_dataloader.dataset.indices = args.samples
    cfg.test_evaluator = [
        dict(
            type='mmext.CertifiedAccuracy',
            out_dir=args.out_dir or osp.join(cfg.work_dir, 'certified'),
            export=args.export)
    ]
    set_loader_defaults(cfg, args)
    finish_config(cfg, args)
    scope = cfg.get('default_scope', 'mmpretrain')
    with MODELS.switch_scope_and_registry(scope) as registry:
        kind = registry.get(cfg.model.type)
    if kind is None or not issubclass(kind, CertifiedPredictions):
        raise UserError(
            "Expected a config with model.type='mmext.LipschitzClassifier' or "
            f"'mmext.CertifiedEnsemble', but got {cfg.model.type!r}. The same "
            'backbone under mmext.LipschitzClassifier gives certificates.')


def given(args: argparse.Namespace) -> dict:
    """The options of ``test_cfg.certify`` that were given."""
    options = dict()
    for key in ('eps', 'method', 'radius_steps'):
        value = getattr(args, key)
        if value is not None:
            options[key] = value
    if args.no_clamp:
        options['clamp'] = False
    if args.attack:
        options['attack'] = dict(
            steps=args.steps or 100,
            restarts=args.restarts or 5,
            loss=['margin', 'ce'])
    return options


def main(argv=None) -> None:
    args = parse_args(argv)
    cfg = load_config(args.config)
    merge_args(cfg, args)
    preflight(cfg, 'test', cfg.load_from)
    warn_resampling(cfg)
    runner = build_runner(cfg)
    match_checkpoint(runner)
    model = runner.model
    # A config without PNormScheduleHook leaves p where the model starts.
    prepare_certified(
        model.module if is_model_wrapper(model) else model,
        load_checkpoint_file(cfg.load_from) if cfg.load_from else {})
    runner.test()


if __name__ == '__main__':
    run_tool(main)
