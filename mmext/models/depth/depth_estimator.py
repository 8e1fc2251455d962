# Copyright (c) mmext contributors. All rights reserved.
"""Depth, and how sure of it, from RGB or spikes: mmseg's estimator, wider."""
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models.segmentors import DepthEstimator
from mmseg.structures import SegDataSample
from torch import Tensor

from mmext.models.distillers import depth_mask
from mmext.models.uncertainty import mc_dropout_passes
from mmext.registry import MODELS, register_depth
from mmext.utils.arguments import check_number
from mmext.utils.random import RandomSource
from mmext.utils.user_error import ConfigError
from .dpt_depth_head import DPTDepthHead
from .estimator_options import check_cfgs, check_temporal, check_ticks
from .label_watch import LabelWatch
from .map_geometry import paste_crop, resize_prediction

DataSamples = List[SegDataSample]


@register_depth(MODELS)
class BiCrossDepthEstimator(DepthEstimator):
    """A depth estimator with an uncertainty head and a temporal module.

    Follows mmseg's ``DepthEstimator``: ground truth is
    ``data_sample.gt_depth_map`` (metres, 0 = none), the prediction
    ``pred_depth_map``, and here also ``pred_uncertainty_map``. Unlike it:

    - the head predicts metres from the levels of any backbone of mmseg,
      mmpretrain or this package (``in_channels`` and ``reassemble`` of the
      head say what the backbone gives);
    - inputs whose sides are no multiples of ``size_divisor`` are padded
      (repeating the border) and the prediction is cropped;
    - predictions are resized bicubically, as depth, and, if the image was
      cropped (``crop_box`` in the metainfo), pasted into a map of the
      original size; outside, depth is ``min_depth`` and uncertainty 1;
    - ``test_cfg.mode='slide'`` slides (mmseg's falls through to 'whole').

    Losses, for prediction p and uncertainty u resized to the ground truth d
    and p clamped to ``min_depth``, over the pixels with ``min_depth < d <
    max_depth`` inside the crop:

    - ``loss_depth`` (of the head), by default :math:`L_{sig}(p, d)`;
    - ``loss_uncertainty``, by default :math:`mean |u - e(p, d)|`.

    Logged beside them is ``depth_skipped``, the share of images with fewer
    than two such pixels, which teach nothing; a batch of nothing else is
    told once, in a warning.

    Args:
        backbone (dict): Backbone.
        decode_head (dict): Config of :class:`DPTDepthHead`, or of a head
            with its methods ``decode``, ``depth`` and ``supervised_loss``.
        neck (dict, optional): Between backbone and head.
        uncertainty_head (dict, optional): Config of
            :class:`DPTUncertaintyHead`.
        temporal (dict, optional): Config of a module in front of the
            backbone: :class:`SpikeSE`, :class:`SpikeUNet`,
            :class:`SpikeUSENet`.
        size_divisor (int): Pad inputs to multiples of it; 1 for none.
            Defaults to 32.
        train_cfg (dict, optional):

            - **min_depth** (float): In metres. Defaults to 1e-3.
            - **max_depth** (float): In metres. Defaults to 80.
            - **crop** (str): 'garg', 'eigen' or 'nyu', the rectangle of
              :func:`~mmext.utils.depth_crops.crop_box` on the ground
              truth's grid, or None. Defaults to 'garg', as the authors
              train.
            - **clamp_first** (bool): Clamp depth to ``max_depth`` before
              resizing, too, so that saturated pixels (1e8 m) do not ring.
              Defaults to False.
        test_cfg (dict, optional):

            - **mode** (str): 'whole', 'whole_flip' (mean with the mirrored
              image), 'slide' or 'slide_flip' (with ``crop_size`` and
              ``stride``). Defaults to 'whole'.
            - **min_depth**, **max_depth** (float): Limits of the
              prediction. Default to 1e-3 and None.
            - **clamp_first** (bool): As above.
        data_preprocessor (dict, optional): Such as
            ``mmext.SpikeDataPreprocessor``.
        init_cfg (dict or list, optional): Initialisation.

    Raises:
        ConfigError: If the head lacks a method, a setting is unknown or
            impossible, or temporal module and backbone do not fit.

    Example:
        >>> model = dict(
        ...     type='mmext.BiCrossDepthEstimator',
        ...     backbone=dict(type='mmext.DPTHybrid', in_channels=128),
        ...     decode_head=dict(type='mmext.DPTDepthHead'),
        ...     uncertainty_head=dict(type='mmext.DPTUncertaintyHead'))
    """

    train_defaults = dict(
        min_depth=1e-3, max_depth=80., crop='garg', clamp_first=False)
    test_defaults = dict(
        mode='whole', min_depth=1e-3, max_depth=None, clamp_first=False)

    def __init__(self,
                 backbone: dict,
                 decode_head: dict,
                 neck: Optional[dict] = None,
                 uncertainty_head: Optional[dict] = None,
                 temporal: Optional[dict] = None,
                 size_divisor: int = 32,
                 train_cfg: Optional[dict] = None,
                 test_cfg: Optional[dict] = None,
                 data_preprocessor: Optional[dict] = None,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(
            backbone=backbone,
            decode_head=decode_head,
            neck=neck,
            train_cfg=ConfigDict(self.train_defaults, **(train_cfg or {})),
            test_cfg=ConfigDict(self.test_defaults, **(test_cfg or {})),
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg)
        for method in ('decode', 'depth', 'supervised_loss'):
            if not hasattr(self.decode_head, method):
                raise ConfigError(
                    'Expected a decode_head such as mmext.DPTDepthHead, with '
                    'the methods decode, depth and supervised_loss, but '
                    f'{type(self.decode_head).__name__} has no {method}().')
        self.uncertainty_head = MODELS.build(uncertainty_head) \
            if uncertainty_head is not None else None
        self.temporal = MODELS.build(temporal) \
            if temporal is not None else None
        check_temporal(self.temporal, backbone)
        self.size_divisor = check_number(
            'size_divisor', size_divisor, 1, whole=True)
        self.label_watch = LabelWatch()
        # mmseg's sliding window asks for it; both maps go through it.
        self.out_channels = 1 + (self.uncertainty_head is not None)
        check_cfgs(self.train_cfg, self.test_cfg, self.train_defaults,
                   (*self.test_defaults, 'crop_size', 'stride'))

    # Network -----------------------------------------------------------------

    def extract_feat(self,
                     inputs: Tensor,
                     batch_img_metas: Optional[List[dict]] = None) -> Sequence:
        """Levels of the backbone, after the temporal module and the neck.

        Args:
            inputs (Tensor): (B, C, h, w); sides that fit the backbone.
            batch_img_metas (list[dict], optional): Unused by most
                backbones.

        Returns:
            Sequence: What the decode head takes.

        Raises:
            ConfigError: If the temporal module takes other moments.
        """
        if self.temporal is not None:
            check_ticks(self.temporal, inputs)
            inputs = self.temporal(inputs)
        return super().extract_feat(inputs, batch_img_metas)

    def depth_and_uncertainty(
            self,
            inputs: Tensor,
            uncertainty: bool = True) -> Tuple[Tensor, Optional[Tensor]]:
        """Depth and uncertainty at the size of the inputs, not clamped.

        Args:
            inputs (Tensor): What the data preprocessor gives, (B, C, h, w).
            uncertainty (bool): False saves its head, at the finest level,
                when nobody asks for its map. Defaults to True.

        Returns:
            tuple: Depth in metres and uncertainty, each (B, 1, h, w);
            the second is None without an uncertainty head.
        """
        padded = self._pad(inputs)
        path = self.decode_head.decode(self.extract_feat(padded))[0]
        depth = self._unpad(self.decode_head.depth(path), padded, inputs)
        if not uncertainty or self.uncertainty_head is None:
            return depth, None
        return depth, self._unpad(self.uncertainty_head(path), padded, inputs)

    @torch.no_grad()
    def dropout_passes(self, inputs: Tensor, passes: int, p: float,
                       rng: RandomSource) -> Iterator[Tensor]:
        """Depth of passes with dropout before the head's last convolution.

        What precedes it runs once. See
        :func:`~mmext.models.uncertainty.mc_dropout_passes`.

        Args:
            inputs (Tensor): (B, C, h, w).
            passes (int): Number of passes.
            p (float): Probability of dropping a value, in [0, 1).
            rng (RandomSource): Source of the masks.

        Yields:
            Tensor: Depth in metres, (B, 1, h, w), not clamped.
        """
        head, padded = self.decode_head, self._pad(inputs)
        path = head.decode(self.extract_feat(padded))[0]
        if isinstance(head, DPTDepthHead):
            maps = map(
                head.metres,
                mc_dropout_passes(head.output, lambda: head.output(path),
                                  passes, p, rng))
        else:
            maps = mc_dropout_passes(head, lambda: head.depth(path), passes, p,
                                     rng)
        for one in maps:
            yield self._unpad(one, padded, inputs)

    @staticmethod
    def _unpad(one: Tensor, padded: Tensor, inputs: Tensor) -> Tensor:
        """A head's map at the size of the inputs, without the padding."""
        if one.shape[2:] != padded.shape[2:]:
            one = F.interpolate(
                one,
                size=padded.shape[2:],
                mode='bilinear',
                align_corners=False)
        return one[:, :, :inputs.shape[2], :inputs.shape[3]]

    def _pad(self, inputs: Tensor) -> Tensor:
        """Repeat the border at the bottom and right."""
        rows, columns = (-side % self.size_divisor
                         for side in inputs.shape[2:])
        if not rows and not columns:
            return inputs
        return F.pad(inputs, (0, columns, 0, rows), mode='replicate')

    def _forward(self,
                 inputs: Tensor,
                 data_samples: Optional[DataSamples] = None) -> tuple:
        """Mode 'tensor': as :meth:`depth_and_uncertainty`."""
        return self.depth_and_uncertainty(inputs)

    # Training ----------------------------------------------------------------

    def loss(self, inputs: Tensor,
             data_samples: DataSamples) -> Dict[str, Tensor]:
        """Losses of the supervised training.

        Args:
            inputs (Tensor): (B, C, h, w).
            data_samples (list[SegDataSample]): With ``gt_depth_map``, all
                of one size, which need not be that of the inputs.

        Returns:
            dict[str, Tensor]: ``loss_depth``, with an uncertainty head
            ``loss_uncertainty``, and ``depth_skipped``.
        """
        return self.supervised_losses(*self.depth_and_uncertainty(inputs),
                                      data_samples)

    def supervised_losses(self, depth: Tensor, uncertainty: Optional[Tensor],
                          data_samples: DataSamples) -> Dict[str, Tensor]:
        """Losses of given predictions, see the class.

        Args:
            depth (Tensor): (B, 1, h, w) in metres.
            uncertainty (Tensor, optional): (B, 1, h, w).
            data_samples (list[SegDataSample]): With ``gt_depth_map``.

        Returns:
            dict[str, Tensor]: As :meth:`loss`.
        """
        target = self.stack_targets(data_samples)
        cfg, size = self.train_cfg, target.shape[2:]
        if cfg.clamp_first:
            depth = depth.clamp(max=cfg.max_depth)
        depth = resize_prediction(depth, size).clamp_min(cfg.min_depth)
        mask = self.target_mask(target)
        losses = dict(
            loss_depth=self.decode_head.supervised_loss(depth, target, mask))
        if uncertainty is not None:
            losses['loss_uncertainty'] = \
                self.uncertainty_head.supervised_loss(
                    resize_prediction(uncertainty, size), depth, target, mask)
        losses['depth_skipped'] = self.label_watch(target, mask, cfg)
        return losses

    def stack_targets(self, data_samples: DataSamples) -> Tensor:
        """Ground truth of a batch, (B, 1, H, W) in metres.

        Raises:
            ConfigError: If there is none, or the sizes differ.
        """
        absent = [
            one for one in data_samples or [] if 'gt_depth_map' not in one
        ]
        if absent or not data_samples:
            raise ConfigError(
                'Expected gt_depth_map in every data sample, but '
                f'{len(absent) or "all"} of {len(data_samples or [])} have '
                'none. Put mmext.LoadDepth before mmext.PackDepthInputs in '
                'the pipeline.')
        maps = [one.gt_depth_map.data for one in data_samples]
        maps = [one if one.dim() == 3 else one[None] for one in maps]
        if len({tuple(one.shape) for one in maps}) > 1:
            raise ConfigError(
                'Expected ground truth of one size in a batch, but got '
                f'{[tuple(one.shape) for one in maps]}. Crop in the pipeline '
                '(mmext.KBCrop), or use batch_size=1.')
        return torch.stack(maps).float()

    def target_mask(self, target: Tensor) -> Tensor:
        """Pixels that count in training, bool (B, 1, H, W)."""
        cfg = self.train_cfg
        return depth_mask(target, cfg.min_depth, cfg.max_depth, cfg.crop)

    # Prediction --------------------------------------------------------------

    def encode_decode(self, inputs: Tensor,
                      batch_img_metas: List[dict]) -> Tensor:
        """Depth and, as second channel, uncertainty, (B, 1 or 2, h, w)."""
        depth, uncertainty = self.depth_and_uncertainty(inputs)
        if uncertainty is None:
            return depth
        return torch.cat([depth, uncertainty], dim=1)

    def inference(self, inputs: Tensor, batch_img_metas: List[dict]) -> Tensor:
        """Run ``test_cfg.mode``.

        Args:
            inputs (Tensor): (B, C, h, w).
            batch_img_metas (list[dict]): Metainfo of each.

        Returns:
            Tensor: As :meth:`encode_decode`.
        """
        mode = self.test_cfg.mode
        if mode == 'slide':
            return self.slide_inference(inputs, batch_img_metas)
        if mode == 'slide_flip':
            return self.slide_flip_inference(inputs, batch_img_metas)
        maps = self.whole_inference(inputs, batch_img_metas)
        if mode == 'whole_flip':
            mirrored = self.whole_inference(inputs.flip(3), batch_img_metas)
            maps = (maps + mirrored.flip(3)) / 2
        return maps

    def postprocess_result(
            self,
            depth: Tensor,
            data_samples: Optional[DataSamples] = None) -> DataSamples:
        """Put the maps into data samples, at the original size.

        Args:
            depth (Tensor): As :meth:`encode_decode`.
            data_samples (list[SegDataSample], optional): Their metainfo
                says the original size, crop, padding and flip. Without,
                the maps stay at the size of the input.

        Returns:
            list[SegDataSample]: With ``pred_depth_map`` (1, H, W) in metres
            and, with an uncertainty head, ``pred_uncertainty_map``.
        """
        if data_samples is None:
            data_samples = [SegDataSample() for _ in depth]
        for maps, sample in zip(depth.split(1), data_samples):
            maps = self._at_original_size(maps, sample.metainfo)
            sample.set_data(dict(pred_depth_map=PixelData(data=maps[0])))
            if len(maps) > 1:
                sample.set_data(
                    dict(pred_uncertainty_map=PixelData(data=maps[1])))
        return data_samples

    def _at_original_size(self, maps: Tensor, meta: dict) -> List[Tensor]:
        """The maps (1, C, h, w) of one image, each (1, H, W)."""
        cfg = self.test_cfg
        height, width = maps.shape[2:]
        left, right, top, bottom = meta.get('img_padding_size',
                                            meta.get('padding_size', [0] * 4))
        maps = maps[:, :, top:height - bottom, left:width - right]
        if meta.get('flip'):
            axis = 3 if meta.get('flip_direction') == 'horizontal' else 2
            maps = maps.flip(axis)
        if cfg.clamp_first and cfg.max_depth is not None:
            maps = torch.cat(
                [maps[:, :1].clamp(max=cfg.max_depth), maps[:, 1:]], dim=1)
        size = tuple(meta.get('ori_shape', maps.shape[2:]))[:2]
        box = meta.get('crop_box', (0, 0, *size))
        maps = resize_prediction(maps, box[2:])
        depth = maps[0, :1].clamp(cfg.min_depth, cfg.max_depth)
        # Outside the crop nothing was predicted: the largest error.
        return [
            paste_crop(one, box, size, outside)
            for one, outside in zip((depth,
                                     *maps[0, 1:, None]), (cfg.min_depth, 1.))
        ]
