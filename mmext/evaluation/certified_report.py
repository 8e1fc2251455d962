# Copyright (c) mmext contributors. All rights reserved.
"""From per-sample certificates to metrics, a table, an export and plots.

A *record* is a plain dict of one sample: ``index``, ``image``, ``label``,
``predicted``, ``radius`` and ``radius_lipschitz`` (pixel units, or None),
and lists with one entry per eps, or None: ``certified``, ``margin``,
``attacked``, ``unanimous``, ``majority``; of ensembles also ``members``
(K right or wrong) and ``member_certified`` (K lists).
"""
import csv
import io
import json
import math
import os.path as osp
from typing import Any, Dict, List, Optional, Sequence

from mmext.utils.io import PathLike, atomic_write
from mmext.utils.user_error import UserError

Record = Dict[str, Any]
#: Fields with one truth value per eps, and the metric they become.
_PER_EPS = dict(
    certified='certified',
    attacked='attacked',
    unanimous='unanimous',
    majority='majority')
_SUFFIXES = ('.csv', '.jsonl')


def eps_name(eps: float) -> str:
    """How a radius is written: '0.1', '8/255', else six digits.

    Args:
        eps (float): Radius in pixel units of images in [0, 1].

    Returns:
        str: The shortest of the forms that papers use.
    """
    if round(eps, 4) == eps:
        return f'{eps:g}'
    steps = eps * 255
    if abs(steps - round(steps)) < 1e-6:
        return f'{round(steps)}/255'
    return f'{eps:.6g}'


def is_correct(record: Record) -> bool:
    return record['predicted'] == record['label']


def label_radius(record: Record, field: str = 'radius') -> Optional[float]:
    """Radius certified for the true label: 0 where the prediction is wrong.

    A model certifies the class that it predicts, whatever the label is; only
    a radius around a right answer counts as robustness.
    """
    if record.get(field) is None:
        return None
    return float(record[field]) if is_correct(record) else 0.


def _percent(values: Sequence[Any]) -> float:
    return 100. * sum(map(bool, values)) / len(values)


def _median(values: Sequence[float]) -> float:
    ordered, half = sorted(values), len(values) // 2
    if len(ordered) % 2:
        return ordered[half]
    return (ordered[half - 1] + ordered[half]) / 2


def _all_have(records: Sequence[Record], field: str) -> bool:
    return all(record.get(field) is not None for record in records)


def violations(records: Sequence[Record]) -> List[int]:
    """Positions of samples whose certificate was refuted.

    A certificate at eps is refuted if the clean prediction is wrong, or if
    an attack within a radius of at most eps changed it.

    Args:
        records (Sequence[Record]): The samples; radii of one order.

    Returns:
        list[int]: Positions in ``records``. A sound certificate yields none.
    """
    return [i for i, record in enumerate(records) if _is_refuted(record)]


def _is_refuted(record: Record) -> bool:
    """Whether a clean or attacked prediction contradicts a certificate."""
    eps = record['eps']
    certified = record.get('certified') or [False] * len(eps)
    attacked = record.get('attacked') or [True] * len(eps)
    if not is_correct(record):
        return any(certified)
    safe = max((e for e, c in zip(eps, certified) if c), default=-1.)
    radius = record.get('radius')
    if radius is not None:
        safe = max(safe, max((e for e in eps if e < radius), default=-1.))
    return any(not a for e, a in zip(eps, attacked) if e <= safe)


def certified_metrics(records: Sequence[Record],
                      eps: Sequence[float]) -> Dict[str, float]:
    """Accuracies in percent, radii in pixel units.

    Args:
        records (Sequence[Record]): At least one sample.
        eps (Sequence[float]): The radii of the per-eps lists.

    Returns:
        dict[str, float]: See
        :class:`mmext.evaluation.certified_accuracy.CertifiedAccuracy`.
    """
    metrics = dict(clean=_percent([is_correct(r) for r in records]))
    for field, name in _PER_EPS.items():
        if _all_have(records, field):
            for i, value in enumerate(eps):
                metrics[f'{name}@{eps_name(value)}'] = _percent(
                    [r[field][i] for r in records])
    if _all_have(records, 'radius_lipschitz'):
        for value in eps:
            metrics[f'lipschitz@{eps_name(value)}'] = _percent(
                [label_radius(r, 'radius_lipschitz') > value for r in records])
    if _all_have(records, 'radius'):
        radii = [label_radius(r) for r in records]
        metrics['mean_radius'] = math.fsum(radii) / len(radii)
        metrics['median_radius'] = _median(radii)
    metrics.update(_member_metrics(records, eps))
    refuted = len(violations(records))
    if refuted or _all_have(records, 'attacked'):
        metrics['violations'] = float(refuted)
    return metrics


