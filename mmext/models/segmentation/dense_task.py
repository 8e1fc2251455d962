# Copyright (c) mmext contributors. All rights reserved.
"""What the adaptation methods ask of a kind of dense prediction."""
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.structures import PixelData
from torch import Tensor

from mmext.models.uncertainty import uncertainty_map
from mmext.registry import TASK_UTILS
from mmext.utils.random import RandomSource
from mmext.utils.user_error import ConfigError
from .frame import View
from .segmentor_ops import (PromptFn, ensemble, mc_probabilities,
                            student_logits, view_probabilities)

Size = Tuple[int, int]


class DenseTask:
    """The contract between an adaptation method and what a network predicts.

    Methods own views, prompts, teacher and optimizer. A task says what is
    averaged over views and dropout passes (*maps*, (N, C, H0, W0)), what the
    prediction of such a mean is, and how a student learns from it.
    """

    #: Bound of the anchor gate that methods use unless told otherwise.
    anchor_threshold: Optional[float] = None
    #: Config of the metric that loops use unless told otherwise.
    evaluator: Dict[str, Any] = {}

    def check(self, model: nn.Module) -> None:
        """Refuse a model that predicts something else.

        Args:
            model (nn.Module): The student.

        Raises:
            ConfigError: With the task that it needs.
        """

    def view_maps(self, model: nn.Module, views: List[View], x: Tensor,
                  size: Size) -> Tensor:
        """Maps of equal-sized views, without gradient, un-mirrored.

        Args:
            model (nn.Module): In eval mode.
            views (list[View]): Views of one size.
            x (Tensor): Their, possibly prompted, inputs, (N, C, h, w).
            size (tuple[int, int]): Height and width of the frame.

        Returns:
            Tensor: (N, C', *size).
        """
        raise NotImplementedError

    def ensemble(self,
                 model: nn.Module,
                 views: List[View],
                 reference: int,
                 size: Size,
                 prompt: Optional[PromptFn] = None,
                 batch: int = 2) -> Tuple[Tensor, Tensor]:
        """Mean map of all views, and that of the reference, (C', *size).

        See :func:`~mmext.models.segmentation.segmentor_ops.ensemble`.
        """
        return ensemble(model, views, reference, size, prompt, batch,
                        self.view_maps)

    def dropout_maps(self, model: nn.Module, view: View, x: Tensor, size: Size,
                     passes: int, p: float,
                     rng: RandomSource) -> Iterator[Tensor]:
        """Maps of passes with dropout before the head's last convolution.

        Args:
            model (nn.Module): In eval mode.
            view (View): The view.
            x (Tensor): Its, possibly prompted, input, (1, C, h, w).
            size (tuple[int, int]): Height and width of the frame.
            passes (int): Number of maps.
            p (float): Probability of dropping a value.
            rng (RandomSource): Source of the masks.

        Yields:
            Tensor: (C', *size).
        """
        raise NotImplementedError

    def uncertainty(self, maps: Iterable[Tensor]) -> Tensor:
        """U = the variance over maps, summed over channels, (H0, W0)."""
        return uncertainty_map(maps)

    def student_map(self, model: nn.Module, view: View, x: Tensor,
                    size: Size) -> Tensor:
        """What the loss takes, with gradient, (1, C', *size)."""
        raise NotImplementedError

    def decide(self, mean: Tensor) -> Tensor:
        """The prediction (H0, W0) of a mean map (C', H0, W0)."""
        raise NotImplementedError

    def confidence(self, anchor: Tensor,
                   single: Tensor) -> Tuple[Tensor, Tensor]:
        """How sure the source is of the reference view, per pixel.

        Args:
            anchor (Tensor): Its map, (C', H0, W0).
            single (Tensor): The teacher's, (C', H0, W0).

        Returns:
            tuple[Tensor, Tensor]: Confidence in [0, 1] and the source's
            prediction, both (H0, W0).
        """
        raise NotImplementedError

    def agreement(self, labels: Tensor, others: Tensor) -> float:
        """Share of the pixels at which two predictions agree."""
        raise NotImplementedError

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Loss of a :meth:`student_map` on a prediction, a scalar."""
        raise NotImplementedError

    def attach(self, sample: Any, labels: Tensor) -> None:
        """Put a prediction where the host's metrics look for it."""
        raise NotImplementedError

    def picture(self, sample: Any) -> np.ndarray:
        """The attached prediction as what a PNG file can hold, (H, W)."""
        raise NotImplementedError


@TASK_UTILS.register_module()
class SegmentationTask(DenseTask):
    """Classes: views are averaged as probabilities.

    The loss is the cross-entropy on hard labels, uncertainty the variance of
    the probabilities, confidence the source's largest one (arXiv:2303.09792).
    """

    anchor_threshold = 0.69
    evaluator = dict(type='mmext.DomainIoUMetric')

    def check(self, model: nn.Module) -> None:
        """Refuse a depth estimator, and a head with one output channel.

        The probabilities of a single channel are 1 everywhere, whatever the
        network says.
        """
        from mmseg.models.segmentors import DepthEstimator
        if isinstance(model, DepthEstimator):
            raise ConfigError(
                f'{type(model).__name__} predicts depth, but the adaptation '
                "method expects classes. Add task=dict(type="
                "'mmext.DepthTask') to train_cfg.method (mmext.SourceOnly, "
                'CoTTA, SVDP and VDP take it; Tent learns from its own '
                'classes and has no such task).')
        head = getattr(model, 'decode_head', None)
        if isinstance(head, nn.ModuleList):
            head = head[-1]
        if getattr(head, 'out_channels', None) == 1:
            raise ConfigError(
                'Adaptation compares the probabilities of classes, but the '
                f'decode head, {type(head).__name__}, has one output channel '
                '(out_channels=1), a yes or no. Train the source model with '
                'a channel for each of the two classes: num_classes=2, '
                'out_channels=2, and a loss without use_sigmoid.')

    def view_maps(self, model: nn.Module, views: List[View], x: Tensor,
                  size: Size) -> Tensor:
        """Probabilities; see :meth:`DenseTask.view_maps`."""
        return view_probabilities(model, views, x, size)

    def dropout_maps(self, model: nn.Module, view: View, x: Tensor, size: Size,
                     passes: int, p: float,
                     rng: RandomSource) -> Iterator[Tensor]:
        """Probabilities; see :meth:`DenseTask.dropout_maps`."""
        return mc_probabilities(model, view, x, size, passes, p, rng)

    def student_map(self, model: nn.Module, view: View, x: Tensor,
                    size: Size) -> Tensor:
        """Logits; see :meth:`DenseTask.student_map`."""
        return student_logits(model, view, x, size)

    def decide(self, mean: Tensor) -> Tensor:
        """Classes, int64."""
        # several times faster than argmax over this axis on a CPU
        return mean.max(0).indices

    def confidence(self, anchor: Tensor,
                   single: Tensor) -> Tuple[Tensor, Tensor]:
        """The source's largest probability, and its class."""
        return anchor.max(0)

    def agreement(self, labels: Tensor, others: Tensor) -> float:
        """Share of the pixels with the same class."""
        return float((labels == others).float().mean())

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Hard-label cross-entropy over all pixels."""
        return F.cross_entropy(output, labels[None])

    def attach(self, sample: Any, labels: Tensor) -> None:
        """Set ``pred_sem_seg``."""
        labels = labels.to(torch.uint8 if labels.max() < 256 else torch.int32)
        sample.pred_sem_seg = PixelData(data=labels[None].cpu())

    def picture(self, sample: Any) -> np.ndarray:
        """The classes."""
        return sample.pred_sem_seg.data[0].numpy()
