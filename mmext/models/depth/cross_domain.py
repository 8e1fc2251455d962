# Copyright (c) mmext contributors. All rights reserved.
"""Stage 3 of BiCross: from labelled source to unlabelled target spikes."""
from contextlib import nullcontext
from typing import Any, Dict, Optional, Sequence

import torch
from torch import Tensor, nn

from mmext.models.distillers import (DomainAdversarialLoss, FeatureTap,
                                     depth_mask, pseudo_label_mask)
from mmext.models.distillers.selection import check_threshold
from mmext.registry import MODELS, register_depth
from mmext.utils.arguments import as_tuple, check_number
from mmext.utils.user_error import ConfigError
from .stage_wrapper import StageWrapper, channels_of, take_options

_LOSSES = ('sup', 'scp', 'sca')


@register_depth(MODELS)
class CrossDomainAdapter(StageWrapper):
    r"""Mean teacher by uncertainty (UGMT) and feature alignment (GLFA).

    .. math:: L_3 = L_{sup}(source) + w_p L_{sig}(D_S, D_T; M_1)
              + w_a L_{SCA}(F(source), F(target))

    - ``'sup'``: the supervised losses on labelled source spikes.
    - ``'scp'``: the mean teacher's depth of target spikes, as a label of
      the student's at the network's resolution, where it is in range, in
      the crop and the teacher's uncertainty is below the threshold
      (:func:`~mmext.models.distillers.pseudo_label_mask`).
    - ``'sca'``: a domain classifier behind a reversal of gradients
      (:class:`~mmext.models.distillers.DomainAdversarialLoss`).

    The published code runs ``('scp', )`` or ``('sup', 'sca')``; the default
    is all three. The first ``warmup_iters`` optimiser steps are supervised,
    with ``warmup_weight``, and do not touch the teacher: without them
    student and teacher would be equal, and the first loss zero.

    Needs ``mmext.MeanTeacherHook`` (for ``'scp'``) and
    ``mmext.DistillHook`` in ``custom_hooks``. Logged beside the losses are
    ``scp_threshold``, ``scp_keep_ratio`` (of the candidates),
    ``scp_skipped`` (1 if too few were kept), ``sca_accuracy`` and, of the
    source's labels, ``depth_skipped``.

    Batches have ``inputs=dict(source=(B, T, h, w), target=(B', T, h, w))``
    and ``data_samples=dict(source=[...], target=[...])``; those of the
    target need no ground truth.

    Args:
        model (dict): Config of a ``BiCrossDepthEstimator`` for spikes.
        losses (Sequence[str]): Of 'sup', 'scp', 'sca'. Defaults to all.
        scp (dict, optional): Pseudo-labels:

            - **weight** (float): w_p. Defaults to 1.
            - **threshold** (dict, str or float): Defaults to
              ``dict(type='quantile', q=0.5, per_image=False)``.
            - **loss** (dict): Called with prediction, label and mask.
              Defaults to ``dict(type='mmext.SigLoss')``.
        sca (dict, optional): Alignment:

            - **weight** (float): w_a. Defaults to 0.1.
            - **path** (str): Tap. Defaults to 'decode_head.layer_4'.
            - **in_channels** (int): Of the tap, if it is not DPT's.
            - **beta**, **share_head**, **joint_batch**, **hidden**: See
              :class:`~mmext.models.distillers.DomainAdversarialLoss`.
        warmup_iters (int): Supervised optimiser steps at the start.
            Defaults to 3, as published.
        warmup_weight (float): Of their losses. Defaults to 0.1.
        warmup_off_by_one (bool): Count as the published code, which makes
            one step fewer than configured (its 4 means 3).
            Defaults to False.
        strong_aug (dict, optional): Another view of the target for the
            student, such as ``dict(type='mmext.SpikeStrongView')``.
            Defaults to None: it sees what the teacher sees.
        data_preprocessor (dict, optional): Defaults to the model's.
        init_cfg (dict or list, optional): Initialisation.

    Raises:
        ConfigError: If an option is unknown or does not fit.

    Example:
        >>> model = dict(
        ...     type='mmext.CrossDomainAdapter',
        ...     model=dict(type='mmext.BiCrossDepthEstimator', ...),
        ...     scp=dict(threshold=dict(type='quantile', q=0.5)))
        >>> custom_hooks = [
        ...     dict(type='mmext.MeanTeacherHook', decay=0.999,
        ...          evaluate='student', save='student'),
        ...     dict(type='mmext.DistillHook')]
        >>> load_from = 'work_dirs/bicross/stage2/epoch_10.pth'
    """

    scp_defaults = dict(
        weight=1.,
        threshold=dict(type='quantile', q=0.5, per_image=False),
        loss=dict(type='mmext.SigLoss'))
    sca_defaults = dict(
        weight=0.1,
        path='decode_head.layer_4',
        in_channels=None,
        beta=0.01,
        share_head=True,
        joint_batch=True,
        hidden=256)
    #: The checkpoint to start from is one for spikes already.
    new_stem = False

    def __init__(self,
                 model: dict,
                 losses: Sequence[str] = _LOSSES,
                 scp: Optional[dict] = None,
                 sca: Optional[dict] = None,
                 warmup_iters: int = 3,
                 warmup_weight: float = 0.1,
                 warmup_off_by_one: bool = False,
                 strong_aug: Optional[dict] = None,
                 data_preprocessor: Optional[dict] = None,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__('model', model, data_preprocessor, 'target', init_cfg)
        losses = as_tuple(losses)
        if not losses or not set(losses) <= set(_LOSSES):
            raise ConfigError(f'Expected losses to be some of {_LOSSES}, but '
                              f'got {losses}.')
        self.losses = losses
        check_number('warmup_iters', warmup_iters, 0, whole=True)
        self.warmup_iters = max(0, warmup_iters - bool(warmup_off_by_one))
        self.warmup_weight = check_number('warmup_weight', warmup_weight, 0)
        #: Optimiser steps that were made; DistillHook keeps it.
        self.step: Optional[int] = None
        self.scp = take_options('scp', scp, self.scp_defaults)
        self.sca = take_options('sca', sca, self.sca_defaults)
        check_threshold(self.scp['threshold'])
        if 'scp' in losses:
            if getattr(self.model, 'uncertainty_head', True) is None:
                raise ConfigError(
                    "The loss 'scp' selects by uncertainty: give the model "
                    'an uncertainty_head.')
            self.scp_loss = MODELS.build(self.scp['loss'])
        if 'sca' in losses:
            options = dict(self.sca)
            path = options.pop('path')
            width = options.pop('in_channels') or channels_of(
                self.model, path, 'sca.in_channels')
            self.domain_loss = DomainAdversarialLoss(
                width, loss_weight=options.pop('weight'), **options)
        self.strong_aug = MODELS.build(strong_aug) if strong_aug else None

    def attach_teacher(self, teacher: nn.Module) -> None:
        """Use the mean teacher of this wrapper.

        Args:
            teacher (nn.Module): A copy of this wrapper, or its estimator.
        """
        super().attach_teacher(getattr(teacher, 'model', teacher))

    @property
    def warming_up(self) -> bool:
        """Whether the next step is one of the warm-up.

        Raises:
            ConfigError: If nobody counts the steps.
        """
        if self.step is None and self.warmup_iters:
            raise ConfigError(
                'CrossDomainAdapter does not know which iteration it is: add '
                "dict(type='mmext.DistillHook') to custom_hooks, or set "
                'warmup_iters=0.')
        return self.step is not None and self.step < self.warmup_iters

    def loss(self, inputs: Dict[str, Tensor],
             data_samples: Any) -> Dict[str, Tensor]:
        """Losses of stage 3.

        Args:
            inputs (dict[str, Tensor]): ``source`` and ``target`` spikes,
                (B, T, h, w) each; their batch sizes may differ.
            data_samples (dict[str, list] or list): Data samples of both,
                or of the source.

        Returns:
            dict[str, Tensor]: Losses and statistics, see the class.

        Raises:
            ConfigError: If the inputs are not of two domains.
        """
        if not isinstance(inputs, dict) or \
                not {'source', 'target'} <= set(inputs):
            raise ConfigError(
                'Expected inputs=dict(source=..., target=...), as '
                'mmext.SourceTargetDataset gives, but got '
                f'{type(inputs).__name__} '
                f'{sorted(inputs) if isinstance(inputs, dict) else ""}.')
        if isinstance(data_samples, dict):
            data_samples = data_samples['source']
        if self.warming_up:
            losses = self._supervised(inputs['source'], data_samples)
            return {
                key: self.warmup_weight * value if 'loss' in key else value
                for key, value in losses.items()
            }
        losses: Dict[str, Tensor] = {}
        source = self._tap(stop='sup' not in self.losses)
        with source:
            if 'sup' in self.losses:
                losses = self._supervised(inputs['source'], data_samples)
            elif 'sca' in self.losses:
                self.model.depth_and_uncertainty(inputs['source'])
        target = self._tap(stop='scp' not in self.losses)
        with target:
            if 'scp' in self.losses:
                losses.update(self._self_training(inputs['target']))
            elif 'sca' in self.losses:
                self.model.depth_and_uncertainty(self._hard(inputs['target']))
        if 'sca' in self.losses:
            path = self.sca['path']
            losses.update(self.domain_loss(source[path], target[path]))
        return losses

    def _tap(self, stop: bool) -> Any:
        if 'sca' not in self.losses:
            return nullcontext()
        return FeatureTap(self.model, [self.sca['path']], stop=stop)

    def _hard(self, spikes: Tensor) -> Tensor:
        return spikes if self.strong_aug is None else self.strong_aug(spikes)

    def _supervised(self, spikes: Tensor,
                    data_samples: list) -> Dict[str, Tensor]:
        return self.model.supervised_losses(
            *self.model.depth_and_uncertainty(spikes), data_samples)

    def _self_training(self, spikes: Tensor) -> Dict[str, Tensor]:
        """The teacher's depth as the student's label."""
        with torch.no_grad():
            label, uncertainty = self.teacher.depth_and_uncertainty(spikes)
            candidates = self.candidates(label)
            mask, tau = pseudo_label_mask(uncertainty, candidates,
                                          self.scp['threshold'])
        depth = self.model.depth_and_uncertainty(
            self._hard(spikes), uncertainty=False)[0]
        with torch.autocast(depth.device.type, enabled=False):
            depth = depth.clamp_min(self.model.train_cfg['min_depth'])
            loss = self.scp['weight'] * self.scp_loss(depth, label, mask)
        kept = mask.sum()
        return dict(
            loss_scp=loss,
            scp_threshold=tau,
            scp_keep_ratio=kept / candidates.sum().clamp_min(1),
            scp_skipped=(kept < 2).float())

    def candidates(self, depth: Tensor) -> Tensor:
        """Pixels of a pseudo-label that are in range and in the crop.

        Args:
            depth (Tensor): Of the teacher, (B, 1, h, w).

        Returns:
            Tensor: Bool, of the same shape.
        """
        cfg = self.model.train_cfg
        # On the network's grid, of whatever size.
        return depth_mask(
            depth,
            cfg['min_depth'],
            cfg['max_depth'],
            cfg['crop'],
            scale_nyu=True)
