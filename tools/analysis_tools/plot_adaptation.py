# Copyright (c) mmext contributors. All rights reserved.
r"""Curves of adaptation runs, from their work folders.

Along the stream, one line a run::

    python tools/analysis_tools/plot_adaptation.py \
        work_dirs/cotta work_dirs/svdp --out curve.png

Against a setting, one line for each value of another::

    python tools/analysis_tools/plot_adaptation.py work_dirs/sweep/* \
        --x train_cfg.method.sparse_rate --group train_cfg.method.prompt_std \
        --out curve.png
"""
import argparse
import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from mmengine.config import Config

from mmext.evaluation.domain_report import main_score
from mmext.utils.user_error import MissingFileError, UserError, run_tool

Line = Tuple[List[Any], List[float]]
Reports = List[Tuple[Path, dict]]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Plot the score of adaptation runs along the stream, or '
        'against a setting')
    parser.add_argument(
        'runs',
        nargs='+',
        type=Path,
        help='work folders of finished adaptation runs')
    parser.add_argument('--out', required=True, help='picture to write')
    parser.add_argument(
        '--x',
        help='setting of the config on the horizontal axis; default: '
        'the visits of the stream, in order')
    parser.add_argument(
        '--group', help='setting that tells the lines apart, with --x')
    parser.add_argument(
        '--labels', nargs='+', help='names of the runs, without --x')
    args = parser.parse_args()
    if args.x and args.labels:
        parser.error('--labels names lines along the stream; with --x the '
                     'lines are named by --group')
    if args.group and not args.x:
        parser.error('--group needs --x')
    if args.labels and len(args.labels) != len(args.runs):
        parser.error(f'expected one of --labels for each of the '
                     f'{len(args.runs)} runs, but got {len(args.labels)}')
    return args


def load_report(run: Path) -> dict:
    """The scores of a finished run.

    Args:
        run (Path): Its work folder.

    Returns:
        dict: See :func:`mmext.evaluation.domain_report.stream_report`.

    Raises:
        MissingFileError: If there is no report.
        UserError: If the frames had no labels.
    """
    path = run / 'adaptation_report.json'
    if not path.is_file():
        raise MissingFileError(
            f'{path} does not exist: {run} is not the work folder of an '
            'adaptation run that has ended. Finish it with '
            'tools/train.py CONFIG --resume.')
    report = json.loads(path.read_text())['report']
    if report.get(main_score(report)[0]) is None:
        raise UserError(f'{path} holds no scores: its frames had no labels.')
    return report


def load_reports(runs: List[Path]) -> Reports:
    """Folders and scores of runs that one axis can show.

    Args:
        runs (list[Path]): Their work folders.

    Raises:
        MissingFileError: If one has no report.
        UserError: If one has no scores, or some adapt classes and others
            depth.
    """
    reports = [(run, load_report(run)) for run in runs]
    first = main_score(reports[0][1])[0]
    for run, report in reports:
        score = main_score(report)[0]
        if score != first:
            raise UserError(
                f'One plot cannot compare classes with depth: {runs[0]} is '
                f'scored by {first}, {run} by {score}. Plot them apart.')
    return reports


def setting(run: Path, key: str) -> Any:
    """A setting of the config that a run left in its work folder; ``None``
    where it has none."""
    configs = sorted(run.glob('*.py'))
    if not configs:
        raise MissingFileError(f'{run} holds no config (*.py) to read {key} '
                               'from. tools/train.py writes it there.')
    value: Any = Config.fromfile(str(configs[0])).to_dict()
    for part in key.split('.'):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def along_stream(reports: Reports,
                 labels: Optional[List[str]]) -> Dict[str, Line]:
    """Score of every visit of the stream, one line a run."""
    lines = {}
    for i, (run, report) in enumerate(reports):
        label = labels[i] if labels else str(run)
        visits = [(f'{name} {domain}', score[main_score(report)[0]])
                  for name, row in report['rounds'].items()
                  for domain, score in row.items()]
        lines[label] = ([v[0] for v in visits], [v[1] for v in visits])
    return lines


def against_setting(reports: Reports, x: str,
                    group: Optional[str]) -> Dict[str, Line]:
    """Score of the whole stream over a setting; seeds are averaged."""
    points: Dict[str, Dict[Any, List[float]]] = {}
    for run, report in reports:
        main, _ = main_score(report)
        label = f'{group} = {setting(run, group)}' if group else main
        value = setting(run, x)
        if value is None:  # the default, or nothing that its method has
            print(f'{run} has no {x} in its config and is left out')
            continue
        points.setdefault(label, {}).setdefault(value,
                                                []).append(report[main])
    if not points:
        raise UserError(f'No run has {x} in its config. Give a setting that '
                        'the configs name.')
    lines = {}
    for label, line in points.items():
        values = sorted(line, key=lambda v: (str(type(v)), v))
        lines[label] = (values, [
            sum(line[value]) / len(line[value]) for value in values
        ])
    return lines


def draw(lines: Dict[str, Line],
         x: str,
         out: str,
         unit: str = 'mIoU (%)') -> None:
    """Draw the lines; positive numbers over three decades get a log axis."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    figure, axes = plt.subplots(figsize=(9, 3.6), dpi=90)
    for label, (values, scores) in lines.items():
        axes.plot(values, scores, marker='o', markersize=3, label=label)
    numbers = [v for values, _ in lines.values() for v in values]
    if all(isinstance(v, (int, float)) and v > 0 for v in numbers):
        if max(numbers) / min(numbers) >= 100:
            axes.set_xscale('log')
    axes.set_xlabel(x)
    axes.set_ylabel(unit)
    axes.tick_params(axis='x', labelrotation=60 if x == 'visit' else 0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc='center left', bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(out)
    plt.close(figure)


def main() -> None:
    args = parse_args()
    reports = load_reports(args.runs)
    if args.x:
        lines = against_setting(reports, args.x, args.group)
    else:
        lines = along_stream(reports, args.labels)
    score, _ = main_score(reports[0][1])
    draw(lines, args.x or 'visit', args.out,
         'mIoU (%)' if score == 'mIoU' else score)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    run_tool(main)
