# Copyright (c) mmext contributors. All rights reserved.
"""Run several adaptation configs and compare them in one table.

Each run is ``tools/train.py`` in a process of its own. Finished runs are
reused when neither their config nor their source has changed, and an
interrupted one goes on from its last checkpoint.
"""
import argparse
import hashlib
import json
import os.path as osp
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterable, List, Optional

import mmext
from mmext.utils.config_io import CfgOptions, load_config, merge_options
from mmext.utils.io import atomic_write, sha256_file, write_json
from mmext.utils.launch import is_adaptation
from mmext.utils.user_error import UserError, run_tool

TRAIN = Path(__file__).resolve().parents[1] / 'train.py'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Run adaptation configs and compare them in one table')
    parser.add_argument('configs', nargs='+', help='adaptation configs')
    parser.add_argument(
        '--seeds', nargs='+', type=int, default=[0],
        help='seeds to run each config with')
    parser.add_argument(
        '--work-dir', default='work_dirs/compare',
        help='folder of the runs and of the report')
    parser.add_argument(
        '--sheet', action='store_true',
        help='also write contact_sheet.png from one frame of every domain')
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptions, default={},
        help='settings to override in every config, as key=value')
    return parser.parse_args()


def fingerprint(config: str, options: dict, seed: int) -> str:
    """What a finished run must agree in to be reused."""
    cfg = load_config(config)
    merge_options(cfg, options)
    text = f'{cfg.pretty_text}\n{seed}\n{mmext.__version__}'
    source = str(cfg.get('load_from'))
    if osp.isfile(source):
        text += sha256_file(source)
    return hashlib.sha256(text.encode()).hexdigest()


def check_configs(configs: List[str], options: dict) -> None:
    """Refuse what cannot run before the first run takes its hours.

    Args:
        configs (list[str]): Configs of the comparison.
        options (dict): Settings to override in each.

    Raises:
        UserError: If one does not exist, cannot be read, does not fit the
            options, or does not adapt.
    """
    for config in configs:
        cfg = load_config(config)
        merge_options(cfg, options)
        if not is_adaptation(cfg):
            raise UserError(
                f'{config} does not adapt: its train_cfg.type is not '
                "'mmext.TestTimeAdaptLoop'. Train it with tools/train.py.")


def run_one(config: str, seed: int, folder: Path, options: dict) -> dict:
    """Run or reuse one config with one seed; return its report."""
    report, mark = folder / 'adaptation_report.json', folder / 'fingerprint'
    wanted = fingerprint(config, options, seed)
    known = mark.read_text().strip() if mark.is_file() else ''
    if known == wanted and report.is_file():
        print(f'reused  {folder}', flush=True)
        return json.loads(report.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    command = [
        sys.executable, str(TRAIN), config, '--work-dir', str(folder),
        '--cfg-options', f'randomness.seed={seed}'
    ] + [f'{key}={value}' for key, value in options.items()]
    if known == wanted and (folder / 'last_checkpoint').is_file():
        command.insert(3, '--resume')
    atomic_write(mark, wanted)
    print(f'running {folder}', flush=True)
    with open(folder / 'log.txt', 'w') as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode or not report.is_file():
        tail = (folder / 'log.txt').read_text().splitlines()[-15:]
        raise SystemExit('\n'.join(tail) + f'\n{config} failed (exit code '
                         f'{done.returncode}); the log is {folder}/log.txt')
    return json.loads(report.read_text())


def summarise(label: str, reports: List[dict]) -> dict:
    """Mean and spread over seeds of one config."""
    def spread(values: List[Optional[float]]) -> dict:
        known = [v for v in values if v is not None]
        return dict(
            mean=_mean(known),
            std=statistics.stdev(known) if len(known) > 1 else 0.)

    nested = [r['report'] for r in reports]
    domains = nested[0]['domains']
    total = spread([n['mIoU'] for n in nested])
    return dict(
        label=label,
        mIoU=total['mean'],
        mIoU_std=total['std'],
        domains={d: spread([n['domains'][d] for n in nested])['mean']
                 for d in domains},
        rounds={
            name: {
                d: spread([n['rounds'][name][d]['mIoU']
                           for n in nested])['mean']
                for d in row
            } for name, row in nested[0]['rounds'].items()
        },
        seeds=[r['seed'] for r in reports],
        frames=reports[0]['frames'],
        oracle=reports[0]['oracle'],
        settings=reports[0]['settings'],
        seconds_per_frame=statistics.fmean(
            r['seconds_per_frame'] for r in reports))


def markdown(methods: Dict[str, dict]) -> str:
    """The table: domains (mean over rounds), rounds, mean and spread."""
    first = next(iter(methods.values()))
    domains, rounds = list(first['domains']), list(first['rounds'])
    shown = rounds if len(rounds) > 1 else []
    head = ['method', *domains, *shown, 'mIoU', 's/frame']
    lines = ['| ' + ' | '.join(head) + ' |', '|' + ' --- |' * len(head)]
    for name, row in methods.items():
        cells = [name] + [_number(row['domains'][d]) for d in domains]
        cells += [_number(_mean(row['rounds'][r].values())) for r in shown]
        total = _number(row['mIoU'])
        if len(row['seeds']) > 1:
            total += f' ± {row["mIoU_std"]:.2f}'
        cells += [f'**{total}**', f'{row["seconds_per_frame"]:.2f}']
        lines.append('| ' + ' | '.join(cells) + ' |')
    note = (f'mIoU in percent over {first["frames"]} frames, '
            f'seed(s) {", ".join(map(str, first["seeds"]))}.')
    return '\n'.join([*lines, '', note, ''])


def _mean(values: Iterable[Optional[float]]) -> Optional[float]:
    """Mean of what was scored; None where nothing was."""
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None


def _number(value: Optional[float]) -> str:
    return '-' if value is None else f'{value:.2f}'


def main() -> None:
    args = parse_args()
    root = Path(args.work_dir)
    methods: Dict[str, dict] = {}
    folders: Dict[str, Path] = {}
    options = dict(args.cfg_options)
    if args.sheet:
        options['train_cfg.save_predictions'] = True
    check_configs(args.configs, options)
    for config in args.configs:
        stem = Path(config).stem
        runs = [root / stem / f'seed{seed}' for seed in args.seeds]
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
        write_contact_sheet(args.configs[0], options, folders, path)
        print(f'pictures: {path}')
    print(f'report:   {root}/report.md, {root}/report.json')


if __name__ == '__main__':
    run_tool(main)
