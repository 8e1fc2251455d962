# Copyright (c) mmext contributors. All rights reserved.
"""From counted pixels to intersections over unions, per visit."""
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from torch import Tensor

from .domain_report import mean, stream_report


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
    report = stream_report({
        key:
        dict(
            scores(counted['histogram'], class_names),
            frames=counted['frames'])
        for key, counted in counts.items() if counted['frames']
    })
    unlabelled = sum(counted['unlabelled'] for counted in counts.values())
    return dict(report, unlabelled=unlabelled)