def _member_metrics(records: Sequence[Record],
                    eps: Sequence[float]) -> Dict[str, float]:
    """Mean and best member of an ensemble, next to the ensemble itself."""
    metrics = {}
    if _all_have(records, 'members'):
        values = [
            _percent(right) for right in zip(*(r['members'] for r in records))
        ]
        metrics.update(_mean_best('clean', values))
    if _all_have(records, 'member_certified'):
        for i, value in enumerate(eps):
            values = [
                _percent([certified[i] for certified in member])
                for member in zip(*(r['member_certified'] for r in records))
            ]
            metrics.update(_mean_best(f'certified@{eps_name(value)}', values))
    return metrics


def _mean_best(name: str, values: Sequence[float]) -> Dict[str, float]:
    return {
        f'member_mean/{name}': math.fsum(values) / len(values),
        f'member_best/{name}': max(values)
    }


def format_table(metrics: Dict[str, float], eps: Sequence[float]) -> str:
    """A text table: one line per eps, one column per kind of accuracy.

    Args:
        metrics (dict[str, float]): What :func:`certified_metrics` returned.
        eps (Sequence[float]): The radii.

    Returns:
        str: The table, starting on a new line.
    """
    kinds = [
        kind for kind in ('certified', 'lipschitz', 'attacked', 'unanimous',
                          'majority', 'member_mean/certified',
                          'member_best/certified') if any(
                              name.startswith(f'{kind}@') for name in metrics)
    ]
    lines = [['eps', 'clean', *kinds]]
    for value in eps:
        name = eps_name(value)
        lines.append([name] + [
            f'{metrics[key]:.2f}' if key in metrics else '-'
            for key in ('clean', *(f'{kind}@{name}' for kind in kinds))
        ])
    widths = [max(map(len, column)) for column in zip(*lines)]
    rows = [
        '  '.join(cell.rjust(width) for cell, width in zip(line, widths))
        for line in lines
    ]
    rest = [
        f'{name}: {metrics[name]:.6g}'
        for name in ('mean_radius', 'median_radius', 'violations')
        if name in metrics
    ]
    return '\n' + '\n'.join([*rows, *rest])


def check_export(path: PathLike) -> None:
    """Refuse a name of the export that says no known format."""
    if not str(path).endswith(_SUFFIXES):
        raise UserError(
            'Expected a name of the per-sample export that ends in '
            f'{" or ".join(_SUFFIXES)}, but got {str(path)!r}.')


