# Copyright (c) mmext contributors. All rights reserved.
"""What classifiers share that add certificates to their predictions."""
import logging
import math
from contextlib import contextmanager
from typing import (Any, Callable, Dict, Iterator, List, Optional, Sequence,
                    Tuple)

import torch
import torch.nn as nn
from mmengine.logging import print_log
from torch import Tensor

from mmext.utils.user_error import ConfigError
from ..lipschitz.attacks import autoattack, pgd_attack
from ..lipschitz.bounds import Bounds, CertificationError, check_certifiable
from ..lipschitz.certificates import check_labels, worst_margin
from ..lipschitz.certifier import Certifier, Residual
from ..lipschitz.p_norm import distance_modules, p_norm
from .certify_options import CertifyOptions


def normalisation(preprocessor: nn.Module,
                  pixel_range: float = 255.) -> Tuple[Tensor, Tensor]:
    """Mean and std of a data preprocessor, for images in [0, 1].

    Args:
        preprocessor (nn.Module): mmpretrain's or mmengine's.
        pixel_range (float): What white is in the images it gets.

    Returns:
        tuple[Tensor, Tensor]: float64, one number or one per channel each.

    Raises:
        ConfigError: If it does not normalise, or in other units.
    """
    mean, std = (getattr(preprocessor, name, None) for name in ('mean', 'std'))
    if mean is None or std is None:
        raise ConfigError(
            'A radius in pixels needs the normalisation, but the data '
            'preprocessor has no mean and std. Set '
            'data_preprocessor=dict(mean=[...], std=[...]) in 0-255 units, '
            'for example mean=[33.3285], std=[78.5655] for MNIST (mean=[0], '
            'std=[255] only maps to [0, 1]).')
    mean, std = (v.detach().double().flatten() for v in (mean, std))
    if not (std > 0).all():
        raise ConfigError('std of the data preprocessor is positive, but got '
                          f'{std.tolist()}.')
    if pixel_range > 2 and std.max() < 2:
        raise ConfigError(
            f'The data preprocessor has std={std.tolist()}, which looks meant '
            'for images in [0, 1], but mmpretrain gives it images in 0-255. '
            'Multiply mean and std by 255, or, if the images are in [0, 1], '
            'set pixel_range=1 in test_cfg.certify and in the head.')
    if std.max() > pixel_range:
        raise ConfigError(
            f'The data preprocessor has std={std.tolist()}, above '
            f'pixel_range={pixel_range:g}, what white is: radii would come '
            'out too large. If the images are in 0-255, as mmpretrain reads '
            'them, leave pixel_range at 255.')
    return mean / pixel_range, std / pixel_range


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No gradients of parameters, which attacks do not need."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 in the float32 products of a certified program."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('highest')
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def true_labels(samples: Sequence[Any], device: torch.device,
                num_classes: int) -> Optional[Tensor]:
    """Labels of a batch, or None if some image has none."""
    if not samples or any('gt_label' not in sample for sample in samples):
        return None
    labels = [sample.gt_label for sample in samples]
    if any(label.numel() != 1 for label in labels):
        raise ConfigError('A certificate speaks of one class per image, but '
                          'some images have several labels.')
    labels = torch.cat([label.flatten() for label in labels])
    check_labels(labels, num_classes)
    return labels.to(device)


