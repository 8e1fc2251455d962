# Copyright (c) mmext contributors. All rights reserved.
"""A certified average of l-infinity networks."""
import logging
import math
from copy import deepcopy
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import torch
from mmengine.logging import print_log
from mmpretrain.models.classifiers.base import BaseClassifier
from mmpretrain.registry import MODELS as HOST_MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmext.registry import MODELS
from mmext.utils.config_io import load_config
from mmext.utils.config_types import type_name
from mmext.utils.io import safe_load
from mmext.utils.user_error import ConfigError
from ..lipschitz.certifier import Residual
from ..lipschitz.ensemble import (FittedWeights, average, fit_weights,
                                  majority, simplex_weights, unanimous)
from ..lipschitz.ensemble_certifier import EnsembleCertifier
from ..lipschitz.p_norm import saved_p, set_p
from .certification import CertifiedPredictions, normalisation, true_labels
from .certify_options import CertifyOptions
from .lip_heads import hard_labels
from .lipschitz_classifier import LipschitzClassifier

NORMALISING = ('mean', 'std', 'to_rgb', 'pad_size_divisor', 'pad_value')
LOSS = ('head.loss_module.', )


@MODELS.register_module()
class CertifiedEnsemble(CertifiedPredictions, BaseClassifier):
    r"""The weighted average of trained networks, with its certificate.

    .. math:: F = \sum_k a_k f^{(k)}, \quad a_k \ge 0, \ \sum_k a_k = 1

    The average of the members' residuals bounds the margins of F (theorems
    T1 to T3 of docs/en/advanced_guides/certified_ensembles.md). Members may
    have other architectures, heads, weights and normalisations; each
    normalises the images itself, so that the ensemble's inputs are images in
    0-255. Classes and image size are the same for all.

    Predictions have the fields of :class:`LipschitzClassifier` for F, and

    ======================= =============================================
    ``member_correct``      for each member, whether it is right
    ``member_certified``    for each member and radius
    ``certified_unanimous`` for each radius, all members certified
    ``certified_majority``  for each radius, the hard vote certified
    ======================= =============================================

    Args:
        members (list[dict]): Each with ``config`` (path or name of a config)
            or ``model`` (a dict), ``checkpoint`` (path; may be left out if
            weights come with a checkpoint of the whole ensemble, or with
            ``train='joint'``) and ``weight`` (defaults to 1).
        train (str, optional): ``'joint'`` trains all members together on the
            averaged residuals with the loss of the first member's head.
            Defaults to None: members were trained on their own, and training
            the ensemble is an error.
        data_preprocessor (dict, optional): Of members that have none of
            their own. Defaults to None.
        test_cfg (dict, optional): As in :class:`LipschitzClassifier`.
        init_cfg (dict, optional): Defaults to None.

    Raises:
        ConfigError: If members do not fit together, or a checkpoint does not
            fit its member or was saved before its schedule ended.

    Examples:
        >>> model = dict(
        ...     type='mmext.CertifiedEnsemble',
        ...     members=[
        ...         dict(config='configs/lipschitz/a.py', checkpoint='a.pth'),
        ...         dict(config='configs/lipschitz/b.py', checkpoint='b.pth',
        ...              weight=2.)],
        ...     test_cfg=dict(certify=dict(eps=[8 / 255])))
    """

    def __init__(self,
                 members: Sequence[dict],
                 train: Optional[str] = None,
                 data_preprocessor: Optional[dict] = None,
                 test_cfg: Optional[dict] = None,
                 init_cfg: Optional[dict] = None) -> None:
        if train not in (None, 'joint'):
            raise ConfigError("train is None (members were trained on their "
                              f"own) or 'joint', but got {train!r}.")
        if not members:
            raise ConfigError('An ensemble needs at least one member, but '
                              'members is empty.')
        shared = dict(data_preprocessor or {})
        raw = {k: v for k, v in shared.items() if k not in NORMALISING}
        raw.setdefault('type', 'ClsDataPreprocessor')
        super().__init__(init_cfg, HOST_MODELS.build(raw))
        self.joint = train == 'joint'
        self.certify = CertifyOptions.from_cfg(test_cfg)
        built = [_member(dict(m), shared, i) for i, m in enumerate(members)]
        self.members = nn.ModuleList(model for model, _ in built)
        weights = simplex_weights([w for _, w in built], len(built))
        # A buffer, so that fitted weights are saved.
        self.register_buffer('weights', weights)
        _check_members(self.members)
        for member in self.members[1:]:
            # One loss is trained on the average, with one scalar. Below every
            # member, what collects parameters would find it several times.
            member.head.loss_module = nn.Identity()
        for index, options in enumerate(members):
            if options.get('checkpoint') is not None:
                self._load(index, options['checkpoint'])
        if not self.joint:
            set_p(self, math.inf)

    @property
    def num_classes(self) -> int:
        """int: Classes of all members."""
        return self.members[0].head.num_classes

    def _load(self, index: int, path: str) -> None:
        member = self.members[index]
        checkpoint = safe_load(path)
        from mmext.engine.hooks.checkpoint_match_hook import (check_source,
                                                              given_weights)
        weights = given_weights(checkpoint, path)
        # The first member's loss is trained and no other, nor a learnable
        # scalar, so that a member need not be given with the loss that it
        # was trained with.
        needless = () if self.joint and index == 0 else LOSS
        weights = {
            key: value
            for key, value in weights.items() if not key.startswith(needless)
        }
        check_source(member.state_dict(), weights,
                     lambda key: key.startswith(needless), (), path)
        member.load_state_dict(weights, strict=self.joint)
        p = saved_p(checkpoint)
        forced = self.certify is not None and self.certify.force_inf
        if p is not None and p != math.inf and not self.joint:
            if not forced:
                raise ConfigError(
                    f'The checkpoint {path} was saved at p = {p:g}, in the '
                    'middle of its schedule, and an average of p = inf '
                    'networks is asked for. Use the last checkpoint of the '
                    'training, or set test_cfg.certify.force_inf=True to '
                    'evaluate it at p = inf all the same.')
            print_log(
                f'force_inf: {path} was saved at p = {p:g} and is evaluated '
                'at p = inf; its accuracy may be near chance.',
                logger='current',
                level=logging.WARNING)
        meta = checkpoint.get('meta') or {}
        classes = (meta.get('dataset_meta') or {}).get('classes')
        if classes is not None:
            self._same_classes(path, tuple(classes))

    def _same_classes(self, path: str, classes: Tuple[str, ...]) -> None:
        known = getattr(self, '_classes', None)
        if known is not None and known[1] != classes:
            raise ConfigError(
                f'Members of an ensemble predict the same classes in the same '
                f'order, but {known[0]} was trained on {known[1]} and {path} '
                f'on {classes}.')
        self._classes = (path, classes)

    def init_weights(self) -> None:
        """Initialise members that are to be trained, and no others."""
        if self.joint:
            super().init_weights()

    def member_inputs(self, index: int, inputs: Tensor) -> Tensor:
        """Images as member ``index`` normalises them.

        Args:
            index (int): Member.
            inputs (Tensor): Images in 0-255, (B, C, H, W).

        Returns:
            Tensor: Its own preprocessor's result.
        """
        preprocessor = self.members[index].data_preprocessor
        return preprocessor(dict(inputs=inputs), False)['inputs']

    def member_scores(self, inputs: Tensor) -> Tensor:
        """Logits of each member.

        Args:
            inputs (Tensor): Images in 0-255, (B, C, H, W).

        Returns:
            Tensor: Shape (K, B, C).
        """
        return torch.stack([
            member.scores(self.member_inputs(k, inputs))
            for k, member in enumerate(self.members)
        ])

    def scores(self, inputs: Tensor) -> Tensor:
        """Averaged logits, (B, C); float64 for more than one member."""
        members = self.member_scores(inputs)
        return members[0] if len(members) == 1 else \
            average(members, self.weights)

    def extract_feat(self, inputs: Tensor) -> Tuple[tuple, ...]:
        """Features of each member."""
        return tuple(
            member.extract_feat(self.member_inputs(k, inputs))
            for k, member in enumerate(self.members))

    def forward(self,
                inputs: Tensor,
                data_samples: Optional[List[DataSample]] = None,
                mode: str = 'tensor') -> Any:
        """As in ``ImageClassifier``.

        Args:
            inputs (Tensor): Images in 0-255, (B, C, H, W).
            data_samples (list[DataSample], optional): Defaults to None.
            mode (str): ``'tensor'`` for averaged logits, ``'predict'`` for
                data samples, ``'loss'`` with ``train='joint'``.

        Returns:
            Tensor | list[DataSample] | dict[str, Tensor]: By the mode.
        """
        if mode == 'tensor':
            return self.scores(inputs)
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        raise RuntimeError(f'Invalid mode "{mode}".')

    def loss(self, inputs: Tensor, data_samples: List[DataSample]) -> dict:
        """The loss on averaged logits and residuals.

        Raises:
            RuntimeError: Unless the ensemble was built with
                ``train='joint'``.
        """
        if not self.joint:
            raise RuntimeError(
                'This ensemble averages networks that were trained on their '
                "own. Set train='joint' to train its members together, or "
                'train each with its own config.')
        labels = hard_labels(data_samples, self.num_classes)
        logits, residuals, radius = 0., 0., 0.
        for k, (weight,
                member) in enumerate(zip(self.weights.tolist(), self.members)):
            feats = member.extract_feat(self.member_inputs(k, inputs))
            z, r = member.head.train_terms(feats, labels)
            logits, residuals = logits + weight * z, residuals + weight * r
            radius += weight * member.head.train_radius()
        return self.members[0].head.robust_loss(logits, residuals, labels,
                                                radius)

    def predict(self,
                inputs: Tensor,
                data_samples: Optional[List[DataSample]] = None,
                **kwargs: Any) -> List[DataSample]:
        """Predictions of the average, with its certificates.

        Args:
            inputs (Tensor): Images in 0-255, (B, C, H, W).
            data_samples (list[DataSample], optional): With ``gt_label`` for
                certified accuracy. Defaults to None.

        Returns:
            list[DataSample]: With the fields above.

        Raises:
            CertificationError: As :meth:`LipschitzClassifier.predict`.
        """
        head = self.members[0].head
        if self.certify is None:
            return head._get_predictions(self.scores(inputs), data_samples)
        with torch.no_grad(), self.certifiable(inputs):
            scores = self.scores(inputs)
            samples = head._get_predictions(scores, data_samples)
            return self.add_certificates(inputs, scores, samples)

    def certifier(
            self,
            options: Optional[CertifyOptions] = None) -> EnsembleCertifier:
        """Residuals and radii of images in 0-255.

        Args:
            options (CertifyOptions, optional): Defaults to those of
                ``test_cfg``.
        """
        options = options or self.certify
        prepare = [
            lambda x, k=k: self.member_inputs(k, x)
            for k in range(len(self.members))
        ]
        return EnsembleCertifier(
            [member.certifier(options) for member in self.members],
            self.weights, prepare)

    def input_space(self) -> Tuple[Tensor, Tensor, Tensor]:
        """The ensemble's inputs are pixels."""
        white = torch.tensor([self.certify.pixel_range], dtype=torch.float64)
        return white, torch.zeros_like(white), white

    def residuals(self, certifier: EnsembleCertifier, inputs: Tensor,
                  labels: Tensor, eps: float) -> Tuple[Residual, Tensor]:
        """Residual of the average, and which members certify the label."""
        members = certifier.member_residuals(inputs, labels, eps,
                                             self.certify.method)
        alone = [
            Residual(value, slack).certified(labels)
            for value, slack in zip(members.value, members.slack)
        ]
        return certifier.average(members), torch.stack(alone, 1)

    def member_fields(self, inputs: Tensor, labels: Tensor,
                      certified: Tensor) -> Dict[str, Tensor]:
        """What the members do by themselves, and what their votes do."""
        right = self.member_scores(inputs).argmax(2).T == labels[:, None]
        certified = certified & right[..., None]
        return dict(
            member_correct=right,
            member_certified=certified,
            certified_unanimous=unanimous(certified.transpose(0, 1)),
            certified_majority=majority(certified.transpose(0, 1)))

    @torch.no_grad()
    def fit_weights(self,
                    batches: Iterable[dict],
                    eps: float,
                    options: Optional[CertifyOptions] = None) -> FittedWeights:
        """Choose the weights that certify most held-out images.

        Args:
            batches (Iterable[dict]): Batches of a dataloader with ``inputs``
                and labelled ``data_samples``, from a split that is neither
                trained nor tested on.
            eps (float): Radius in pixel units.
            options (CertifyOptions, optional): Defaults to those of
                ``test_cfg``.

        Returns:
            FittedWeights: The weights, now in use, and the certified shares
            of the held-out images.

        Raises:
            ConfigError: If images have no label.
            CertificationError: As :meth:`predict`.
        """
        options = options or self.certify or CertifyOptions((eps, ))
        certifier = self.certifier(options)
        values, slacks, truths = [], [], []
        for batch in batches:
            data = self.data_preprocessor(batch, False)
            labels = true_labels(data['data_samples'], data['inputs'].device,
                                 self.num_classes)
            if labels is None:
                raise ConfigError('Weights are fitted on images with labels, '
                                  'but some have no gt_label.')
            found = certifier.member_residuals(data['inputs'], labels, eps,
                                               options.method)
            values.append(found.value.cpu())
            slacks.append(found.slack.cpu())
            truths.append(labels.cpu())
        if not values:
            raise ConfigError('Weights are fitted on held-out images, but '
                              'there is no batch.')
        fitted = fit_weights(
            torch.cat(values, 1), torch.cat(truths), torch.cat(slacks, 1))
        self.weights.copy_(fitted.weights)
        return fitted


