# Copyright (c) mmext contributors. All rights reserved.
"""Intersection over union, per round, domain and class of a stream."""
from typing import Any, Dict, Optional, Sequence, Tuple

import torch
from torch import Tensor

from mmext.registry import METRICS
from mmext.utils.user_error import ConfigError
from .domain_iou_report import domain_iou_report
from .domain_metric import DomainMetric, Key
from .sample_fields import get_field as _get
from .sample_fields import sample_name as _name


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
class DomainIoUMetric(DomainMetric):
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

    def __init__(self,
                 ignore_index: int = 255,
                 domains: Optional[Sequence[str]] = None,
                 prefix: Optional[str] = None) -> None:
        super().__init__(domains, prefix)
        self.ignore_index = ignore_index

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

    def no_counts(self) -> Dict[str, Any]:
        """No pixel of any class."""
        return dict(
            histogram=torch.zeros(4, len(self.class_names), dtype=torch.int64),
            frames=0,
            unlabelled=0)

    def count(self, sample: Any, counts: Dict[str, Any]) -> None:
        """Count the pixels of one prediction, see :func:`label_histogram`.

        Args:
            sample (dict | SegDataSample): With ``pred_sem_seg`` and, where
                there is a label, ``gt_sem_seg``, both (1, H, W) or (H, W)
                class maps on any device.
            counts (dict): Changed in place.

        Raises:
            ConfigError: If prediction and label differ in size, a label is
                no map of ids, or a class is out of range.
        """
        if _get(sample, 'gt_sem_seg') is None:
            counts['unlabelled'] += 1
            return
        pred, label = self._maps(sample)
        try:
            histogram = label_histogram(pred, label, len(self.class_names),
                                        self.ignore_index)
        except ValueError as error:
            raise ConfigError(f'{_name(sample)}: {error}') from None
        counts['histogram'] += histogram
        counts['frames'] += 1

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

    def report_of(self, counts: Dict[Key, dict]) -> Dict[str, Any]:
        """Nested results of ordered counts.

        Returns:
            dict: ``{'rounds': {'r1': {'fog': {'mIoU', 'mAcc', 'aAcc',
            'IoU': {class: value | None}, 'frames'}}}, 'domains': {'fog':
            mIoU over the rounds}, 'forgetting': {'fog': points}, 'mIoU':
            mean, 'unlabelled': frames without a label}``, in percent.
        """
        return domain_iou_report(counts, self.class_names if counts else ())