class CertifiedPredictions:
    """Mixin of a classifier: certificates in its data samples.

    The classifier has ``certify`` (:class:`CertifyOptions` or None) and
    ``trained_p``, and says how to compute :meth:`scores`, a certifier and
    the space of its inputs.
    """

    certify: Optional[CertifyOptions]
    trained_p: Optional[float] = None
    """Exponent that the loaded checkpoint was saved at, None if unknown.

    Not a buffer: averages of weights must not touch it.
    """

    def scores(self, inputs: Tensor) -> Tensor:
        """Logits of preprocessed images, shape (B, C)."""
        raise NotImplementedError

    def certifier(self) -> Certifier:
        """What computes residuals and radii of preprocessed images."""
        raise NotImplementedError

    def input_space(self) -> Tuple[Tensor, Tensor, Tensor]:
        """Per channel: inputs per pixel unit, and inputs of black, white."""
        raise NotImplementedError

    def residuals(self, certifier: Certifier, inputs: Tensor, labels: Tensor,
                  eps: float) -> Tuple[Residual, Optional[Tensor]]:
        """The residual, and (B, K) which members of an ensemble certify."""
        return certifier.residual(inputs, labels, eps,
                                  self.certify.method), None

    def member_fields(self, inputs: Tensor, labels: Tensor,
                      certified: Tensor) -> Dict[str, Tensor]:
        """Further fields of an ensemble, batch first.

        Args:
            inputs (Tensor): Preprocessed images.
            labels (Tensor): True classes.
            certified (Tensor): Which members certify them, (B, K, n_eps).
        """
        return {}

    @contextmanager
    def certifiable(self, inputs: Tensor) -> Iterator[None]:
        """Refuse a network that has no certificates now, or force p = inf.

        Raises:
            CertificationError: In train mode, under autocast, or at a finite
                p, of the network or recorded in its checkpoint, unless
                ``force_inf``.
        """
        # At p = inf: a finite p has its own message.
        check_certifiable(
            self.training,
            Bounds(None, inputs, inputs),
            what=type(self).__name__)
        p = min(layer.p for layer in distance_modules(self))
        recorded = self.trained_p
        unfinished = recorded is not None and recorded != math.inf
        if p == math.inf and not unfinished:
            with full_precision():
                yield
            return
        if not self.certify.force_inf:
            raise CertificationError(
                (f'The checkpoint was saved at p = {recorded:g}, in the '
                 'middle of the schedule. '
                 if unfinished else f'The network stands at p = {p:g}. ') +
                'Certificates hold at p = inf only, for which the running '
                'means must be those of p = inf. Train to the end of the '
                'schedule (PNormScheduleHook also sets p for validation and '
                'test), call mmext.models.lipschitz.p_norm.set_p(model, '
                "float('inf')) on a finished network, or set "
                'test_cfg.certify.force_inf=True to certify it all the same.')
        print_log(
            'force_inf: a network whose schedule has not ended is certified '
            'at p = inf. The certificates hold, but its running means are '
            'those of a finite p and the accuracy may be near chance.',
            logger='current',
            level=logging.WARNING)
        with full_precision(), p_norm(self, math.inf):
            yield

    @torch.no_grad()
    def add_certificates(self, inputs: Tensor, logits: Tensor,
                         samples: List[Any]) -> List[Any]:
        """Set the fields of the certificates.

        They are ``certify_eps`` and, for each eps, ``certified`` (of the true
        label, or of the predicted one if there is none), ``worst_margin``
        and ``attacked`` (still right under attack); further
        ``certified_radius`` and ``radius_lipschitz`` of the predicted class
        in pixel units.

        Args:
            inputs (Tensor): Preprocessed images, (B, C, H, W).
            logits (Tensor): Their logits.
            samples (list[DataSample]): Their predictions.

        Returns:
            list[DataSample]: ``samples``.
        """
        predicted = logits.argmax(1)
        truth = true_labels(samples, logits.device, logits.shape[1])
        found = self._decide(inputs, predicted, truth)
        if truth is not None:
            if self.certify.attack is not None:
                found['attacked'] = self.attack(inputs, truth,
                                                predicted == truth)
        eps = torch.tensor(self.certify.eps, dtype=torch.float64)
        for row, sample in enumerate(samples):
            sample.set_field(eps, 'certify_eps')
            for name, values in found.items():
                sample.set_field(values[row], name)
        return samples

    def _decide(self, inputs: Tensor, predicted: Tensor,
                truth: Optional[Tensor]) -> Dict[str, Tensor]:
        options, certifier = self.certify, self.certifier()
        labels = predicted if truth is None else truth
        right = predicted == labels
        other = (~right).nonzero()[:, 0]
        worst, passed, members = [], [], []
        for eps in options.eps:
            residual, alone = self.residuals(certifier, inputs, labels, eps)
            worst.append(worst_margin(residual.value, labels))
            decided = residual.certified(labels)
            members.append(alone)
            if len(other) and options.radius:
                # The radius is of the predicted class.
                decided[other] = certifier.residual(
                    inputs[other], predicted[other], eps,
                    options.method).certified(predicted[other])
            passed.append(decided)
        passed = torch.stack(passed, 1)
        found = dict(worst_margin=torch.stack(worst, 1))
        eps = torch.tensor(
            options.eps, dtype=torch.float64, device=inputs.device)
        # What holds in a ball holds in a smaller one.
        reach = torch.where(passed, eps, -1.).amax(1)
        if options.radius:
            radius = self._radius(certifier, inputs, predicted, reach, eps,
                                  found)
            # Radius 0 is none, and no certificate at eps = 0.
            reach = torch.where(radius > 0, radius, reach)
            found['certified_radius'] = reach.clamp(min=0.)
        found['certified'] = (eps <= reach[:, None]) & right[:, None]
        if truth is not None and members[0] is not None:
            found.update(
                self.member_fields(inputs, truth, torch.stack(members, 2)))
        return found

    def _radius(self, certifier: Certifier, inputs: Tensor, predicted: Tensor,
                reach: Tensor, eps: Tensor, found: dict) -> Tensor:
        """A certified radius of the predicted class."""
        options, steps = self.certify, self.certify.radius_steps
        low = reach.clamp(min=0.)
        if certifier.lipschitz:
            found['radius_lipschitz'], _ = certifier.radius(
                inputs, predicted, method='lipschitz')
            low = low.maximum(found['radius_lipschitz'])
        formula = certifier.lipschitz and options.method == 'lipschitz'
        if steps is None:
            steps = 0 if certifier.lipschitz else 10
        if steps < 1 or formula or not len(inputs):
            return low
        high = torch.where(eps > low[:, None], eps, 1.).amin(1)
        radius, _ = certifier.radius(inputs, predicted, options.method, low,
                                     high, steps)
        return radius

    def attack(self, inputs: Tensor, labels: Tensor, right: Tensor) -> Tensor:
        """Which images are still classified correctly under attack.

        Args:
            inputs (Tensor): Preprocessed images, (B, C, H, W).
            labels (Tensor): True classes, (B, ).
            right (Tensor): bool, which are correct without attack; only
                these are attacked.

        Returns:
            Tensor: bool, shape (B, number of eps).
        """
        standing = torch.zeros(
            len(inputs),
            len(self.certify.eps),
            dtype=torch.bool,
            device=inputs.device)
        order = sorted(
            range(len(self.certify.eps)), key=self.certify.eps.__getitem__)
        rows = right.nonzero()[:, 0]
        with frozen(self):
            for j in order:
                # An image that fell at a smaller radius has fallen here.
                if len(rows):
                    x, y = inputs[rows], labels[rows]
                    attacked = self.attacked_inputs(x, y, self.certify.eps[j])
                    rows = rows[self.scores(attacked).argmax(1) == y]
                standing[rows, j] = True
        return standing

    def attacked_inputs(self, inputs: Tensor, labels: Tensor,
                        eps: float) -> Tensor:
        """Images after the attack of the config.

        Args:
            inputs (Tensor): Preprocessed images.
            labels (Tensor): True classes.
            eps (float): Radius in pixel units.

        Returns:
            Tensor: Preprocessed, attacked images.
        """
        options = dict(self.certify.attack)
        scale, black, white = (
            v.to(inputs).reshape(-1, *[1] * (inputs.dim() - 2))
            for v in self.input_space())
        seed = options.pop('seed', 0)
        if options.pop('type', 'pgd') == 'autoattack':
            images = ((inputs - black) / scale).clamp(0, 1)
            adversarial = autoattack(
                lambda images: self.scores(images * scale + black),
                images,
                labels,
                eps,
                seed=seed,
                **options)
            return adversarial * scale + black
        generator = torch.Generator().manual_seed(seed)
        part = options.pop('step_size', 0.25)
        surrogate = options.pop('surrogate_p', None)
        return pgd_attack(
            self.scores,
            inputs,
            labels,
            eps * scale,
            box=(black, white),
            step_size=part * eps * scale,
            generator=generator,
            surrogate=surrogate and self._scores_at(surrogate),
            **options)

    def _scores_at(self, p: float) -> Callable[[Tensor], Tensor]:

        def scores(inputs: Tensor) -> Tensor:
            with p_norm(self, p):
                return self.scores(inputs)

        return scores
