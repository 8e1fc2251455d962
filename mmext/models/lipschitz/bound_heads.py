# Copyright (c) mmext contributors. All rights reserved.
"""From certified features to logits and residuals."""
import math
from typing import Optional, Union

import torch.nn as nn
from torch import Tensor

from .bounds import (Bounds, BoundTanh, Negate, Value, check_certifiable,
                     full_precision)
from .boxes import eps_box
from .certificates import (head_margin_bounds, interval_residual,
                           lipschitz_residual)
from .layers import ScaledLinear
from .sort_layers import distance_linear


class DistanceHead(nn.Module):
    """Class layer of distance neurons, ``z_k = -(||h - w_k|| + b_k)``.

    Args:
        in_features (int): Features.
        num_classes (int): Classes.
        p (float): Exponent. Defaults to inf.
        sort (dict, optional): Options of the SortNet neuron. Defaults to
            None, distance neurons.
        identity (float | None): As in :class:`LpDistLinear`. Defaults to
            10, which matters only with more classes than features.

    Config example: ``head=dict(type='mmext.LipClsHead', num_classes=10,
    in_channels=512)``.
    """

    # Its logits are 1-Lipschitz in the input of a distance net.
    lipschitz = True

    def __init__(self,
                 in_features: int,
                 num_classes: int,
                 p: float = math.inf,
                 sort: Optional[dict] = None,
                 identity: Optional[float] = 10.) -> None:
        super().__init__()
        self.in_features = in_features
        self.num_classes = num_classes
        self.fc = distance_linear(
            sort,
            in_features,
            num_classes,
            p=p,
            mean_shift=False,
            bias=True,
            identity=identity)
        self.negate = Negate()

    def forward(self, features: Value) -> Value:
        """(B, in_features) to logits (B, num_classes), or bounds of them."""
        return self.negate(self.fc(features))

    def residual(self, features: Bounds, labels: Tensor) -> Tensor:
        """Interval residual over a box of features, (B, num_classes)."""
        logits = self(features.box)
        lower, upper = logits.lower, logits.upper
        if not self.training:
            # Certificates count no rounding of the difference.
            lower, upper = lower.double(), upper.double()
        return interval_residual(lower, upper, labels)

    def lipschitz_residual(self, features: Tensor, labels: Tensor,
                           eps: Union[float, Tensor]) -> Tensor:
        """Residual from the Lipschitz constant, (B, num_classes).

        Args:
            features (Tensor): 1-Lipschitz features, (B, in_features).
            labels (Tensor): int64, (B, ).
            eps (float | Tensor): Radius in the units of the network.
        """
        return lipschitz_residual(self(features), labels, eps)


class BoundMLP(nn.Module):
    """The "++" head: linear, tanh, linear, with bounds through all three.

    Each linear layer divides its weight by the root of its fan-in
    (arXiv:2102.05363). In evaluation everything is computed in
    float64: worst-case rounding of float32 sums over thousands of features
    would cost certificates, and the head is small.

    Args:
        in_features (int): Features.
        hidden (int): Units between the two linear layers.
        num_classes (int): Classes.
        exact_eval (bool): Compute logits in float64 in evaluation too and
            round them at the end. Without it, certificates speak of the
            head in exact arithmetic. Defaults to True.

    Config example: ``head=dict(type='mmext.BoundMLPHead', num_classes=10,
    in_channels=1024, hidden=512)``.
    """

    # The margin / 2 rule does not hold for its logits.
    lipschitz = False

    def __init__(self,
                 in_features: int,
                 hidden: int,
                 num_classes: int,
                 exact_eval: bool = True) -> None:
        super().__init__()
        self.in_features = in_features
        self.num_classes = num_classes
        self.exact_eval = exact_eval
        self.fc1 = ScaledLinear(in_features, hidden)
        self.act = BoundTanh()
        self.fc2 = ScaledLinear(hidden, num_classes)

    def hidden(self, features: Value) -> Value:
        """(B, in_features) to (B, hidden), or bounds of it."""
        return self.act(self.fc1(features))

    def forward(self, features: Value) -> Value:
        """(B, in_features) to logits (B, num_classes), or bounds of them."""
        if isinstance(features, Bounds) or self.training \
                or not self.exact_eval:
            return self._logits(features)
        return self._logits(features.double()).to(features.dtype)

    def _logits(self, features: Value) -> Value:
        # Sums over thousands of features are no place for half precision.
        with full_precision(features):
            return self.fc2(self.hidden(features))

    def largest_logit(self) -> Tensor:
        """Bound of every logit's magnitude, as tanh stays within one."""
        weight = self.fc2.weight.detach().double().abs().sum(1)
        return (weight * self.fc2.scale +
                self.fc2.bias.detach().double().abs()).max()

    def residual(self, features: Bounds, labels: Tensor) -> Tensor:
        """Residual over a box of features, (B, num_classes).

        The last layer bounds differences of logits
        (:func:`head_margin_bounds`).
        """
        if not self.training:
            check_certifiable(False, features, what=type(self).__name__)
        with full_precision(features):
            box = self.hidden(features.box)
            return head_margin_bounds(
                box.lower,
                box.upper,
                self.fc2.weight.to(box.lower),
                self.fc2.bias.to(box.lower),
                labels,
                self.fc2.scale,
                rounding=not self.training)

    def lipschitz_residual(self, features: Tensor, labels: Tensor,
                           eps: Union[float, Tensor]) -> Tensor:
        """Residual over ``features +- eps``, (B, num_classes).

        Args:
            features (Tensor): 1-Lipschitz features, (B, in_features).
            labels (Tensor): int64, (B, ).
            eps (float | Tensor): Radius in the units of the network, one
                number or one per sample.
        """
        if isinstance(eps, Tensor) and eps.dim() == 1:
            eps = eps[:, None]
        return self.residual(eps_box(features, eps), labels)
