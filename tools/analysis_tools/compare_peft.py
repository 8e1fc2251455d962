# Copyright (c) mmext contributors. All rights reserved.
r"""Train several MoSA configs with several seeds and compare them.

Each run is ``tools/train.py``, then ``tools/test.py``, in processes of their
own. Finished runs are reused when neither their config nor their pretrained
weights have changed, and an interrupted one goes on from its last
checkpoint: give the same command again. ::

    python tools/analysis_tools/compare_peft.py \
        configs/mosa/vit-small-p14_{linear,full,lora,adapter}_elpv2-112px.py \
        configs/mosa/vit-small-p14_{mosa,mosa-down,mosl}_elpv2-112px.py \
        --seeds 0 1 2 --lr-grid 3e-4 1e-3 3e-3 1e-2 \
        --work-dir work_dirs/peft_elpv2

With ``--lr-grid`` each method is first trained with every rate, with the
first seed; the rate of the highest score on the *validation* images is used
for all seeds (the first in the list where several are equal). Only the runs
with the chosen rate are tested. A rate with which the loss becomes infinite
is left out. Without it, the rate is the config's.

``--variant NAME KEY=VALUE ...`` (any number of them) adds each config with
these settings as a method of its own, for ablations and for few labels::

    python tools/analysis_tools/compare_peft.py \
        configs/mosa/vit-small-p14_mosa_cifar10-112px.py --seeds 0 1 2 \
        --variant union model.merge=union \
        --variant N2 model.num_modules=2 \
        --variant 25pct train_dataloader.dataset.num_samples=200

The data belong under ``data/`` and the pretrained weights under
``work_dirs/pretrained/``, as the comments of the configs say. All of that is
checked for all methods before the first run starts.

The work directory gets ``report.md`` and ``report.json``, also after every
finished method; a run is in ``CONFIG/[VARIANT/]lrRATE/seedSEED``. Checkpoints
are removed once they were tested or their rate lost, unless
``--keep-checkpoints`` is given; logs, scores and the merged adapters stay.
"""
import argparse
from functools import partial
from pathlib import Path
from typing import Dict, List

from mmengine.logging import MMLogger

from mmext.apis.peft_comparison import (RATE, Method, PeftComparison,
                                        check_method)
from mmext.utils.comparison import (add_run_arguments, check_seeds,
                                    markdown_table, number)
from mmext.utils.config_io import NamedOptions
from mmext.utils.io import atomic_write, write_json
from mmext.utils.user_error import UserError, run_tool


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Train MoSA configs with several seeds and compare them '
        'in one table; the same command again goes on')
    parser.add_argument(
        'configs', nargs='+', help='configs with a mmext.MoSAModel')
    parser.add_argument(
        '--seeds',
        nargs='+',
        type=int,
        default=[0],
        help='seeds to run each config with')
    parser.add_argument(
        '--lr-grid',
        nargs='+',
        type=float,
        default=[],
        metavar='RATE',
        help='learning rates to choose from on the validation images, for '
        'each method, with the first seed')
    parser.add_argument(
        '--variant',
        nargs='+',
        action=NamedOptions,
        default={},
        metavar=('NAME', 'KEY=VALUE'),
        help='also compare every config with these settings')
    parser.add_argument(
        '--share-rate',
        action='store_true',
        help='variants use the rate that was chosen for their config')
    parser.add_argument(
        '--keep-checkpoints',
        action='store_true',
        help='keep the checkpoints of finished runs, which are large')
    parser.add_argument(
        '--metric',
        default='accuracy/top1',
        help='score to compare, more is better. Default: accuracy/top1')
    add_run_arguments(parser, 'work_dirs/compare_peft')
    args = parser.parse_args(argv)
    check_seeds(parser, args.seeds)
    return args


