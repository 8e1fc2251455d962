# Copyright (c) mmext contributors. All rights reserved.
r"""Compare BiCross with its parts, a baseline and the supervised bound.

Everything is trained with several seeds by ``tools/train_bicross.py`` and
scored on the target by ``tools/test.py``. A stage that several rows start
from is trained once. Finished runs are reused, an interrupted one goes on:
give the same command again. ::

    python tools/analysis_tools/compare_bicross.py \
        configs/bicross/bicross_streetworld.py \
        --baseline configs/bicross/pre-src_streetworld.py \
        --bound configs/bicross/supervised_streetworld.py \
        --parts configs/bicross/{ugmt,glfa}_streetworld.py \
        --seeds 0 1 2 --work-dir work_dirs/bicross_evidence

The config names its stages (``stages``), as for ``train_bicross.py``. Stage 2
is a row, too (MonoCross). ``--variant NAME stage3.KEY=VALUE ...`` adds the
config with these settings; those of ``stage2.`` train a stage 2 of their own,
which is a row, too::

        --variant q25 stage3.model.scp.threshold.q=0.25 \
        --variant ckd0 stage2.model.ckd.weight=0

Nothing is chosen here, so that the labels of the target only score. The work
directory gets ``report.md`` and ``report.json``, also after every finished
row; a run is in ``CONFIG[-VARIANT]/seedSEED``. ``--sheet N`` adds
``sheet.jpg``: N samples of the test set, their depth, and that of every row.
"""
import argparse
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Dict, List, Optional

import cv2
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from torch import nn

from mmext.apis.bicross_comparison import (BiCrossComparison, Stage,
                                           check_metrics, check_stages,
                                           gap_closed)
from mmext.apis.spike_depth_inferencer import SpikeDepthInferencer
from mmext.engine.hooks.depth_visualization_hook import input_picture
from mmext.registry import DATASETS
from mmext.spike import preview, write_picture
from mmext.spike.preview import with_title
from mmext.utils.comparison import (add_run_arguments, check_seeds,
                                    markdown_table, number)
from mmext.utils.config_io import (STAGES, NamedOptions, load_config,
                                   named_stages)
from mmext.utils.io import atomic_write, write_json
from mmext.utils.user_error import UserError, run_tool
from mmext.visualization import colour_depth

BASELINE, MONOCROSS, BICROSS, BOUND = ('Pre_src', 'MonoCross', 'BiCross',
                                       'Supervised')


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Train BiCross and what it is compared with, and write '
        'one table; the same command again goes on')
    parser.add_argument('config', help='stage 3, with the stages before it')
    parser.add_argument(
        '--baseline', help='config of spikes of the source alone')
    parser.add_argument(
        '--bound',
        help='config of labelled spikes of the target; may start from stage '
        '1, as stage 2 does')
    parser.add_argument(
        '--parts',
        nargs='+',
        default=[],
        help='configs that start from stage 2 as well')
    parser.add_argument(
        '--variant',
        nargs='+',
        action=NamedOptions,
        default={},
        metavar=('NAME', 'STAGE.KEY=VALUE'),
        help='also compare the config with these settings')
    parser.add_argument(
        '--seeds', nargs='+', type=int, default=[0], help='seeds of all rows')
    parser.add_argument(
        '--metrics',
        nargs='+',
        default=['abs_rel', 'rmse', 'd1'],
        help='scores of the table; the first one tells how much of the gap '
        'is closed. Default: abs_rel rmse d1')
    parser.add_argument(
        '--sheet',
        type=int,
        default=0,
        metavar='N',
        help='also draw N samples of the test set, with the first seed')
    add_run_arguments(parser, 'work_dirs/compare_bicross')
    args = parser.parse_args(argv)
    check_seeds(parser, args.seeds)
    if args.sheet < 0:
        parser.error('--sheet expects a number of samples, 0 for no sheet, '
                     f'but got {args.sheet}')
    return args


def stage_paths(config: str) -> Dict[str, str]:
    """The configs of the stages before stage 3, and of stage 3.

    Raises:
        UserError: If the config does not name all three.
    """
    named = named_stages(config)
    if set(named) != set(STAGES):
        raise UserError(
            f'{config} does not name its stages. Expected stages=dict('
            "stage1='A.py', stage2='B.py', stage3='C.py') in it, got "
            f'{sorted(named)}.')
    return named


def chain_of(paths: Dict[str, str], common: dict, variant: str,
             own: dict) -> List[Stage]:
    """The three stages with settings; those of a stage mark the later ones.

    Raises:
        UserError: If a setting does not name its stage.
    """
    wrong = [key for key in own if key.split('.')[0] not in STAGES]
    if wrong:
        raise UserError(
            f'--variant {variant}: {wrong[0]} belongs to no stage. Put '
            f'stage1., stage2. or stage3. in front of it.')
    chain: List[Stage] = []
    mark = ''
    for name in STAGES:
        mine = {
            key[len(name) + 1:]: value
            for key, value in own.items() if key.startswith(f'{name}.')
        }
        mark = variant if mine else mark
        chain.append(
            Stage(name, paths[name], dict(common, **mine), mark,
                  chain[-1] if chain else None))
    return chain


