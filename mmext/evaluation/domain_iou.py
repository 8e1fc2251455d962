# Copyright (c) mmext contributors. All rights reserved.
"""Intersection over union, per round, domain and class of a stream."""
import logging
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.dist import all_gather_object
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from mmext.registry import METRICS
from mmext.utils.user_error import ConfigError
from .domain_iou_report import domain_iou_report, flat_metrics, format_table
from .sample_fields import get_field as _get
from .sample_fields import sample_name as _name

#: (round, domain): what one histogram is kept for.
Key = Tuple[int, str]


def label_histogram(pred: Tensor, label: Tensor, num_classes: int,
                    ignore_index: int) -> Tensor:
    r"""Count one prediction against its label.

    With :math:`h_{kl}` the number of pixels of label k that are predicted
    as l, over the pixels whose label is not ``ignore_index``, the rows are
    :math:`h_{cc}`, :math:`\sum_l (h_{cl}+h_{lc})-h_{cc}`, :math:`\sum_k
    h_{kc}` and :math:`\sum_l h_{cl}`.

    Args:
        pred (Tensor): Predicted classes, integers, any shape and device.
        label (Tensor): True classes of the same shape.
        num_classes (int): Number of classes C.
        ignore_index (int): Label of the pixels that are not counted.

    Returns:
        Tensor: (4, C) int64 on the CPU: intersection, union, prediction and
        label areas in pixels.

    Raises:
        ConfigError: If a class lies outside 0 to C-1.
    """
    pred, label = pred.long(), label.long()
    valid = label != ignore_index
    for name, values in (('predicted class', pred), ('label', label)):
        low, high = torch.where(valid, values, 0).aminmax()
        if low < 0 or high >= num_classes:
            outside = valid & ((values < 0) | (values >= num_classes))
            raise ConfigError(
                f'expected every {name} to be in 0..{num_classes - 1}'
                f' (or {ignore_index} where a label is to be ignored), but '
                f'got {values[outside].unique()[:5].tolist()}. Labels must '
                'hold training ids (labelTrainIds), and the model as many '
                'classes as the data set.')
    # One bin for each pair of classes, and a last one for ignored pixels.
    bins = num_classes**2
    pairs = torch.where(valid, label * num_classes + pred, bins)
    joint = torch.bincount(
        pairs.flatten(),
        minlength=bins + 1)[:bins].cpu().reshape(num_classes, num_classes)
    intersect, label_area, pred_area = joint.diag(), joint.sum(1), joint.sum(0)
    return torch.stack(
        [intersect, pred_area + label_area - intersect, pred_area, label_area])


