# Copyright (c) mmext contributors. All rights reserved.
"""From counted pixels to the nested report, the metrics and a table."""
from typing import (Any, Dict, Iterable, List, Mapping, Optional, Sequence,
                    Tuple)

from torch import Tensor

_SCORES = ('mIoU', 'mAcc', 'aAcc')


def mean(values: Iterable[Optional[float]]) -> Optional[float]:
    """Mean of the defined values; None if there is none."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _percent(part: int, whole: int) -> Optional[float]:
    return 100. * part / whole if whole else None


def scores(histogram: Tensor, class_names: Sequence[str]) -> Dict[str, Any]:
    """Scores of one (round, domain), in percent.

    Args:
        histogram (Tensor): (4, C) areas in pixels: intersection, union,
            prediction, label.
        class_names (Sequence[str]): The C names.

    Returns:
        dict: ``mIoU``, ``mAcc``, ``aAcc`` and ``IoU`` per class; None where
        undefined (a class that is neither predicted nor labelled).
    """
    intersect, union, _, label = histogram.tolist()
    iou = [_percent(i, u) for i, u in zip(intersect, union)]
    return dict(
        mIoU=mean(iou),
        mAcc=mean(_percent(i, n) for i, n in zip(intersect, label)),
        aAcc=_percent(sum(intersect), sum(label)),
        IoU=dict(zip(class_names, iou)))


def domain_iou_report(counts: Mapping[Tuple[int, str], Mapping[str, Any]],
                      class_names: Sequence[str]) -> Dict[str, Any]:
    """Nested results of a stream.

    Args:
        counts (Mapping): (round, domain) -> ``histogram`` (4, C), ``frames``
            and ``unlabelled``, in the order wanted in the report.
        class_names (Sequence[str]): The C names.

    Returns:
        dict: See :meth:`mmext.evaluation.domain_iou.DomainIoUMetric.report`.
    """
    rounds: Dict[str, Dict[str, dict]] = {}
    by_domain: Dict[str, List[Optional[float]]] = {}
    for (number, domain), counted in counts.items():
        if not counted['frames']:
            continue
        result = scores(counted['histogram'], class_names)
        result['frames'] = counted['frames']
        rounds.setdefault(f'r{number}', {})[domain] = result
        by_domain.setdefault(domain, []).append(result['mIoU'])
    forgetting = {
        domain: values[0] - values[-1]
        for domain, values in by_domain.items()
        if len(values) > 1 and None not in (values[0], values[-1])
    }
    return dict(
        rounds=rounds,
        domains={
            name: mean(values)
            for name, values in by_domain.items()
        },
        forgetting=forgetting,
        mIoU=mean(round_mean(visited) for visited in rounds.values()),
        unlabelled=sum(counted['unlabelled'] for counted in counts.values()))


def round_mean(visited: Mapping[str, Mapping[str, Any]]) -> Optional[float]:
    """mIoU of one round: the mean over its domains."""
    return mean(result['mIoU'] for result in visited.values())


def flat_metrics(report: Mapping[str, Any]) -> Dict[str, float]:
    """The report as the flat dict that loggers and hooks expect.

    Undefined values (frames in which every pixel is ignored) are left out.

    Args:
        report (Mapping): See :func:`domain_iou_report`.

    Returns:
        dict[str, float]: Metric name -> percent.
    """
    metrics: Dict[str, Optional[float]] = {}
    for number, visited in report['rounds'].items():
        for domain, result in visited.items():
            for name in _SCORES:
                metrics[f'{number}/{domain}/{name}'] = result[name]
        metrics[f'{number}/mIoU'] = round_mean(visited)
    for domain, value in report['domains'].items():
        metrics[f'{domain}/mIoU'] = value
    for domain, value in report['forgetting'].items():
        metrics[f'{domain}/forgetting'] = value
    metrics['mIoU'] = report['mIoU']
    return {name: v for name, v in metrics.items() if v is not None}


def format_table(report: Mapping[str, Any]) -> str:
    """A text table of the mIoU: one line per round, one column per domain.

    Args:
        report (Mapping): See :func:`domain_iou_report`.

    Returns:
        str: The table, starting on a new line.
    """
    domains = list(report['domains'])
    lines = [['mIoU'] + domains + ['mean']]
    for number, visited in report['rounds'].items():
        values = [visited.get(name, {}).get('mIoU') for name in domains]
        lines.append([number] + values + [round_mean(visited)])
    lines.append(['mean'] + [report['domains'][name]
                             for name in domains] + [report['mIoU']])
    if report['forgetting']:
        lost = [report['forgetting'].get(name) for name in domains]
        lines.append(['forgetting'] + lost + [mean(lost)])
    cells = [[_cell(value) for value in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return '\n' + '\n'.join('  '.join(
        cell.rjust(width) for cell, width in zip(line, widths))
                            for line in cells)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:.2f}'
    return '-' if value is None else str(value)
