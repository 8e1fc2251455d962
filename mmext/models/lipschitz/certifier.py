# Copyright (c) mmext contributors. All rights reserved.
"""Sound residuals and radii of a network made of features and a head."""
from typing import Callable, NamedTuple, Optional, Tuple, Union

import torch
import torch.nn as nn
from torch import Tensor

from mmext.utils.user_error import ConfigError
from .bounds import Bounds, Value, check_certifiable
from .boxes import Numbers, check_eps, input_box, normalised_eps, widened_eps
from .certificates import bisect_radius, certified, rounding_slack
from .p_norm import distance_modules
from .rounding import RoundingTracker, unit_roundoff

METHODS = ('interval', 'lipschitz')


class Residual(NamedTuple):
    """A residual and what rounding may add to it.

    Attributes:
        value (Tensor): float64, (B, C), 0 at the label.
        slack (Tensor): float64, (B, ).
    """
    value: Tensor
    slack: Tensor

    @property
    def sound(self) -> Tensor:
        """Tensor: The residual plus slack, which averages over members."""
        return self.value + self.slack[:, None]

    def certified(self, labels: Tensor) -> Tensor:
        """bool (B, ): whether the label is certified."""
        return certified(self.value, labels, self.slack)


def require_certifiable(x: Tensor, *modules: nn.Module) -> None:
    """Refuse to certify a network in a state that has no certificate.

    Args:
        x (Tensor): Its input.
        *modules (nn.Module): The network.

    Raises:
        CertificationError: If a module is in training mode, a distance layer
            has finite p, autocast is on, or x is not float32 or float64.
    """
    for module in modules:
        layers = distance_modules(module)
        p = min((layer.p for layer in layers), default=float('inf'))
        training = any(m.training for m in module.modules())
        check_certifiable(training, Bounds(None, x, x), p,
                          type(module).__name__)


