# Copyright (c) mmext contributors. All rights reserved.
"""Sound residuals and radii of an average of networks (T1 to T3)."""
from typing import Callable, Optional, Sequence, Union

import torch
from torch import Tensor

from .certifier import Certifier, Residual
from .ensemble import Weights, average, simplex_weights


class EnsembleCertifier(Certifier):
    r"""Residuals and radii of :math:`F = \sum_k a_k f^{(k)}`.

    Members may have other architectures, heads and normalisations: each
    propagates the box that the pixel radius becomes in its own units, and
    residuals and slacks are averaged in float64.

    Args:
        members (Sequence[Certifier]): One for each member.
        weights (Sequence[float] | Tensor, optional): a, not negative; another
            sum than 1 is divided out. Defaults to None, equal.
        prepare (Sequence[Callable], optional): From the ensemble's images to
            each member's normalised ones. Defaults to None: all members take
            the same.

    Config example: ``test_cfg=dict(certify=...)`` of
    ``mmext.CertifiedEnsemble``.
    """

    def __init__(self,
                 members: Sequence[Certifier],
                 weights: Optional[Weights] = None,
                 prepare: Optional[Sequence[Callable]] = None) -> None:
        self.members = list(members)
        self.weights = simplex_weights(weights, len(self.members))
        self.prepare = list(prepare or [lambda x: x] * len(self.members))

    @property
    def lipschitz(self) -> bool:
        """bool: Whether half the margin is a radius of the logits."""
        return all(member.lipschitz for member in self.members)

    def _check(self, x: Tensor) -> None:
        for member in self.members:
            member._check(x)

    @torch.no_grad()
    def member_residuals(self,
                         x: Tensor,
                         labels: Tensor,
                         eps: Union[float, Tensor],
                         method: str = 'interval') -> Residual:
        """The residuals of each member for the same labels.

        Args:
            x (Tensor): The ensemble's images, (B, C, H, W).
            labels (Tensor): Classes to certify, (B, ).
            eps (float | Tensor): Pixel radius; a number or one per image.
            method (str): 'interval' or 'lipschitz'. Defaults to 'interval'.

        Returns:
            Residual: Value (K, B, C) and slack (K, B).
        """
        found = [
            member.residual(prepare(x), labels, eps, method)
            for member, prepare in zip(self.members, self.prepare)
        ]
        return Residual(
            torch.stack([r.value for r in found]),
            torch.stack([r.slack for r in found]))

    def average(self, members: Residual) -> Residual:
        """Residual of the ensemble from those of its members (T3)."""
        return Residual(
            average(members.value, self.weights),
            average(members.slack, self.weights))

    @torch.no_grad()
    def residual(self,
                 x: Tensor,
                 labels: Tensor,
                 eps: Union[float, Tensor],
                 method: str = 'interval') -> Residual:
        """Residual of the averaged logits at one radius, see
        :meth:`Certifier.residual`."""
        return self.average(self.member_residuals(x, labels, eps, method))

    def _lipschitz(self, x: Tensor, labels: Tensor,
                   eps: Union[float, Tensor]) -> Residual:
        return self.residual(x, labels, eps, 'lipschitz')

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Averaged logits, (B, C)."""
        logits = [
            member.predict(prepare(x))
            for member, prepare in zip(self.members, self.prepare)
        ]
        return logits[0] if len(logits) == 1 else average(
            torch.stack(logits), self.weights)
