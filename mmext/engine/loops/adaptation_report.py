# Copyright (c) mmext contributors. All rights reserved.
"""Statistics of an adaptation run and the report at its end."""
import math
import os
import os.path as osp
from typing import Any, Dict, List, Sequence

from mmengine.logging import print_log

from mmext.evaluation.domain_report import main_score, round_mean
from mmext.utils.io import atomic_write, write_json
from mmext.version import __version__


class StreamStatistics:
    """Sums of what a method logs, per visit, and of the time it takes.

    Values that are not finite are left out of sums and means.
    """

    def __init__(self) -> None:
        self.sums: Dict[str, Dict[str, float]] = {}
        self.counts: Dict[str, Dict[str, int]] = {}

    @staticmethod
    def key(visit: Any) -> str:
        """Name of a visit, such as ``'r1/fog'``."""
        return f'r{visit.round}/{visit.domain}'

    @staticmethod
    def finite_log(result: Any) -> Dict[str, float]:
        """What the logger gets: finite values, and whether it was skipped."""
        log = {k: v for k, v in result.log.items() if math.isfinite(v)}
        return dict(log, skipped=float(bool(result.skipped)))

    def add(self, visit: Any, result: Any, seconds: float) -> None:
        """Add one frame."""
        sums = self.sums.setdefault(self.key(visit), {})
        counts = self.counts.setdefault(self.key(visit), {})
        values = dict(self.finite_log(result), seconds=seconds, frames=1.)
        for name, value in values.items():
            sums[name] = sums.get(name, 0.) + value
            counts[name] = counts.get(name, 0) + 1

    def means(self) -> Dict[str, Dict[str, float]]:
        """Means per visit; ``frames`` and ``skipped`` are totals."""
        return {
            key: {
                name:
                value if name in ('frames', 'skipped') else value /
                self.counts[key][name]
                for name, value in sums.items()
            }
            for key, sums in self.sums.items()
        }

    def frames(self) -> int:
        """Frames of this process so far, those before a resume included."""
        return int(sum(s['frames'] for s in self.sums.values()))

    def seconds_per_frame(self) -> float:
        """Mean time of prediction and adaptation, without data loading."""
        seconds = sum(s['seconds'] for s in self.sums.values())
        return seconds / max(self.frames(), 1)

    def log_visit(self, visit: Any, metrics: Sequence[Any]) -> None:
        """Say how a visit went once its last frame is done."""
        means = self.means()[self.key(visit)]
        score = ''
        for metric in metrics:
            report = metric.report() if hasattr(metric, 'report') else {}
            found = report.get('rounds', {}).get(f'r{visit.round}',
                                                 {}).get(visit.domain)
            name, digits = main_score(report)
            if found and found.get(name) is not None:
                score = f'{name} {found[name]:.{digits}f}, '
        print_log(
            f'round {visit.round}, {visit.domain}: {score}'
            f'{int(means["frames"])} frames, {means["seconds"]:.3f} s/frame, '
            + ', '.join(f'{k} {v:.4g}' for k, v in means.items()
                        if k not in ('frames', 'seconds')),
            logger='current')

    @staticmethod
    def write(path: str, content: bytes) -> None:
        """Write a file atomically, making its folder."""
        os.makedirs(osp.dirname(path), exist_ok=True)
        atomic_write(path, content)

    def state_dict(self) -> dict:
        """Sums, and of how many frames each is."""
        return {
            name: {
                key: dict(value)
                for key, value in getattr(self, name).items()
            }
            for name in ('sums', 'counts')
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name in ('sums', 'counts'):
            setattr(self, name, {
                key: dict(value)
                for key, value in state[name].items()
            })


def prediction_path(work_dir: str, visit: Any, img_path: str) -> str:
    """Where ``save_predictions`` puts the label map of an image.

    ``predictions/r1/fog/SEQUENCE/NAME.png``: the image's own folder is part
    of the path, because names repeat between sequences.

    Args:
        work_dir (str): The run's folder.
        visit (Visit): Round and domain.
        img_path (str): Path of the image.
    """
    folder = osp.basename(osp.dirname(img_path))
    stem = osp.splitext(osp.basename(img_path))[0]
    return osp.join(work_dir, 'predictions', f'r{visit.round}', visit.domain,
                    folder, f'{stem}.png')


def oracle_switches(loop: Any) -> List[str]:
    """Settings by which a run uses knowledge of domain borders."""
    switches = []
    if loop.reset != 'never':
        switches.append(f'reset={loop.reset}')
    if loop.method.reset_optimizer != 'never':
        switches.append(f'reset_optimizer={loop.method.reset_optimizer}')
    return switches


def write_report(loop: Any, metrics: Dict[str, float], frames: int) -> None:
    """Write ``adaptation_report.json`` and ``.md`` into the work folder.

    Args:
        loop (TestTimeAdaptLoop): The finished loop.
        metrics (dict[str, float]): What its evaluator returned.
        frames (int): How many frames all processes have seen; fewer than the
            stream has if a hook stopped it.
    """
    runner = loop.runner
    nested = next(
        (m.report() for m in loop.evaluator.metrics if hasattr(m, 'report')),
        {})
    report = dict(
        method=loop.method.name,
        settings=loop.method.extra_info(),
        seed=runner.seed,
        rounds=loop.stream.rounds,
        frames=frames,
        stream_frames=len(loop.stream),
        stopped=frames < len(loop.stream),
        reset=loop.reset,
        autocast=loop.autocast,
        oracle=oracle_switches(loop),
        report=nested,
        metrics=metrics,
        stats=loop.visits.means(),
        seconds_per_frame=loop.visits.seconds_per_frame(),
        source=dict(path=loop.source_path, digest=loop.source_digest),
        version=__version__)
    path = osp.join(runner.work_dir, 'adaptation_report.json')
    write_json(path, report)
    atomic_write(osp.splitext(path)[0] + '.md', _markdown(report))
    print_log(f'The report is in {path}', logger='current')


def _markdown(report: Dict[str, Any]) -> str:
    lines = [
        f'# {report["method"]}', '',
        f'{report["frames"]} frames, seed {report["seed"]}, '
        f'{report["seconds_per_frame"]:.3f} s per frame. '
        f'Uses domain borders: {", ".join(report["oracle"]) or "no"}.', ''
    ]
    if report['stopped']:
        lines += [
            'The run was stopped before the end of its stream, which has '
            f'{report["stream_frames"]} frames.', ''
        ]
    rounds = report['report'].get('rounds', {})
    main, digits = main_score(report['report'])
    if not rounds or report['report'][main] is None:
        lines += ['No labels, so nothing was scored.', '']
        return '\n'.join(lines)
    domains = list(report['report']['domains'])
    lines += [
        '| round | ' + ' | '.join(domains) + ' | mean |',
        '| --- |' + ' --- |' * (len(domains) + 1)
    ]
    for name, row in rounds.items():
        values = [row[d][main] if d in row else None for d in domains]
        values.append(round_mean(row, main))
        lines.append(f'| {name} | ' +
                     ' | '.join('-' if v is None else f'{v:.{digits}f}'
                                for v in values) + ' |')
    total = f'{main} {report["report"][main]:.{digits}f}'
    return '\n'.join(lines + ['', total, ''])
