# Copyright (c) mmext contributors. All rights reserved.
"""Metrics that tell the rounds and domains of a stream apart."""
import logging
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.dist import all_gather_object
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from mmext.utils.arguments import as_tuple
from mmext.utils.user_error import ConfigError
from .domain_report import flat_metrics, format_table
from .sample_fields import get_field as _get
from .sample_fields import sample_name as _name

#: (round, domain): what one set of counts is kept for.
Key = Tuple[int, str]


class DomainMetric(BaseMetric):
    """Counts per (round, domain), added up over frames and processes.

    Memory does not grow with the stream. Frames are told apart by the
    metainfo ``domain`` and ``round`` that ``mmext.DomainSequence`` sets;
    without these everything counts as domain 'all', round 1. Frames without
    ground truth are counted, but not scored.

    A subclass says what is counted (:meth:`no_counts`, :meth:`count`) and
    what follows from it (:meth:`report_of`).

    Args:
        domains (Sequence[str], optional): Order of the domains in the
            report; a frame of another domain is an error. Defaults to None,
            the order of their appearance.
        prefix (str, optional): Put before every metric name, with a '/'.
            Defaults to None.
    """

    # Not None, for which BaseMetric warns: the names are clear without one.
    default_prefix = ''

    def __init__(self,
                 domains: Optional[Sequence[str]] = None,
                 prefix: Optional[str] = None) -> None:
        super().__init__(prefix=prefix)
        self.domains = None if domains is None else as_tuple(domains)
        self.reset()

    def reset(self) -> None:
        """Forget all counts, also those of the last :meth:`evaluate`."""
        self._counts: Dict[Key, dict] = {}
        self._gathered: Optional[Dict[Key, dict]] = None
        self._finished = False

    # What a subclass gives ---------------------------------------------------

    def no_counts(self) -> Dict[str, Any]:
        """Counts of no frame: numbers and tensors that can be added.

        ``frames`` (scored) and ``unlabelled`` are among them.
        """
        raise NotImplementedError

    def count(self, sample: Any, counts: Dict[str, Any]) -> None:
        """Add one data sample to the counts, in place."""
        raise NotImplementedError

    def report_of(self, counts: Dict[Key, dict]) -> Dict[str, Any]:
        """Nested results of ordered counts, ready for JSON."""
        raise NotImplementedError

    # Counting ----------------------------------------------------------------

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Count a batch of predictions.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[dict | SegDataSample]): Predictions with
                ground truth, if there is any, and optionally ``domain``,
                ``round`` and ``img_path``.

        Raises:
            ConfigError: If the domain is not among ``domains``, or
                prediction and ground truth do not fit.
        """
        if self._finished:
            self.reset()
        self._gathered = None
        for sample in data_samples:
            counts = self._counts.setdefault(
                self._key(sample), self.no_counts())
            self.count(sample, counts)

    def _key(self, sample: Any) -> Key:
        domain = str(_get(sample, 'domain', 'all'))
        if self.domains is not None and domain not in self.domains:
            raise ConfigError(
                f"{_name(sample)}: expected one of the domains "
                f"{list(self.domains)}, but got '{domain}'. Name all domains "
                f'of the stream in {type(self).__name__}(domains=...), or '
                'leave it out.')
        return int(_get(sample, 'round', 1)), domain

    # Results -----------------------------------------------------------------

    def compute_metrics(self, results: list) -> Dict[str, float]:
        """Turn gathered counts into a flat dict of metrics.

        Args:
            results (list[dict]): Counts per (round, domain), one dict per
                process.

        Returns:
            dict[str, float]: See :meth:`evaluate`.
        """
        self._gathered = self._ordered(self._merge(results))
        report = self.report()
        if not report['rounds']:
            print_log(
                f'{type(self).__name__} saw no label, so there is nothing to '
                'score.',
                logger='current',
                level=logging.WARNING)
            return {}
        print_log(format_table(report), logger='current')
        return flat_metrics(report)

    def compute(self) -> Dict[str, float]:
        """Metrics of the stream so far, of all processes; keeps counting.

        All processes must call it together. Returns the same as
        :meth:`evaluate`, without the prefix.
        """
        return self.compute_metrics(all_gather_object(self._counts))

    def evaluate(self, size: int) -> Dict[str, float]:
        """Metrics of the whole stream; the next :meth:`process` starts anew.

        Replaces mmengine's gathering, which interleaves and then cuts lists
        of equal length: here the counts of the processes are added, so
        their shares may differ in length. All processes must call it
        together, and each gets the result.

        Args:
            size (int): Number of frames in the data set; more counted frames
                than that (a sampler that pads) are warned about.

        Returns:
            dict[str, float]: With S the main score: ``'r1/fog/S'`` and the
            other scores per round and domain, ``'r1/S'`` (mean over
            domains), ``'fog/S'`` (mean over rounds), ``'S'`` (mean of
            the rounds), and with several rounds ``'fog/forgetting'``
            (what the last visit lost). Empty if nothing had a label.
        """
        metrics = self.compute()
        seen = sum(
            self.seen_frames(counts) for counts in self._gathered.values())
        if seen > size:
            print_log(
                f'{type(self).__name__} counted {seen} frames of a data set '
                f'of {size}: some were scored twice. Use a sampler that does '
                'not pad: mmext.StreamSampler, or DefaultSampler with '
                'round_up=False.',
                logger='current',
                level=logging.WARNING)
        self._finished = True
        if self.prefix:
            metrics = {f'{self.prefix}/{k}': v for k, v in metrics.items()}
        return metrics

    @staticmethod
    def seen_frames(counts: Dict[str, Any]) -> int:
        """All frames behind some counts."""
        return counts['frames'] + counts['unlabelled']

    def report(self) -> Dict[str, Any]:
        """Nested results, ready for JSON (undefined values are None).

        Right after :meth:`evaluate` or :meth:`compute` they are those of all
        processes; otherwise those of this process so far.

        Returns:
            dict: See :func:`~mmext.evaluation.domain_report.stream_report`;
            also ``unlabelled``, frames without a label.
        """
        counts = self._gathered
        if counts is None:
            counts = self._ordered(self._counts)
        return self.report_of(counts)

    def _ordered(self, counts: Dict[Key, dict]) -> Dict[Key, dict]:
        """Sort by round, then by the order of the domains."""
        order: List[str] = list(self.domains or ())
        for _, domain in counts:
            if domain not in order:
                order.append(domain)
        keys = sorted(counts, key=lambda key: (key[0], order.index(key[1])))
        return {key: counts[key] for key in keys}

    def _merge(self, parts: Sequence[Dict[Key, dict]]) -> Dict[Key, dict]:
        """Add the counts of several processes."""
        total: Dict[Key, dict] = {}
        for part in parts:
            for key, counts in part.items():
                into = total.setdefault(key, self.no_counts())
                for field in into:
                    into[field] = into[field] + counts[field]
        return total

    # Saving and resuming -----------------------------------------------------

    def state_dict(self) -> Dict[str, Any]:
        """Counts of this process, to be saved with a checkpoint."""
        return dict(visits=[
            dict(
                round=number,
                domain=domain,
                **{
                    name: value.clone() if isinstance(value, Tensor) else value
                    for name, value in counts.items()
                }) for (number, domain), counts in self._counts.items()
        ])

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Go on counting from a :meth:`state_dict`.

        Args:
            state (dict): What :meth:`state_dict` returned.

        Raises:
            ValueError: If it was counted with other settings.
        """
        restored: Dict[Key, dict] = {}
        for visit in state['visits']:
            counts = self.no_counts()
            for name, empty in counts.items():
                counts[name] = self._restored(visit[name], empty)
            restored[int(visit['round']), str(visit['domain'])] = counts
        self.reset()
        self._counts = restored

    @staticmethod
    def _restored(value: Any, empty: Any) -> Any:
        if not isinstance(empty, Tensor):
            return int(value)
        value = torch.as_tensor(value, dtype=empty.dtype).cpu().clone()
        if value.shape != empty.shape:
            raise ValueError(
                f'expected saved counts of shape {tuple(empty.shape)}, but '
                f'got {tuple(value.shape)}: they belong to a data set with '
                'other classes, or to a metric with other settings. Resume '
                'with the config of the saved run.')
        return value