def write_samples(path: PathLike, records: Sequence[Record],
                  eps: Sequence[float]) -> None:
    """Write one line per sample, as CSV or as JSON lines.

    Columns: ``index``, ``image``, ``label``, ``predicted``, ``correct``,
    ``radius`` (pixel units of [0, 1], of the predicted class),
    ``radius_255`` (the same in grey levels), ``radius_lipschitz``, and for
    each eps ``certified@EPS``, ``margin@EPS`` (largest worst-case residual;
    negative: certified) and ``attacked@EPS``. What was not computed is
    empty, or null.

    Args:
        path (str or PathLike): File that ends in ``.csv`` or ``.jsonl``.
        records (Sequence[Record]): The samples.
        eps (Sequence[float]): The radii of the per-eps lists.
    """
    check_export(path)
    rows = [_row(record, eps) for record in records]
    if str(path).endswith('.jsonl'):
        text = ''.join(json.dumps(row, allow_nan=False) + '\n' for row in rows)
    else:
        file = io.StringIO()
        writer = csv.DictWriter(file, list(_row({}, eps)), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
        text = file.getvalue()
    atomic_write(path, text)


def _row(record: Record, eps: Sequence[float]) -> Dict[str, Any]:
    radius = finite(record.get('radius'))
    row = dict(
        index=record.get('index'),
        image=record.get('image'),
        label=record.get('label'),
        predicted=record.get('predicted'),
        correct=is_correct(record) if record else None,
        radius=radius,
        radius_255=None if radius is None else radius * 255,
        radius_lipschitz=finite(record.get('radius_lipschitz')))
    for i, value in enumerate(eps):
        for field in ('certified', 'margin', 'attacked'):
            values = record.get(field)
            row[f'{field}@{eps_name(value)}'] = \
                None if values is None else finite(values[i])
    return row


def finite(value: Any) -> Any:
    """None for what JSON cannot say."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _figure():
    """A figure that needs no display and leaves pyplot's state alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(6, 4), layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: PathLike) -> None:
    content = io.BytesIO()
    figure.savefig(content, format='png', dpi=120)
    atomic_write(path, content.getvalue())


def certified_curve(records: Sequence[Record],
                    points: int = 200) -> Dict[str, List[float]]:
    """Certified accuracy as a function of eps, from the radii.

    Args:
        records (Sequence[Record]): Samples with a ``radius``.
        points (int): Number of radii. Defaults to 200.

    Returns:
        dict[str, list[float]]: ``eps`` from 0 to the largest radius (pixel
        units), and ``certified`` in percent of all samples.
    """
    radii = [label_radius(record) for record in records]
    # At eps = 0 a right answer counts, even one whose radius is 0.
    clean = _percent([is_correct(record) for record in records])
    largest = max((r for r in radii if math.isfinite(r)), default=0.)
    grid = [largest * i / (points - 1) for i in range(points)]
    values = [_percent([r > e for r in radii]) for e in grid[1:]]
    return dict(eps=grid, certified=[clean, *values])


def write_plots(folder: PathLike,
                records: Sequence[Record],
                metrics: Dict[str, float],
                eps: Sequence[float],
                bins: int = 50) -> List[str]:
    """Draw certified accuracy against eps, and the histogram of radii.

    Args:
        folder (str or PathLike): Folder of ``certified_accuracy.png`` and
            ``radius_histogram.png``.
        records (Sequence[Record]): The samples.
        metrics (dict[str, float]): What :func:`certified_metrics` returned.
        eps (Sequence[float]): The radii of the per-eps lists.
        bins (int): Bars of the histogram. Defaults to 50.

    Returns:
        list[str]: The files written.
    """
    has_radius = _all_have(records, 'radius')
    figure = _figure()
    axes = figure.add_subplot()
    if has_radius:
        curve = certified_curve(records)
        axes.step(
            curve['eps'],
            curve['certified'],
            where='pre',
            label='certified (radius)')
    for kind, mark in dict(
            certified='o',
            lipschitz='v',
            attacked='x',
            unanimous='^',
            majority='s').items():
        known = [(e, metrics[f'{kind}@{eps_name(e)}']) for e in eps
                 if f'{kind}@{eps_name(e)}' in metrics]
        if known:
            axes.plot(*zip(*known), mark, label=kind, fillstyle='none')
    axes.plot([0], [metrics['clean']], 'k*', label='clean')
    axes.set(
        xlabel='eps, pixel units of [0, 1]',
        ylabel='accuracy in percent',
        ylim=(0, 101))
    axes.grid(alpha=0.3)
    axes.legend()
    files = [osp.join(folder, 'certified_accuracy.png')]
    _save(figure, files[0])
    if has_radius:
        files.append(osp.join(folder, 'radius_histogram.png'))
        _save(_histogram(records, eps, bins), files[1])
    return files


def _histogram(records: Sequence[Record], eps: Sequence[float],
               bins: int) -> Any:
    figure = _figure()
    axes = figure.add_subplot()
    finite = [r for r in records if math.isfinite(r['radius'])]
    right = [r['radius'] for r in finite if is_correct(r)]
    wrong = [r['radius'] for r in finite if not is_correct(r)]
    axes.hist([right, wrong],
              bins=bins,
              stacked=True,
              label=['prediction right', 'prediction wrong'])
    for value in eps:
        axes.axvline(value, color='k', linewidth=0.8, linestyle='--')
    axes.set(
        xlabel='certified radius of the predicted class, pixel units',
        ylabel='images')
    axes.legend()
    return figure
