# Copyright (c) mmext contributors. All rights reserved.
"""Run several adaptation configs and compare them in one table.

Each run is ``tools/train.py`` in a process of its own. Finished runs are
reused when neither their config nor their source has changed, and an
interrupted one goes on from its last checkpoint.
"""
import argparse
import json
import statistics
from pathlib import Path
from typing import Dict, List

from mmext.evaluation.domain_report import main_score
from mmext.utils.comparison import (RunFolder, add_run_arguments, check_seeds,
                                    markdown_table, mean_of, number,
                                    option_arguments, run_digest, std_of)
from mmext.utils.config_check import check_options
from mmext.utils.config_io import load_config, merge_options
from mmext.utils.config_types import is_adaptation
from mmext.utils.io import atomic_write, write_json
from mmext.utils.launch import finish_config
from mmext.utils.preflight import preflight
from mmext.utils.user_error import UserError, run_tool


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Run adaptation configs and compare them in one table')
    parser.add_argument('configs', nargs='+', help='adaptation configs')
    parser.add_argument(
        '--seeds',
        nargs='+',
        type=int,
        default=[0],
        help='seeds to run each config with')
    parser.add_argument(
        '--sheet',
        action='store_true',
        help='also write contact_sheet.png from one frame of every domain: '
        'what was seen, the truth and every prediction')
    add_run_arguments(parser, 'work_dirs/compare')
    args = parser.parse_args(argv)
    check_seeds(parser, args.seeds)
    return args


def check_configs(configs: List[str], options: dict) -> None:
    """Refuse what cannot run before the first run takes its hours.

    Args:
        configs (list[str]): Configs of the comparison.
        options (dict): Settings to override in each.

    Raises:
        UserError: If one does not exist, cannot be read, does not fit the
            options, or does not adapt.
    """
    stems = [Path(config).stem for config in configs]
    if len(set(stems)) < len(stems):
        raise UserError('Two configs have the same file name, which names '
                        'the folders of their runs. Rename one.')
    for config in configs:
        check_options(config, options)
        cfg = load_config(config)
        merge_options(cfg, options)
        if not is_adaptation(cfg):
            raise UserError(
                f'{config} does not adapt: its train_cfg.type is not '
                "'mmext.TestTimeAdaptLoop'. Train it with tools/train.py.")


def run_folder(config: str, seed: int, path: Path, options: dict,
               check: bool) -> RunFolder:
    """The folder of a run; if it is to be run, look for what it needs.

    Raises:
        UserError: If ``check``, and its source or data are missing.
    """
    cfg = load_config(config)
    merge_options(cfg, options)
    digest = run_digest(cfg, seed, [str(cfg.get('load_from'))])
    folder = RunFolder(path, digest, 'adaptation_report.json')
    if check and not folder.finished:
        finish_config(cfg, argparse.Namespace(cfg_options={}, launcher='none'))
        preflight(cfg, 'adapt')
    return folder


def run_one(config: str, seed: int, path: Path, options: dict) -> dict:
    """Run or reuse one config with one seed; return its report."""
    folder = run_folder(config, seed, path, options, check=False)
    if folder.finished:
        print(f'reused  {path}', flush=True)
        return read_report(config, folder.report)
    resume = ['--resume'] if folder.resumable else []
    folder.start()
    print(f'running {path}', flush=True)
    folder.run('train', [
        config, '--work-dir', path, *resume, '--cfg-options',
        f'randomness.seed={seed}', *option_arguments(options)
    ], 'log.txt')
    if not folder.report.is_file():
        raise UserError(f'{config} ended without {folder.report}; the log is '
                        f'{path / "log.txt"}.')
    return read_report(config, folder.report)


def read_report(config: str, path: Path) -> dict:
    """A run's report; scores of a part of the stream are not comparable."""
    report = json.loads(path.read_text())
    if report.get('stopped'):
        raise UserError(
            f'{config} was stopped after {report["frames"]} of '
            f'{report["stream_frames"]} frames (by AdaptationGuardHook or '
            f'another hook), see {path}. Choose action="warn" or "reset" of '
            'the hook, or leave the config out.')
    return report