def _member(options: dict, shared: dict,
            index: int) -> Tuple[LipschitzClassifier, float]:
    """Build a member without its weights."""
    unknown = set(options) - {'config', 'model', 'checkpoint', 'weight'}
    if unknown or ('config' in options) == ('model' in options):
        raise ConfigError(
            f'members[{index}] takes config (a path) or model (a dict), '
            'checkpoint and weight, but got '
            f'{sorted(options)}.')
    weight = options.get('weight', 1.)
    model = options.get('model')
    if isinstance(model, LipschitzClassifier):
        model.certify = None
        return model, weight
    if model is None:
        config = load_config(options['config'])
        model = config.model
        shared = config.get('data_preprocessor') or shared
    model = deepcopy(dict(model))
    kind = type_name(model.pop('type', 'LipschitzClassifier'))
    if kind == 'CertifiedEnsemble':
        raise ConfigError(f'members[{index}] is itself an ensemble. List its '
                          'members in place of it.')
    if kind not in ('LipschitzClassifier', 'ImageClassifier'):
        raise ConfigError(
            f'members[{index}] is a {kind}, but members of a certified '
            'ensemble are mmext.LipschitzClassifier (or ImageClassifier with '
            'a mmext.Lip* backbone and head).')
    model.pop('test_cfg', None)
    model['train_cfg'] = None
    if not model.get('data_preprocessor'):
        model['data_preprocessor'] = deepcopy(dict(shared))
    return LipschitzClassifier(**model), weight


def _check_members(members: Sequence[LipschitzClassifier]) -> None:
    classes = [member.head.num_classes for member in members]
    if len(set(classes)) > 1:
        raise ConfigError('Members of an ensemble have the same classes, but '
                          f'their heads have {classes}.')
    sizes = [member.backbone.input_size for member in members]
    if len(set(sizes)) > 1:
        raise ConfigError(
            'Members of an ensemble take the same images, but their backbones '
            f'take (C, H, W) = {sizes}. Pad inside the backbone '
            '(input_pad) where a network needs larger images.')
    for member in members:
        # Raises if a member does not normalise.
        normalisation(member.data_preprocessor, member.head.pixel_range)