def rows_of(args: argparse.Namespace) -> Dict[str, Stage]:
    """Label of each row, and its last stage."""
    paths = stage_paths(args.config)
    common = args.cfg_options
    first, second, third = chain_of(paths, common, '', {})
    rows = {}
    if args.baseline:
        rows[BASELINE] = Stage('stage1', args.baseline, common)
    rows[MONOCROSS] = second
    for config in args.parts:
        part = Stage('stage3', config, common, source=second)
        rows[part.name] = part
    rows[BICROSS] = third
    for name, own in args.variant.items():
        _, middle, last = chain_of(paths, common, name, own)
        if middle.variant:
            rows[f'{MONOCROSS}, {name}'] = middle
        rows[f'{BICROSS}, {name}'] = last
    if args.bound:
        # from scratch, or from the RGB network, as a stage 2 does
        later = 'teacher_ckpt' in load_config(args.bound).model
        rows[BOUND] = Stage('stage2', args.bound, common, source=first) \
            if later else Stage('stage1', args.bound, common)
    return rows


def markdown(rows: Dict[str, dict], args: argparse.Namespace) -> str:
    """The table."""
    first = args.metrics[0]
    ends = [rows[end]['mean'] for end in (BASELINE, BOUND) if end in rows]
    both = len(ends) == 2
    lines = []
    for label, row in rows.items():
        cells = []
        for metric in args.metrics:
            if metric not in row['mean']:
                raise UserError(
                    f'{label} was not scored by {metric!r}. Choose --metrics '
                    f'among {", ".join(sorted(row["mean"]))}.')
            cells.append(_cell(row, metric))
        closed: Optional[float] = None
        if both:
            closed = gap_closed(row['mean'][first],
                                *(end[first] for end in ends))
        gap = '-' if closed is None else f'{100 * closed:.0f} %'
        lines.append([label, *cells, gap, number(row['minutes'], 0)])
    head = ['method', *args.metrics, f'gap closed ({first})', 'minutes']
    note = (f'Seed(s) {", ".join(map(str, args.seeds))}, mean ± standard '
            'deviation; gap: from the baseline to the bound; minutes: of all '
            'stages of the row, a seed.')
    return f'{markdown_table(head, lines)}\n\n{note}\n'


def _cell(row: dict, metric: str) -> str:
    text = number(row['mean'][metric], 4)
    if len(row['runs']) > 1:
        text += f' ± {row["std"][metric]:.4f}'
    return text


def predicted_depth(model: nn.Module, sample: dict) -> np.ndarray:
    """Depth in metres at the original size, (H, W), of a packed sample."""
    batch = pseudo_collate([deepcopy(sample)])
    with torch.no_grad():
        found, = model.test_step(batch)
    return found.pred_depth_map.data[0].cpu().numpy()


def write_sheet(stages: Dict[str, Stage], comparison: BiCrossComparison,
                args: argparse.Namespace) -> None:
    """Spikes, truth and what every row predicts, a sample a line."""
    cfg = stages[BICROSS].load(args.seeds[0])
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    data = DATASETS.build(cfg.test_dataloader.dataset)
    chosen = [
        len(data) * (2 * i + 1) // (2 * args.sheet) for i in range(args.sheet)
    ]
    samples = [data[index] for index in chosen]
    truth = [
        sample['data_samples'].gt_depth_map.data[0].numpy()
        for sample in samples
    ]
    columns = {
        'playback': [
            cv2.resize(
                preview(input_picture([sample['inputs']], 0), stretch=True),
                one.shape[::-1]) for sample, one in zip(samples, truth)
        ],
        'truth': [colour_depth(one) for one in truth]
    }
    for label, stage in stages.items():
        run = comparison.train(stage, args.seeds[0])
        model = SpikeDepthInferencer(
            stage.load(args.seeds[0]), run['checkpoint']).model
        columns[label] = [
            colour_depth(predicted_depth(model, sample)) for sample in samples
        ]
    sheet = np.vstack([
        np.hstack([
            with_title(pictures[line], name)
            for name, pictures in columns.items()
        ]) for line in range(args.sheet)
    ])
    write_picture(Path(args.work_dir) / 'sheet.jpg', sheet)


def main(argv=None) -> None:
    args = parse_args(argv)
    root = Path(args.work_dir)
    # Building a model logs every parameter.
    MMLogger.get_instance('mmext', log_level='WARNING')
    stages = rows_of(args)
    check_stages(stages)
    check_metrics(stages, args.metrics)
    comparison = BiCrossComparison(root, args.seeds,
                                   partial(print, flush=True))
    rows: Dict[str, dict] = {}
    for label, stage in stages.items():
        rows[label] = comparison.run(stage)
        write_json(root / 'report.json', dict(seeds=args.seeds, rows=rows))
        atomic_write(root / 'report.md', markdown(rows, args))
    if args.sheet:
        write_sheet(stages, comparison, args)
    print(markdown(rows, args))
    print(f'report: {root}/report.md, {root}/report.json')


if __name__ == '__main__':
    run_tool(main)