def summarise(label: str, reports: List[dict]) -> dict:
    """Mean and spread over seeds of one config."""
    nested = [r['report'] for r in reports]
    domains = nested[0]['domains']
    main, digits = main_score(nested[0])
    total = [n[main] for n in nested]
    return dict(
        {
            main: mean_of(total),
            f'{main}_std': std_of(total)
        },
        label=label,
        main=main,
        digits=digits,
        domains={d: mean_of(n['domains'][d] for n in nested)
                 for d in domains},
        rounds={
            name: {
                d: mean_of(n['rounds'][name][d][main] for n in nested)
                for d in row
            }
            for name, row in nested[0]['rounds'].items()
        },
        seeds=[r['seed'] for r in reports],
        frames=reports[0]['frames'],
        oracle=reports[0]['oracle'],
        settings=reports[0]['settings'],
        seconds_per_frame=statistics.fmean(r['seconds_per_frame']
                                           for r in reports))


def markdown(methods: Dict[str, dict]) -> str:
    """The table: domains (mean over rounds), rounds, mean and spread."""
    first = next(iter(methods.values()))
    domains, rounds = list(first['domains']), list(first['rounds'])
    score, digits = first['main'], first['digits']
    if any(row['main'] != score for row in methods.values()):
        raise UserError('One table cannot compare classes with depth: run '
                        'their configs apart.')
    shown = rounds if len(rounds) > 1 else []
    lines = []
    for name, row in methods.items():
        cells = [name] + [number(row['domains'][d], digits) for d in domains]
        cells += [
            number(mean_of(row['rounds'][r].values()), digits) for r in shown
        ]
        total = number(row[score], digits)
        if len(row['seeds']) > 1:
            total += f' ± {row[f"{score}_std"]:.{digits}f}'
        lines.append(cells +
                     [f'**{total}**', f'{row["seconds_per_frame"]:.2f}'])
    head = ['method', *domains, *shown, score, 's/frame']
    unit = ' in percent' if score == 'mIoU' else ''
    note = (f'{score}{unit} over {first["frames"]} frames, '
            f'seed(s) {", ".join(map(str, first["seeds"]))}.')
    return f'{markdown_table(head, lines)}\n\n{note}\n'


def main() -> None:
    args = parse_args()
    root = Path(args.work_dir)
    methods: Dict[str, dict] = {}
    folders: Dict[str, Path] = {}
    options = dict(args.cfg_options)
    if args.sheet:
        options['train_cfg.save_predictions'] = True
    check_configs(args.configs, options)
    places = {
        config: [root / Path(config).stem / f'seed{seed}'
                 for seed in args.seeds]
        for config in args.configs
    }
    for config, runs in places.items():
        for seed, folder in zip(args.seeds, runs):
            run_folder(config, seed, folder, options, check=True)
    for config, runs in places.items():
        stem = Path(config).stem
        reports = [
            run_one(config, seed, folder, options)
            for seed, folder in zip(args.seeds, runs)
        ]
        label = reports[0]['method']
        if label in methods:
            label = f'{label} [{stem}]'
        methods[label] = summarise(label, reports)
        folders[label] = runs[0]
    table = markdown(methods)
    write_json(root / 'report.json', dict(methods=methods))
    atomic_write(root / 'report.md', table)
    print(table)
    if args.sheet:
        from contact_sheet import write_contact_sheet
        path = root / 'contact_sheet.png'
        depth = next(iter(methods.values()))['main'] != 'mIoU'
        write_contact_sheet(
            args.configs[0], options, folders, path, depth=depth)
        print(f'pictures: {path}')
    print(f'report:   {root}/report.md, {root}/report.json')


if __name__ == '__main__':
    run_tool(main)
