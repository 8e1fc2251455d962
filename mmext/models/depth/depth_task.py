# Copyright (c) mmext contributors. All rights reserved.
"""Depth for the methods of test-time adaptation."""
import math
from typing import Any, Iterator, List, Tuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models.segmentors import DepthEstimator
from torch import Tensor

from mmext.models.distillers import sig_loss
from mmext.models.segmentation import DenseTask, View
from mmext.models.uncertainty import mc_dropout_passes
from mmext.registry import TASK_UTILS, register_depth
from mmext.utils.arguments import check_number
from mmext.utils.depth_crops import check_depths
from mmext.utils.random import RandomSource
from mmext.utils.user_error import ConfigError
from .map_geometry import paste_crop

Size = Tuple[int, int]
#: Stored value of a metre in the PNG files of saved predictions.
PNG_SCALE = 256.


@register_depth(TASK_UTILS)
class DepthTask(DenseTask):
    r"""Depth: everything is averaged and compared as its logarithm.

    With the depth d of a network, clamped to ``min_depth`` and
    ``max_depth``, and :math:`l = \ln d` resized to the frame
    bilinearly:

    - views: mean of l, so that factors average;
    - uncertainty: :math:`\mathrm{Var}_m\,l_m` over the dropout passes,
      free of a unit;
    - confidence of the anchor gate: :math:`e^{-|l_T - l_A|}`, the smaller of
      teacher and source over the larger. ``anchor_threshold=0.9`` of the
      method keeps the single view where they differ by less than a tenth; no
      gate by default;
    - loss of the student: mean of :math:`|l_S - l_Y|`.

    Views that show a part of the image (``mmext.KBCrop``) are adapted on
    that part; the prediction is pasted back with ``min_depth`` around it.

    Works with :class:`~mmext.models.depth.BiCrossDepthEstimator` and with
    mmseg's ``DepthEstimator``. Dropout comes before the last convolution of
    its decode head, whether it has one there or not.

    Args:
        loss (str): ``'l1'``, ``'l2'`` (mean of :math:`(l_S - l_Y)^2`) or
            ``'silog'`` (the root of its variance and 0.15 of its squared
            mean). Defaults to ``'l1'``.
        min_depth (float): In metres. Defaults to 1e-3.
        max_depth (float): In metres. Pixels beyond it teach nothing.
            Defaults to 80.

    Raises:
        ConfigError: If a setting is unknown.

    Examples:
        >>> train_cfg = dict(
        ...     type='mmext.TestTimeAdaptLoop',
        ...     method=dict(
        ...         type='mmext.SVDP',
        ...         task=dict(type='mmext.DepthTask'),
        ...         reference_view=2))
    """

    evaluator = dict(type='mmext.DomainDepthMetric')

    def __init__(self,
                 loss: str = 'l1',
                 min_depth: float = 1e-3,
                 max_depth: float = 80.) -> None:
        if loss not in ('l1', 'l2', 'silog'):
            raise ConfigError("DepthTask: loss is 'l1', 'l2' or 'silog', but "
                              f'got {loss!r}.')
        check_depths(min_depth, max_depth, 'DepthTask')
        check_number('max_depth of DepthTask', max_depth)  # not infinite
        self.kind = loss
        self.min_depth, self.max_depth = float(min_depth), float(max_depth)

    def check(self, model: nn.Module) -> None:
        """Refuse a segmentor."""
        if not isinstance(model, DepthEstimator):
            raise ConfigError(
                'mmext.DepthTask adapts depth estimators, such as '
                'mmext.BiCrossDepthEstimator, but the model is a '
                f'{type(model).__name__}. Leave task out of train_cfg.method '
                'for classes.')

    def log_depth(self, depth: Tensor, view: View, size: Size) -> Tensor:
        """Logarithm of depth at the size of the frame.

        Args:
            depth (Tensor): In metres, (N, 1, h, w), at the view's size.
            view (View): Its padding is cut off.
            size (tuple[int, int]): Height and width of the frame.

        Returns:
            Tensor: (N, 1, *size), float32.
        """
        depth = depth.float()[..., :view.size[0], :view.size[1]]
        logs = depth.clamp(self.min_depth, self.max_depth).log()
        if tuple(logs.shape[2:]) == tuple(size):
            return logs
        return F.interpolate(
            logs, size=size, mode='bilinear', align_corners=False)

    @torch.no_grad()
    def view_maps(self, model: nn.Module, views: List[View], x: Tensor,
                  size: Size) -> Tensor:
        """Log-depth (N, 1, *size); see :meth:`DenseTask.view_maps`."""
        metas = [dict(view.meta) for view in views]
        depth = self._whole(model, x, metas) if \
            model.test_cfg.get('mode', 'whole') == 'whole' else \
            model.inference(x, metas)[:, :1]
        logs = self.log_depth(depth, views[0], size)
        return torch.stack([
            one.flip(view.flip_dims) if view.flip_dims else one
            for one, view in zip(logs, views)
        ])

    @torch.no_grad()
    def dropout_maps(self, model: nn.Module, view: View, x: Tensor, size: Size,
                     passes: int, p: float,
                     rng: RandomSource) -> Iterator[Tensor]:
        """Log-depth (1, *size); see :meth:`DenseTask.dropout_maps`."""
        if hasattr(model, 'dropout_passes'):
            maps = model.dropout_passes(x, passes, p, rng)
        else:
            metas = [dict(view.meta)]
            feats = model.extract_feat(x, metas)
            head = model.decode_head
            maps = mc_dropout_passes(
                head, lambda: head.predict(feats, metas, model.test_cfg),
                passes, p, rng)
        for depth in maps:
            yield self.log_depth(depth, view, size)[0]

    def student_map(self, model: nn.Module, view: View, x: Tensor,
                    size: Size) -> Tensor:
        """Log-depth (1, 1, *size); see :meth:`DenseTask.student_map`."""
        depth = self._whole(model, x, [dict(view.meta)])
        return self.log_depth(depth, view, size)

    @staticmethod
    def _whole(model: nn.Module, x: Tensor, metas: List[dict]) -> Tensor:
        """Depth of whole inputs; nobody asks for an uncertainty head."""
        if hasattr(model, 'depth_and_uncertainty'):
            return model.depth_and_uncertainty(x, uncertainty=False)[0]
        return model.encode_decode(x, metas)

    def decide(self, mean: Tensor) -> Tensor:
        """Depth in metres, (H0, W0)."""
        return mean[0].exp()

    def confidence(self, anchor: Tensor,
                   single: Tensor) -> Tuple[Tensor, Tensor]:
        """Ratio of teacher and source, at most 1, and the source's depth."""
        return (anchor[0] - single[0]).abs().neg().exp(), anchor[0].exp()

    def agreement(self, labels: Tensor, others: Tensor) -> float:
        """Share of the pixels that differ by a factor below 1.25."""
        apart = (labels.log() - others.log()).abs()
        return float((apart < math.log(1.25)).float().mean())

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """The chosen loss over all pixels."""
        with torch.autocast(output.device.type, enabled=False):
            if self.kind == 'silog':
                return sig_loss(output.exp(), labels[None, None], eps=0.)
            difference = output - labels.log()[None, None]
            return difference.abs().mean() if self.kind == 'l1' else \
                difference.square().mean()

    def attach(self, sample: Any, labels: Tensor) -> None:
        """Set ``pred_depth_map``, (1, H, W) metres, of the whole image."""
        depth = labels[None].cpu()
        box = sample.metainfo.get('crop_box')
        if box is not None:
            depth = paste_crop(depth, box, sample.metainfo['ori_shape'][:2],
                               self.min_depth)
        sample.set_data(dict(pred_depth_map=PixelData(data=depth)))

    def picture(self, sample: Any) -> np.ndarray:
        """Depth times 256 as 16-bit integers, as KITTI stores it."""
        stored = sample.pred_depth_map.data[0].numpy() * PNG_SCALE
        return np.rint(np.nan_to_num(stored).clip(0, 65535)).astype(np.uint16)