def methods_of(args: argparse.Namespace) -> List[Method]:
    """All rows of the table, checked before the first run takes its hours.

    Raises:
        UserError: If a config cannot be read or run, does not fit the
            settings, has no ``MoSAModel``, or its data or weights are
            missing.
    """
    methods = []
    for config in dict.fromkeys(args.configs):
        for variant, extra in {'': {}, **args.variant}.items():
            options = {**args.cfg_options, **extra}
            method = Method(config, variant, options)
            reserved = {RATE, 'randomness.seed', 'model.seed'} & set(options)
            if reserved and not (reserved == {RATE} and not args.lr_grid):
                raise UserError(
                    f'{", ".join(sorted(reserved))} is set by --seeds and '
                    '--lr-grid; take it out of the settings.')
            check_method(method, bool(args.lr_grid))
            methods.append(method)
    stems = {Path(config).stem for config in args.configs}
    if len(stems) < len(set(args.configs)):
        raise UserError('Two configs have the same file name, which names '
                        'the folders of their runs. Rename one.')
    return methods


def markdown(rows: Dict[str, dict], args: argparse.Namespace) -> str:
    """The table."""
    head = [
        'method', 'rate', f'val {args.metric}', f'test {args.metric}',
        'trainable', '%', 'saved MB', 's/step', 'peak MB'
    ]
    lines = []
    for name, row in rows.items():
        score = number(row['mean'])
        if len(row['runs']) - row['diverged'] > 1:
            score += f' ± {row["std"]:.2f}'
        if row['diverged']:
            score += f' ({row["diverged"]} diverged)'
        share, saved = None, None
        if row['trainable'] is not None:
            share = 100 * row['trainable'] / row['total']
            saved = row['saved_bytes'] / 1e6
        lines.append([
            name, f'{row["rate"]:g}',
            number(row['val']), f'**{score}**',
            '-' if share is None else f'{row["trainable"]:,}',
            number(share),
            number(saved),
            number(row['step_seconds'], 3),
            number(row['memory_mb'], 0)
        ])
    kinds = {row['memory_of'] for row in rows.values()} - {None}
    note = (f'Mean ± standard deviation over seed(s) '
            f'{", ".join(map(str, args.seeds))}; saved: the merged adapter '
            'with the head; step: median of the log; peak memory of the '
            f'{" or ".join(sorted(kinds)) or "process"}.')
    if args.lr_grid:
        rates = ', '.join(f'{rate:g}' for rate in args.lr_grid)
        note += (f' Rate of each method: the best of {rates} on the '
                 f'validation images with seed {args.seeds[0]}.')
    return f'{markdown_table(head, lines)}\n\n{note}\n'


def labels_of(methods: List[Method]) -> List[str]:
    """Short names: MODEL_METHOD_DATA becomes METHOD where that is unique."""
    parts = [Path(m.config).stem.split('_') for m in methods]
    outer = {(p[0], *p[2:]) for p in parts}
    short = len(outer) == 1 and min(map(len, parts)) >= 3
    names = [p[1] if short else '_'.join(p) for p in parts]
    return [
        f'{name} [{m.variant}]' if m.variant else name
        for name, m in zip(names, methods)
    ]


def main(argv=None) -> None:
    args = parse_args(argv)
    root = Path(args.work_dir)
    # Building a model logs every parameter.
    MMLogger.get_instance('mmext', log_level='WARNING')
    methods = methods_of(args)
    comparison = PeftComparison(root, args.seeds, args.metric,
                                args.keep_checkpoints,
                                partial(print, flush=True))
    rows: Dict[str, dict] = {}
    chosen: Dict[str, float] = {}
    for label, method in zip(labels_of(methods), methods):
        given = chosen.get(method.config) if args.share_rate else None
        rows[label] = comparison.run(method, args.lr_grid, given)
        chosen.setdefault(method.config, rows[label]['rate'])
        write_json(root / 'report.json',
                   dict(seeds=args.seeds, metric=args.metric, methods=rows))
        atomic_write(root / 'report.md', markdown(rows, args))
    print(markdown(rows, args))
    print(f'report: {root}/report.md, {root}/report.json')


if __name__ == '__main__':
    run_tool(main)