class Certifier:
    """Residuals and radii, with the rounding of the program counted.

    Args:
        features (Callable): From images (a tensor or :class:`Bounds`) to
            features, alone or last in a tuple as backbones give them; a
            module whose distance layers are at p = inf.
        head (nn.Module): With ``forward``, ``residual`` and
            ``lipschitz_residual`` as :class:`DistanceHead` and
            :class:`BoundMLP`, and ``lipschitz``; unless that is True, also
            ``largest_logit``.
        mean (float | Sequence[float] | Tensor): Mean of the images in
            [0, 1], one number or one per channel.
        std (float | Sequence[float] | Tensor): Their std.
        clamp (bool): Leave out what no image in [0, 1] can be. Defaults to
            True.
        sound_rounding (bool): Count the rounding of float32. Defaults to True.
        program (bool): As in :func:`rounding_slack`. Defaults to True.

    Config example: ``test_cfg=dict(certify=dict(eps=[8 / 255],
    method='interval', clamp=True, sound_rounding=True))`` of
    ``mmext.LipschitzClassifier``.
    """

    def __init__(self,
                 features: Callable[[Value], Value],
                 head: nn.Module,
                 mean: Numbers,
                 std: Numbers,
                 clamp: bool = True,
                 sound_rounding: bool = True,
                 program: bool = True) -> None:
        self.features = features
        self.head = head
        self.mean = mean
        self.std = std
        self.clamp = clamp
        self.sound_rounding = sound_rounding
        self.program = program

    @property
    def lipschitz(self) -> bool:
        """bool: Whether half the margin is a radius of the logits."""
        return self.head.lipschitz

    def _check(self, x: Tensor) -> None:
        modules = [
            m for m in (self.features, self.head) if isinstance(m, nn.Module)
        ]
        require_certifiable(x, *modules)

    def _run(self, value: Value) -> Value:
        out = self.features(value)
        # Bounds are a tuple themselves.
        if isinstance(out, (tuple, list)) and not isinstance(out, Bounds):
            out = out[-1]
        return out

    def _slack(self, tracker: RoundingTracker, eps: Numbers = 0.) -> Tensor:
        tau = tracker.tau(eps)
        if not self.sound_rounding:
            return torch.zeros_like(tau)
        return rounding_slack(tau, self.program)

    @torch.no_grad()
    def residual(self,
                 x: Tensor,
                 labels: Tensor,
                 eps: Union[float, Tensor],
                 method: str = 'interval') -> Residual:
        """Residual at one radius.

        Args:
            x (Tensor): Normalised images, (B, C, H, W).
            labels (Tensor): Classes to certify, int64, (B, ): the true ones
                for accuracy, the predicted ones for deployment.
            eps (float | Tensor): Pixel radius of images in [0, 1]; one
                number or one per sample.
            method (str): 'interval' or 'lipschitz'. Defaults to 'interval'.

        Returns:
            Residual: Value and slack.

        Raises:
            CertificationError: If the network is in no state to certify.
            ConfigError: If eps is not in [0, 1].
        """
        self._check(x)
        if method not in METHODS:
            raise ConfigError(
                f'method is one of {METHODS}, but got {method!r}.')
        if method == 'interval':
            return self._interval(x, labels, eps)
        return self._lipschitz(x, labels, eps)

    def _interval(self, x: Tensor, labels: Tensor,
                  eps: Union[float, Tensor]) -> Residual:
        box = input_box(x, eps, self.mean, self.std, self.clamp,
                        self.sound_rounding, self.program)
        with RoundingTracker() as tracker:
            features = self._run(box.box)
            if self.head.lipschitz:
                value = self.head.residual(features, labels).double()
                return Residual(value, self._slack(tracker))
        return self._widened(features, labels, self._slack(tracker))

    def _widened(self, features: Bounds, labels: Tensor,
                 slack: Tensor) -> Residual:
        """A head in float64 sees features that err by half the slack."""
        # A residual holds two logits, so its slack counts each error twice.
        features = features.double().widen(slack / 2)
        value = self.head.residual(features, labels).double()
        if self.sound_rounding and self.program:
            # Its logits are rounded once, from float64 to float32.
            one = 2 * unit_roundoff(torch.float32) * self.head.largest_logit()
            return Residual(value, torch.full_like(slack, float(one)))
        return Residual(value, torch.zeros_like(slack))

    def _radius_seen(self, x: Tensor, eps: Union[float, Tensor]) -> Tensor:
        """Radius in the units of the network by the Lipschitz rule, (B, )."""
        eps = check_eps(eps)
        eps = torch.as_tensor(eps, dtype=torch.float64, device=x.device)
        seen = eps * normalised_eps(1., self.std, 'lipschitz')
        if self.sound_rounding:
            seen = widened_eps(seen.reshape(-1, 1), x, self.program)[:, 0]
        return seen.expand(len(x))

    def _lipschitz(self, x: Tensor, labels: Tensor,
                   eps: Union[float, Tensor]) -> Residual:
        seen = self._radius_seen(x, eps)
        with RoundingTracker() as tracker:
            features = self._run(x)
            if self.head.lipschitz:
                logits = self.head(features)
        slack = self._slack(tracker, seen)
        if not self.head.lipschitz:
            wide = seen[:, None]
            features = features.double()
            box = Bounds(None, features - wide, features + wide)
            return self._widened(box, labels, slack)
        logits = logits.double()
        lead = logits - logits.gather(1, labels[:, None]) + 2 * seen[:, None]
        return Residual(lead.scatter(1, labels[:, None], 0.), slack)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Logits, (B, C), after the same checks."""
        self._check(x)
        return self.head(self._run(x))

    @torch.no_grad()
    def radius(self,
               x: Tensor,
               labels: Optional[Tensor] = None,
               method: str = 'interval',
               low: Optional[Tensor] = None,
               high: Optional[Tensor] = None,
               steps: int = 12) -> Tuple[Tensor, Tensor]:
        """A pixel radius that is certified, and for which class.

        Args:
            x (Tensor): Normalised images, (B, C, H, W).
            labels (Tensor, optional): Classes to certify. Defaults to None,
                the predicted ones: label-free.
            method (str): 'lipschitz' is a formula for a distance head.
                'interval' starts from that and bisects. Defaults to
                'interval'.
            low (Tensor, optional): Radii known to be certified by this
                method, (B, ). Defaults to None.
            high (Tensor, optional): Radii known not to be. Defaults to
                None, 1.
            steps (int): Halvings. Defaults to 12.

        Returns:
            tuple[Tensor, Tensor]: float64 radii, 0 for none, and int64
            classes, (B, ) each.
        """
        self._check(x)
        if labels is None:
            labels = self.predict(x).argmax(1)
        low = torch.zeros(len(x)) if low is None else low
        high = torch.ones(len(x)) if high is None else high
        low, high = (t.to(x.device, torch.float64) for t in (low, high))
        guess = low
        if self.lipschitz:
            guess = self._lipschitz_radius(x, labels)
            if method == 'lipschitz':
                return guess, labels

        def passes(eps: Tensor) -> Tensor:
            return self.residual(x, labels, eps, method).certified(labels)

        return self._search(passes, low, high, guess, steps), labels

    @staticmethod
    def _search(passes: Callable[[Tensor], Tensor], low: Tensor, high: Tensor,
                guess: Tensor, steps: int) -> Tensor:
        """Grow from a guess to a narrow bracket first, then bisect."""
        reach = torch.minimum(torch.maximum(guess, low), high)
        while len(low):
            passed = passes(reach)
            low = torch.where(passed, torch.maximum(low, reach), low)
            high = torch.where(passed, high, torch.minimum(high, reach))
            if not bool((passed & (low < high)).any()):
                break
            reach = torch.where(passed, (1.5 * low + 1 / 255), high)
            reach = torch.minimum(reach, high)
        return bisect_radius(passes, low, high, steps)

    def _lipschitz_radius(self, x: Tensor, labels: Tensor) -> Tensor:
        """The radius at which value + slack of :meth:`_lipschitz` is 0.

        Both are linear in eps, so two points of the line give it.
        """
        at = [self._lipschitz(x, labels, eps) for eps in (0., 1.)]
        worst = [
            r.sound.scatter(1, labels[:, None], -torch.inf).amax(1) for r in at
        ]
        # NaN, where the network computes NaN, is no radius.
        radius = (-worst[0] / (worst[1] - worst[0])).nan_to_num(nan=0.)
        # Shrunk a hair, so that it is itself certified.
        return (radius * (1 - 1e-9)).clamp(min=0., max=1.)
