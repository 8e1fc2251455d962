# Copyright (c) mmext contributors. All rights reserved.
"""Errors of depth, per round and domain of a stream."""
import logging
from typing import Any, Dict, Optional, Sequence

import torch
from mmengine.logging import print_log

from mmext.registry import METRICS, register_depth
from mmext.utils.user_error import ConfigError
from .depth_measures import MEASURES, SUMS, measures
from .depth_metric import DepthMetric
from .domain_metric import DomainMetric, Key
from .domain_report import mean, stream_report


@register_depth(METRICS)
class DomainDepthMetric(DomainMetric):
    """AbsRel, SqRel, RMSE, RMSElog, d1 to d3 and more, of a depth stream.

    What :class:`~mmext.evaluation.depth_metric.DepthMetric` gives for a data
    set, for each (round, domain): as predicted and, by default, with each
    prediction multiplied by the ratio of the medians (names then begin with
    ``median_``). Domains are averaged within a round, then rounds, by
    AbsRel. Forgetting of a domain is the rise of its AbsRel from the first
    round to the last.

    Args:
        min_depth (float): In metres. Defaults to 1e-3.
        max_depth (float): In metres. Defaults to 80.
        crop (str, optional): 'garg', 'eigen', 'nyu' or None.
            Defaults to 'garg'.
        average (str): 'image', the mean of the images' values, or 'pixel',
            all pixels of a domain in one pool. Defaults to 'image'.
        align (Sequence[str | None]): How predictions are fitted to their
            truth, the first for the plain names; see ``DepthMetric``.
            Defaults to ``(None, 'median')``.
        domains (Sequence[str], optional): Order of the domains in the
            report; a frame of another domain is an error. Defaults to None,
            the order of their appearance.
        prefix (str, optional): Put before every metric name, with a '/'.
            Defaults to None.

    Raises:
        ConfigError: If a setting is unknown.

    Example:
        >>> test_evaluator = dict(
        ...     type='mmext.DomainDepthMetric',
        ...     domains=['fog', 'night', 'rain', 'snow'])
    """

    def __init__(self,
                 min_depth: float = 1e-3,
                 max_depth: float = 80.,
                 crop: Optional[str] = 'garg',
                 average: str = 'image',
                 align: Sequence[Optional[str]] = (None, 'median'),
                 domains: Optional[Sequence[str]] = None,
                 prefix: Optional[str] = None) -> None:
        if not align or isinstance(align, str):
            raise ConfigError(
                'Expected align of DomainDepthMetric to be a sequence such as '
                f"(None, 'median'), but got {align!r}.")
        self.average = average
        # Each knows how to score one frame; their own results stay empty.
        self.scorers = {
            f'{how}_' if i else '':
            DepthMetric(
                min_depth=min_depth,
                max_depth=max_depth,
                crop=crop,
                average=average,
                align=how,
                uncertainty=None)
            for i, how in enumerate(dict.fromkeys(align))
        }
        super().__init__(domains, prefix)

    def no_counts(self) -> Dict[str, Any]:
        """No frame: sums over pixels, or of the images' values."""
        width = len(SUMS if self.average == 'pixel' else MEASURES)
        return dict(
            totals=torch.zeros(len(self.scorers), width, dtype=torch.float64),
            frames=0,
            empty=0,
            unlabelled=0)

    def count(self, sample: Any, counts: Dict[str, Any]) -> None:
        """Score one prediction.

        Args:
            sample (dict | SegDataSample): With ``pred_depth_map`` and, where
                there is truth, ``gt_depth_map``, each (1, H, W) or (H, W) in
                metres.
            counts (dict): Changed in place.

        Raises:
            ConfigError: If the two differ in size.
        """
        for row, scorer in zip(counts['totals'], self.scorers.values()):
            result = scorer.score(sample)
            if result['state'] != 'scored':
                counts[result['state']] += 1
                return
            values = result['sums'] if self.average == 'pixel' else list(
                measures(result['sums']).values())
            row += torch.as_tensor(values, dtype=torch.float64)
        counts['frames'] += 1

    def report_of(self, counts: Dict[Key, dict]) -> Dict[str, Any]:
        """Nested results of ordered counts.

        Returns:
            dict: ``{'main': 'abs_rel', 'digits': 4, 'rounds': {'r1': {'fog':
            {'abs_rel', ..., 'median_abs_rel', ..., 'frames'}}}, 'domains':
            {'fog': AbsRel over the rounds}, 'forgetting': {'fog': rise},
            'abs_rel': mean, 'means': {every score: mean}, 'empty': frames
            without a pixel to score, 'unlabelled': without truth}``.
        """
        rows = {
            key: dict(self._scores(one), frames=one['frames'])
            for key, one in counts.items() if one['frames']
        }
        report = stream_report(rows, 'abs_rel', lower_is_better=True)
        names = [name for row in rows.values() for name in row]
        means = {
            name:
            mean(
                mean(row[name] for row in visited.values())
                for visited in report['rounds'].values())
            for name in dict.fromkeys(names) if name != 'frames'
        }
        totals = {
            name: sum(one[name] for one in counts.values())
            for name in ('empty', 'unlabelled')
        }
        return dict(report, main='abs_rel', digits=4, means=means, **totals)

    def _scores(self, counts: Dict[str, Any]) -> Dict[str, float]:
        scores = {}
        for lead, row in zip(self.scorers, counts['totals']):
            found = measures(row.numpy()) if self.average == 'pixel' else \
                dict(zip(MEASURES, (row / counts['frames']).tolist()))
            scores.update({lead + name: v for name, v in found.items()})
        return scores

    @staticmethod
    def seen_frames(counts: Dict[str, Any]) -> int:
        """All frames behind some counts."""
        return counts['frames'] + counts['empty'] + counts['unlabelled']

    def compute_metrics(self, results: list) -> Dict[str, float]:
        """As :class:`DomainMetric`; says how many frames could not count."""
        metrics = super().compute_metrics(results)
        empty = self.report()['empty']
        if empty:
            scorer = self.scorers['']
            print_log(
                f'DomainDepthMetric left {empty} frames out that have no '
                f'depth between {scorer.min_depth} and {scorer.max_depth} m '
                f'inside the crop {scorer.crop!r}.',
                logger='current',
                level=logging.WARNING)
        return metrics
