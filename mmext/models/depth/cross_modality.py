# Copyright (c) mmext contributors. All rights reserved.
"""Stage 2 of BiCross: from an RGB teacher to a spike student."""
from copy import deepcopy
from typing import Any, Dict, List, Mapping, Optional, Tuple

import torch
from torch import Tensor, nn

from mmext.models.distillers import (ContrastiveLoss, FeatureTap,
                                     MaskedFeatureLoss, ProjectionHead,
                                     pixel_filter)
from mmext.models.distillers.hand_over import STEM_STARTS
from mmext.models.distillers.selection import check_pixel_filter
from mmext.registry import MODELS, register_depth
from mmext.utils.arguments import check_number
from mmext.utils.user_error import ConfigError
from .stage_wrapper import StageWrapper, channels_of, take_options


@register_depth(MODELS)
class CrossModalityDistiller(StageWrapper):
    r"""Coarse and fine distillation (CFKD) of paired RGB and spikes.

    .. math:: L_2 = L_{sig} + L_{unc} + w_c L_{con}(h_T(\bar F_T),
              h_S(\bar F_S)) + w_f \|P_T - P_S\|^2

    The student learns depth from spikes as any estimator does. Coarse: the
    embeddings of both networks' last reassembled map shall match within the
    batch. Fine: the decoder's coarsest path shall be the teacher's, at
    every pixel or at those of :func:`~mmext.models.distillers.pixel_filter`.

    The teacher is frozen; ``mmext.DistillHook`` loads it from
    ``teacher_ckpt``. It is no part of this model's parameters and
    checkpoints, which are the student's under plain names, with
    ``projection_rgb``, ``projection_spike`` and ``connector`` beside them.

    Batches have ``inputs=dict(rgb=(B, 3, h, w), spike=(B, T, h, w))`` and
    data samples with the ground truth of both.

    Args:
        student (dict): Config of a ``BiCrossDepthEstimator`` for spikes.
        teacher (dict, optional): Config of the teacher. Defaults to None:
            the student's with 3 input channels and no temporal module.
        teacher_ckpt (str, optional): Checkpoint of the teacher, written by
            stage 1. If nothing else is loaded, the student starts from it
            as well, all but its first convolution; where ``teacher`` is
            another network than the student, from its own weights.
        ckd (dict, optional): Coarse distillation:

            - **weight** (float): w_c; 0 for none. Defaults to 0.01.
            - **path**, **teacher_path** (str): Taps. Default to
              'decode_head.layer_4'.
            - **in_channels**, **teacher_channels** (int): Of the taps, if
              they are not DPT's.
            - **hidden**, **out_channels** (int): Of the two heads. Default
              to 512 and 256.
            - **normalize**, **temperature**, **symmetric**: See
              :class:`~mmext.models.distillers.ContrastiveLoss`.
        fkd (dict, optional): Fine distillation:

            - **weight** (float): w_f; 0 for none. Defaults to 0.01.
            - **path**, **teacher_path** (str): Taps. Default to
              'decode_head.path_4'.
            - **pixel_filter** (dict): None, or ``dict(rgb_q=0.5,
              spike_q=0.5, stat='quantile')``. Defaults to None.
            - **connector** (dict): ``dict(in_channels=, out_channels=)``,
              a 1x1 convolution of the student's features to the teacher's
              channels. Defaults to None.
        stem (str): What the student's first convolution starts from, when
            it starts from an RGB network: 'random', as published, or
            'inflate', the mean of the RGB filters repeated over all
            moments, so that it reads the firing rate from the first step
            on. Defaults to 'random'.
        decay (str, optional): 'linear' lowers both weights to 0 over the
            training. Defaults to None.
        data_preprocessor (dict, optional): Defaults to the student's.
        init_cfg (dict or list, optional): Initialisation.

    Raises:
        ConfigError: If an option is unknown or does not fit.

    Example:
        >>> model = dict(
        ...     type='mmext.CrossModalityDistiller',
        ...     student=dict(type='mmext.BiCrossDepthEstimator', ...),
        ...     teacher_ckpt='work_dirs/bicross/stage1/epoch_30.pth',
        ...     fkd=dict(pixel_filter=dict(rgb_q=0.5, spike_q=0.5)))
        >>> custom_hooks = [dict(type='mmext.DistillHook')]
    """

    ckd_defaults = dict(
        weight=0.01,
        path='decode_head.layer_4',
        teacher_path=None,
        in_channels=None,
        teacher_channels=None,
        hidden=512,
        out_channels=256,
        normalize=False,
        temperature=1.,
        symmetric=False)
    fkd_defaults = dict(
        weight=0.01,
        path='decode_head.path_4',
        teacher_path=None,
        pixel_filter=None,
        connector=None)
    #: A checkpoint of an RGB network is what this stage begins with.
    new_stem = True

    def __init__(self,
                 student: dict,
                 teacher: Optional[dict] = None,
                 teacher_ckpt: Optional[str] = None,
                 ckd: Optional[dict] = None,
                 fkd: Optional[dict] = None,
                 stem: str = 'random',
                 decay: Optional[str] = None,
                 data_preprocessor: Optional[dict] = None,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__('student', student, data_preprocessor, 'spike',
                         init_cfg)
        if decay not in (None, 'linear'):
            raise ConfigError("Expected decay to be None or 'linear', but "
                              f'got {decay!r}.')
        if stem not in STEM_STARTS:
            raise ConfigError(f'Expected stem to be one of '
                              f'{sorted(STEM_STARTS)}, but got {stem!r}.')
        self.stem = stem
        #: Whether the teacher need not be like the student.
        self.own_teacher = teacher is not None
        self.teacher_cfg = self._teacher_config(student, teacher)
        self.teacher_ckpt, self.decay = teacher_ckpt, decay
        #: Share of the training that is over; DistillHook keeps it.
        self.progress = 0.
        self.ckd = take_options('ckd', ckd, self.ckd_defaults)
        self.fkd = take_options('fkd', fkd, self.fkd_defaults)
        for options in (self.ckd, self.fkd):
            options['teacher_path'] = \
                options['teacher_path'] or options['path']
        if self.ckd['weight']:
            self._build_coarse()
        if self.fkd['weight']:
            self._build_fine()

    @staticmethod
    def _teacher_config(student: dict, teacher: Optional[dict]) -> dict:
        if teacher is None:
            teacher = deepcopy(student)
            teacher['backbone']['in_channels'] = 3
            teacher['temporal'] = None
        teacher = deepcopy(teacher)
        teacher['data_preprocessor'] = None
        teacher['init_cfg'] = None
        return teacher

    def _build_coarse(self) -> None:
        ckd = self.ckd
        width = ckd['in_channels'] or channels_of(self.student, ckd['path'],
                                                  'ckd.in_channels')
        size = dict(hidden=ckd['hidden'], out_channels=ckd['out_channels'])
        self.projection_rgb = ProjectionHead(ckd['teacher_channels'] or width,
                                             **size)
        self.projection_spike = ProjectionHead(width, **size)
        self.coarse_loss = ContrastiveLoss(1., ckd['normalize'],
                                           ckd['temperature'],
                                           ckd['symmetric'])

    def _build_fine(self) -> None:
        fkd = self.fkd
        fkd['pixel_filter'] = check_pixel_filter(fkd['pixel_filter'])
        if fkd['pixel_filter'] and \
                getattr(self.student, 'uncertainty_head', True) is None:
            raise ConfigError('fkd.pixel_filter needs the uncertainty of '
                              'both networks: give the student an '
                              'uncertainty_head.')
        self.connector = self._connector(fkd['connector'])
        self.fine_loss = MaskedFeatureLoss()

    @staticmethod
    def _connector(cfg: Optional[Mapping]) -> Optional[nn.Module]:
        if not cfg:
            return None
        if not isinstance(cfg, Mapping) or \
                not {'in_channels', 'out_channels'} <= set(cfg):
            raise ConfigError(
                'Expected fkd.connector to be dict(in_channels=, '
                "out_channels=) of the student's and the teacher's features, "
                f'or None, but got {cfg!r}.')
        for key in ('in_channels', 'out_channels'):
            check_number(f'fkd.connector.{key}', cfg[key], 1, whole=True)
        return nn.Conv2d(kernel_size=1, **cfg)

    def build_teacher(self) -> nn.Module:
        """A teacher with random weights, for ``DistillHook`` to load."""
        return MODELS.build(deepcopy(self.teacher_cfg))

    def _weight(self, options: dict) -> float:
        return options['weight'] * (1 - self.progress if self.decay else 1)

    def loss(self, inputs: Dict[str, Tensor],
             data_samples: list) -> Dict[str, Tensor]:
        """Losses of stage 2.

        Args:
            inputs (dict[str, Tensor]): ``rgb`` (B, 3, h, w) and ``spike``
                (B, T, h, w) of the same views.
            data_samples (list[SegDataSample]): With ``gt_depth_map``.

        Returns:
            dict[str, Tensor]: ``loss_depth``, ``loss_uncertainty``,
            ``loss_ckd``, ``loss_fkd``, ``depth_skipped`` and, with a pixel
            filter, the share ``fkd_ratio`` of pixels that took part.

        Raises:
            ConfigError: If the inputs are no pairs.
        """
        if not isinstance(inputs, dict) or not {'rgb', 'spike'} <= set(inputs):
            raise ConfigError(
                'Expected inputs=dict(rgb=..., spike=...) of paired views, '
                f'but got {sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__}. '  # noqa: E501
                'Use a dataset and a pipeline that load both.')
        used = [one for one in (self.ckd, self.fkd) if self._weight(one)]
        with FeatureTap(self.student, [one['path'] for one in used]) as tap:
            depth, uncertainty = self.student.depth_and_uncertainty(
                inputs['spike'])
        losses = self.student.supervised_losses(depth, uncertainty,
                                                data_samples)
        if used:
            with torch.no_grad():
                taught, certainty = self._teach(inputs['rgb'], used)
        for options in used:
            theirs = _feature(taught, options['teacher_path'])
            mine = _feature(tap, options['path'])
            weight = self._weight(options)
            if options is self.ckd:
                losses['loss_ckd'] = weight * self.coarse_loss(
                    self.projection_rgb(theirs), self.projection_spike(mine))
            else:
                loss, ratio = self._fine(theirs, mine, certainty, uncertainty)
                losses['loss_fkd'] = weight * loss
                losses.update(ratio)
        return losses

    def _teach(self, rgb: Tensor,
               used: List[dict]) -> Tuple[FeatureTap, Optional[Tensor]]:
        """Features of the teacher and, for the filter, its uncertainty."""
        paths = [one['teacher_path'] for one in used]
        filtered = self.fkd in used and self.fkd['pixel_filter']
        certainty: Any = None
        # without the filter nobody needs the finer levels and the heads
        with FeatureTap(self.teacher, paths, stop=not filtered) as tap:
            certainty = self.teacher.depth_and_uncertainty(rgb)[1]
        return tap, certainty

    def _fine(self, theirs: Tensor, mine: Tensor, certainty: Optional[Tensor],
              uncertainty: Optional[Tensor]) -> Tuple[Tensor, dict]:
        if self.connector is not None:
            mine = self.connector(mine)
        options = self.fkd['pixel_filter']
        if not options:
            return self.fine_loss(theirs, mine), {}
        mask = pixel_filter(certainty, uncertainty, theirs.shape[2:],
                            **options)
        return self.fine_loss(theirs, mine, mask), \
            dict(fkd_ratio=mask.float().mean())


def _feature(tap: FeatureTap, path: str) -> Tensor:
    found = tap[path]
    if not isinstance(found, Tensor):
        raise ConfigError(
            f'Features are one tensor, but the module {path!r} returned a '
            f'{type(found).__name__}. Give the path of a module inside it '
            'that returns one.')
    return found