@METRICS.register_module()
class DomainIoUMetric(BaseMetric):
    r"""IoU and accuracy of a segmentation stream, in percent.

    For each (round, domain) it accumulates intersections :math:`I_c`, unions
    :math:`U_c` and label areas :math:`L_c` over all frames, then
    :math:`IoU_c = I_c / U_c`, mIoU = mean of :math:`IoU_c` over the classes
    with :math:`U_c > 0`, mAcc = mean of :math:`I_c / L_c` over the classes
    with :math:`L_c > 0`, aAcc = :math:`\sum I_c / \sum L_c`. Domains are
    averaged within a round, then rounds. Forgetting of a domain is its mIoU
    in the first round minus that in the last.

    Memory does not grow with the stream: one (4, C) histogram is kept per
    (round, domain). Frames are told apart by the metainfo ``domain`` and
    ``round`` that ``mmext.DomainSequence`` sets; without these everything
    counts as domain 'all', round 1. Frames without a label are counted, but
    not scored.

    Args:
        ignore_index (int): Label that is not scored. Defaults to 255.
        domains (Sequence[str], optional): Order of the domains in the
            report; a frame of another domain is an error. Defaults to None,
            the order of their appearance.
        prefix (str, optional): Put before every metric name, with a '/'.
            Defaults to None.

    Example:
        >>> test_evaluator = dict(
        ...     type='mmext.DomainIoUMetric',
        ...     domains=['fog', 'night', 'rain', 'snow'])
    """

    # Not None, for which BaseMetric warns: the names are clear without one.
    default_prefix = ''

    def __init__(self,
                 ignore_index: int = 255,
                 domains: Optional[Sequence[str]] = None,
                 prefix: Optional[str] = None) -> None:
        super().__init__(prefix=prefix)
        self.ignore_index = ignore_index
        self.domains = None if domains is None else tuple(domains)
        self.reset()

    def reset(self) -> None:
        """Forget all counts, also those of the last :meth:`evaluate`."""
        self._counts: Dict[Key, dict] = {}
        self._gathered: Optional[Dict[Key, dict]] = None
        self._finished = False

    @property
    def class_names(self) -> Tuple[str, ...]:
        """tuple[str]: The classes, from the data set's metainfo."""
        classes = (self.dataset_meta or {}).get('classes')
        if not classes:
            raise ValueError(
                'DomainIoUMetric expects dataset_meta with the classes, but '
                f'got {self.dataset_meta!r}. Runners set it; elsewhere set '
                'metric.dataset_meta = dataset.metainfo first.')
        return tuple(classes)

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Count a batch of predictions.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[dict | SegDataSample]): Predictions with
                ``pred_sem_seg`` and, where there is a label, ``gt_sem_seg``,
                both (1, H, W) or (H, W) class maps on any device; optionally
                ``domain``, ``round`` and ``img_path``.

        Raises:
            ConfigError: If prediction and label differ in size, a label is
                no map of ids, a class is out of range, or the domain is not
                among ``domains``.
        """
        if self._finished:
            self.reset()
        self._gathered = None
        num_classes = len(self.class_names)
        for sample in data_samples:
            key = self._key(sample)
            counts = self._counts.setdefault(key, _no_counts(num_classes))
            if _get(sample, 'gt_sem_seg') is None:
                counts['unlabelled'] += 1
                continue
            pred, label = self._maps(sample)
            try:
                histogram = label_histogram(pred, label, num_classes,
                                            self.ignore_index)
            except ValueError as error:
                raise ConfigError(f'{_name(sample)}: {error}') from None
            counts['histogram'] += histogram
            counts['frames'] += 1

    def _key(self, sample: Any) -> Key:
        domain = str(_get(sample, 'domain', 'all'))
        if self.domains is not None and domain not in self.domains:
            raise ConfigError(
                f"{_name(sample)}: expected one of the domains "
                f"{list(self.domains)}, but got '{domain}'. Name all domains "
                'of the stream in DomainIoUMetric(domains=...), or leave it '
                'out.')
        return int(_get(sample, 'round', 1)), domain

    @staticmethod
    def _maps(sample: Any) -> Tuple[Tensor, Tensor]:
        """The class maps of prediction and label, (H, W), on one device."""
        maps = []
        for field in ('pred_sem_seg', 'gt_sem_seg'):
            pixels = _get(sample, field)
            data = None if pixels is None else _get(pixels, 'data')
            if data is None:
                raise ValueError(f"{_name(sample)}: expected '{field}' with "
                                 "'data', but the sample has none.")
            data = torch.as_tensor(data)
            maps.append(data[0] if data.ndim == 3 and len(data) == 1 else data)
        pred, label = maps
        if label.ndim == 3:
            raise ConfigError(
                f'{_name(sample)}: expected a label map (H, W) of training '
                f'ids, but got {tuple(label.shape)}: a colour picture? Use '
                'the labelTrainIds files.')
        if pred.shape != label.shape or pred.ndim != 2:
            raise ConfigError(
                f'{_name(sample)}: expected a prediction and a label of the '
                f'same size (H, W), but got {tuple(pred.shape)} and '
                f'{tuple(label.shape)}. Labels stay at the original size: '
                'load them after the image was resized, and predict at '
                'ori_shape.')
        return pred, label.to(pred.device)

    def compute_metrics(self, results: list) -> Dict[str, float]:
        """Turn gathered counts into a flat dict of metrics.

        Args:
            results (list[dict]): Counts per (round, domain), one dict per
                process.

        Returns:
            dict[str, float]: See :meth:`evaluate`.
        """
        self._gathered = self._ordered(_merge(results))
        report = self.report()
        if not report['rounds']:
            print_log(
                'DomainIoUMetric saw no label, so there is nothing to score.',
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
            dict[str, float]: In percent: ``'r1/fog/mIoU'``, ``'/mAcc'`` and
            ``'/aAcc'`` per round and domain, ``'r1/mIoU'`` (mean over
            domains), ``'fog/mIoU'`` (mean over rounds), ``'mIoU'`` (mean of
            the rounds), and with several rounds ``'fog/forgetting'``
            (first minus last visit). Empty if nothing had a label.
        """
        metrics = self.compute()
        seen = sum(c['frames'] + c['unlabelled']
                   for c in self._gathered.values())
        if seen > size:
            print_log(
                f'DomainIoUMetric counted {seen} frames of a data set of '
                f'{size}: some were scored twice. Use a sampler that does '
                'not pad: mmext.StreamSampler, or DefaultSampler with '
                'round_up=False.',
                logger='current',
                level=logging.WARNING)
        self._finished = True
        if self.prefix:
            metrics = {f'{self.prefix}/{k}': v for k, v in metrics.items()}
        return metrics

    def report(self) -> Dict[str, Any]:
        """Nested results, ready for JSON (undefined values are None).

        Right after :meth:`evaluate` or :meth:`compute` they are those of all
        processes; otherwise those of this process so far.

        Returns:
            dict: ``{'rounds': {'r1': {'fog': {'mIoU', 'mAcc', 'aAcc',
            'IoU': {class: value | None}, 'frames'}}}, 'domains': {'fog':
            mIoU over the rounds}, 'forgetting': {'fog': points}, 'mIoU':
            mean, 'unlabelled': frames without a label}``.
        """
        counts = self._gathered
        if counts is None:
            counts = self._ordered(self._counts)
        names = self.class_names if counts else ()
        return domain_iou_report(counts, names)

    def _ordered(self, counts: Dict[Key, dict]) -> Dict[Key, dict]:
        """Sort by round, then by the order of the domains."""
        order: List[str] = list(self.domains or ())
        for _, domain in counts:
            if domain not in order:
                order.append(domain)
        keys = sorted(counts, key=lambda key: (key[0], order.index(key[1])))
        return {key: counts[key] for key in keys}

    def state_dict(self) -> Dict[str, Any]:
        """Counts of this process, to be saved with a checkpoint."""
        return dict(visits=[
            dict(
                round=number,
                domain=domain,
                histogram=counts['histogram'].clone(),
                frames=counts['frames'],
                unlabelled=counts['unlabelled'])
            for (number, domain), counts in self._counts.items()
        ])

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Go on counting from a :meth:`state_dict`.

        Args:
            state (dict): What :meth:`state_dict` returned.

        Raises:
            ValueError: If it was counted with another number of classes.
        """
        restored: Dict[Key, dict] = {}
        for visit in state['visits']:
            histogram = torch.as_tensor(visit['histogram']).long().cpu()
            if self.dataset_meta and tuple(
                    histogram.shape) != (4, len(self.class_names)):
                raise ValueError(
                    'expected saved counts of shape '
                    f'(4, {len(self.class_names)}), but got '
                    f'{tuple(histogram.shape)}: they belong to a data set '
                    'with other classes. Resume with the config of the saved '
                    'run.')
            restored[int(visit['round']),
                     str(visit['domain'])] = dict(
                         histogram=histogram.clone(),
                         frames=int(visit['frames']),
                         unlabelled=int(visit['unlabelled']))
        self.reset()
        self._counts = restored


def _no_counts(num_classes: int) -> dict:
    return dict(
        histogram=torch.zeros(4, num_classes, dtype=torch.int64),
        frames=0,
        unlabelled=0)


def _merge(parts: Sequence[Dict[Key, dict]]) -> Dict[Key, dict]:
    """Add the counts of several processes."""
    total: Dict[Key, dict] = {}
    for part in parts:
        for key, counts in part.items():
            into = total.setdefault(key,
                                    _no_counts(counts['histogram'].shape[1]))
            for field in into:
                into[field] = into[field] + counts[field]
    return total
