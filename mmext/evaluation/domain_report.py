# Copyright (c) mmext contributors. All rights reserved.
"""From the scores of visits to the nested report, the metrics and a table."""
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple


def mean(values: Iterable[Optional[float]]) -> Optional[float]:
    """Mean of the defined values; None if there is none."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def main_score(report: Mapping[str, Any]) -> Tuple[str, int]:
    """Name of the score that a stream is summed up by, and its decimals."""
    return report.get('main', 'mIoU'), report.get('digits', 2)


def stream_report(results: Mapping[Tuple[int, str], Mapping[str, Any]],
                  main: str = 'mIoU',
                  lower_is_better: bool = False) -> Dict[str, Any]:
    """Nested results of a stream, whatever was scored.

    Args:
        results (Mapping): (round, domain) -> its scores, ``main`` among
            them, in the order wanted in the report.
        main (str): The score that is averaged. Defaults to 'mIoU'.
        lower_is_better (bool): Whether it is an error, so that forgetting
            is its rise. Defaults to False.

    Returns:
        dict: ``rounds``, ``domains`` (means over the rounds), ``forgetting``
        (what the last visit lost against the first) and, under the name
        ``main``, the mean of the rounds.
    """
    rounds: Dict[str, Dict[str, dict]] = {}
    by_domain: Dict[str, List[Optional[float]]] = {}
    for (number, domain), result in results.items():
        rounds.setdefault(f'r{number}', {})[domain] = dict(result)
        by_domain.setdefault(domain, []).append(result[main])
    forgetting = {
        domain: (values[-1] - values[0]) if lower_is_better else
        (values[0] - values[-1])
        for domain, values in by_domain.items()
        if len(values) > 1 and None not in (values[0], values[-1])
    }
    return {
        'rounds': rounds,
        'domains': {
            name: mean(values)
            for name, values in by_domain.items()
        },
        'forgetting': forgetting,
        main: mean(round_mean(visited, main) for visited in rounds.values())
    }


def round_mean(visited: Mapping[str, Mapping[str, Any]],
               main: str = 'mIoU') -> Optional[float]:
    """One score of one round: the mean over its domains."""
    return mean(result[main] for result in visited.values())


def flat_metrics(report: Mapping[str, Any]) -> Dict[str, float]:
    """The report as the flat dict that loggers and hooks expect.

    Undefined values (frames in which every pixel is ignored) are left out.

    Args:
        report (Mapping): See :func:`stream_report`; ``means`` are added as
            they are.

    Returns:
        dict[str, float]: Metric name -> value.
    """
    main, _ = main_score(report)
    metrics: Dict[str, Optional[float]] = {}
    for number, visited in report['rounds'].items():
        for domain, result in visited.items():
            for name, value in result.items():
                if name != 'frames' and not isinstance(value, Mapping):
                    metrics[f'{number}/{domain}/{name}'] = value
        metrics[f'{number}/{main}'] = round_mean(visited, main)
    for domain, value in report['domains'].items():
        metrics[f'{domain}/{main}'] = value
    for domain, value in report['forgetting'].items():
        metrics[f'{domain}/forgetting'] = value
    metrics.update(report.get('means', {}))
    metrics[main] = report[main]
    return {name: v for name, v in metrics.items() if v is not None}


def format_table(report: Mapping[str, Any]) -> str:
    """A text table of the main score: a line a round, a column a domain.

    Args:
        report (Mapping): See :func:`stream_report`.

    Returns:
        str: The table, starting on a new line.
    """
    main, digits = main_score(report)
    domains = list(report['domains'])
    lines = [[main] + domains + ['mean']]
    for number, visited in report['rounds'].items():
        values = [visited.get(name, {}).get(main) for name in domains]
        lines.append([number] + values + [round_mean(visited, main)])
    lines.append(['mean'] + [report['domains'][name]
                             for name in domains] + [report[main]])
    if report['forgetting']:
        lost = [report['forgetting'].get(name) for name in domains]
        lines.append(['forgetting'] + lost + [mean(lost)])
    cells = [[_cell(value, digits) for value in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return '\n' + '\n'.join('  '.join(
        cell.rjust(width) for cell, width in zip(line, widths))
                            for line in cells)


def _cell(value: Any, digits: int) -> str:
    if isinstance(value, float):
        return f'{value:.{digits}f}'
    return '-' if value is None else str(value)
