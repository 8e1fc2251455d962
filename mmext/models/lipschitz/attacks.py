# Copyright (c) mmext contributors. All rights reserved.
"""Attacks on l-infinity balls: an upper bound on what can be certified."""
from contextlib import contextmanager
from typing import Callable, Iterator, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmext.utils.arguments import as_tuple
from mmext.utils.dependency import has, require
from mmext.utils.user_error import ConfigError
from .boxes import Numbers, per_channel
from .certificates import worst_margin

LOSSES = ('margin', 'ce')
AUTOATTACK_PACKAGES = ('autoattack', 'torchattacks')

Box = Tuple[Tensor, Tensor]


def wrong_margin(logits: Tensor, labels: Tensor) -> Tensor:
    r"""How far the best wrong class leads.

    .. math:: \max_{k \ne y} z_k - z_y

    Args:
        logits (Tensor): z, shape (B, C).
        labels (Tensor): y, shape (B, ).

    Returns:
        Tensor: Shape (B, ); positive where the prediction is wrong.
    """
    right = logits.gather(1, labels[:, None])[:, 0]
    return worst_margin(logits, labels) - right


@contextmanager
def gradients_enabled() -> Iterator[None]:
    """Gradients inside ``no_grad`` or ``inference_mode`` loops."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _loss(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    if name == 'ce':
        return F.cross_entropy(logits, labels, reduction='sum')
    return wrong_margin(logits, labels).sum()


class _Ball:
    """The points that an attack may reach."""

    def __init__(self, x: Tensor, eps: Tensor, box: Optional[Box]) -> None:
        self.lower, self.upper = x - eps, x + eps
        if box is not None:
            low, high = (per_channel(end, x) for end in box)
            self.lower = self.lower.maximum(low)
            self.upper = self.upper.minimum(high)

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(self.lower, self.upper)


def _start(x: Tensor, eps: Tensor, generator: Optional[torch.Generator]):
    """N(0, (eps/4)^2) around ``x``, cut at eps/2."""
    device = x.device if generator is None else generator.device
    noise = torch.randn(
        x.shape, generator=generator, device=device, dtype=x.dtype)
    return x + (noise.to(x.device) / 4).clamp(-0.5, 0.5) * eps


def _ascend(forward: Callable[[Tensor], Tensor], surrogate: Callable[[Tensor],
                                                                     Tensor],
            start: Tensor, labels: Tensor, ball: _Ball, step: Tensor,
            steps: int, loss: str) -> Tuple[Tensor, Tensor, Tensor]:
    """Last point, best point on the way and its margin."""
    point = best = ball.project(start)
    top = torch.full((len(point), ), float('-inf')).to(point)
    shape = (-1, *[1] * (point.dim() - 1))
    for number in range(steps + 1):
        leaf = point.detach().requires_grad_()
        logits = surrogate(leaf)
        judged = logits if surrogate is forward else forward(point)
        margin = wrong_margin(judged.detach(), labels).to(point)
        better = margin > top
        top = torch.where(better, margin, top)
        best = torch.where(better.reshape(shape), point, best)
        if number < steps:
            gradient, = torch.autograd.grad(_loss(loss, logits, labels), leaf)
            point = ball.project(point + step * gradient.sign())
    return point, best, top


def attack_losses(loss: Union[str, Sequence[str]]) -> Tuple[str, ...]:
    """Names of losses that :func:`pgd_attack` takes in turn.

    Args:
        loss (str | Sequence[str]): One name, or several.

    Returns:
        tuple[str]: The names.

    Raises:
        ConfigError: If there is none, or one does not exist.
    """
    losses = as_tuple(loss)
    unknown = [name for name in losses if name not in LOSSES]
    if unknown or not losses:
        raise ConfigError("loss is 'margin', 'ce' or a list of them, but got "
                          f'{loss!r}.')
    return losses


def _checked(forward: Callable, loss: Union[str, Sequence[str]], steps: int,
             restarts: int, keep: str) -> Tuple[str, ...]:
    losses = attack_losses(loss)
    if steps < 0 or restarts < 1:
        raise ConfigError('An attack takes steps >= 0 and restarts >= 1, but '
                          f'got steps={steps}, restarts={restarts}.')
    if keep not in ('best', 'last'):
        raise ConfigError(f"keep is 'best' or 'last', but got {keep!r}.")
    if isinstance(forward, nn.Module) and forward.training:
        raise ValueError(
            'The attacked network is in train mode, where its batch '
            'statistics depend on the other images. Call .eval() first.')
    return losses


def pgd_attack(forward: Callable[[Tensor], Tensor],
               x: Tensor,
               labels: Tensor,
               eps: Numbers,
               box: Optional[Box] = None,
               steps: int = 100,
               restarts: int = 5,
               loss: Union[str, Sequence[str]] = 'margin',
               step_size: Optional[Union[float, Tensor]] = None,
               random_start: bool = True,
               keep: str = 'best',
               generator: Optional[torch.Generator] = None,
               surrogate: Optional[Callable] = None) -> Tensor:
    r"""Projected gradient ascent with restarts.

    .. math:: x \leftarrow \Pi(x + s \, \mathrm{sign} \nabla_x L(f(x), y))

    :math:`\Pi` projects on the ball around the image and then on the box of
    valid images. In an l-infinity-distance net at p = inf a logit depends on
    one coordinate at a time, so that a step moves few pixels; hence more
    steps than usual, several restarts and the margin as loss.

    Gradients are switched on inside, so it may be called in a ``no_grad`` or
    ``inference_mode`` validation loop. It touches neither the mode of the
    network nor its gradients.

    Args:
        forward (Callable): Images (B, C, H, W) to logits (B, K). A module
            must be in eval mode.
        x (Tensor): Clean images in the units that ``forward`` takes.
        labels (Tensor): True classes, shape (B, ).
        eps (float | Sequence[float] | Tensor): Radius in the units of ``x``:
            a number, or one for each channel.
        box (tuple[Tensor, Tensor], optional): Least and largest valid value,
            numbers or per channel. Defaults to None, no limit.
        steps (int): Steps of each restart. Defaults to 100.
        restarts (int): Starts; each goes on with the images that still
            stand. Defaults to 5.
        loss (str | Sequence[str]): ``'margin'`` (best wrong logit minus the
            true one), ``'ce'`` (cross-entropy), or several in turn, a
            restart each. Defaults to ``'margin'``.
        step_size (float | Tensor, optional): s in the units of ``x``.
            Defaults to None, a quarter of ``eps``.
        random_start (bool): Start at N(0, (eps/4)^2) cut at eps/2, otherwise
            at the image. Defaults to True.
        keep (str): ``'best'`` returns the point with the largest margin that
            was met, ``'last'`` the last one of the last restart.
            Defaults to ``'best'``.
        generator (torch.Generator, optional): Of the random starts.
        surrogate (Callable, optional): Gives the gradient instead of
            ``forward``, which judges; for example the same network at a
            finite p, where the gradient is not sparse.

    Returns:
        Tensor: Attacked images inside ball and box, shape of ``x``, without
        gradient.

    Raises:
        ConfigError: If an option is none of those listed.
        ValueError: If the network is a module in train mode.

    Examples:
        >>> adv = pgd_attack(model, x, y, eps=0.1 / 0.3081, steps=100)
    """
    losses = _checked(forward, loss, steps, restarts, keep)
    with gradients_enabled():
        # Clones, since tensors of an inference loop cannot be saved.
        x, labels = x.detach().clone(), labels.clone()
        eps = per_channel(eps, x).clone()
        step = eps / 4 if step_size is None else per_channel(step_size, x)
        result = x
        best_margin = torch.full((len(x), ), float('-inf')).to(x)
        standing = torch.arange(len(x), device=x.device)
        for restart in range(restarts):
            if not len(standing):
                break
            part, y = x[standing], labels[standing]
            ball = _Ball(part, _rows(eps, standing, x), box)
            start = _start(part, _rows(eps, standing, x),
                           generator) if random_start else part
            last, best, margin = _ascend(forward, surrogate or forward,
                                         start, y, ball,
                                         _rows(step, standing, x), steps,
                                         losses[restart % len(losses)])
            if keep == 'last':
                result = last.detach()
                continue
            better = margin > best_margin[standing]
            rows = standing[better]
            result = result.index_copy(0, rows, best[better].detach())
            best_margin = best_margin.index_copy(0, rows, margin[better])
            standing = standing[best_margin[standing] <= 0]
    return result.detach()


def _rows(value: Tensor, rows: Tensor, x: Tensor) -> Tensor:
    """The rows of a radius that is given for each image."""
    if value.dim() == x.dim() and len(value) == len(x) and len(x) > 1:
        return value[rows]
    return value


class _UnitForward(nn.Module):
    """What the packages expect: a module with a device, in eval mode."""

    def __init__(self, forward: Callable, device: torch.device) -> None:
        super().__init__()
        self.function = (forward, )  # a tuple, so that it is no submodule
        self.where = nn.Parameter(torch.zeros(1, device=device))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images in [0, 1]."""
        return self.function[0](x)


def autoattack_package() -> str:
    """Name of the installed package that has AutoAttack.

    Returns:
        str: One of ``AUTOATTACK_PACKAGES``.

    Raises:
        ImportError: If there is none; says how to install one.
    """
    found = next((name for name in AUTOATTACK_PACKAGES if has(name)), None)
    if found is None:
        raise ImportError(
            "AutoAttack needs the package 'torchattacks' or 'autoattack', "
            'and neither is installed. Install one with: pip install '
            "torchattacks, or attack with dict(type='pgd').")
    return found


def autoattack(forward: Callable[[Tensor], Tensor],
               x: Tensor,
               labels: Tensor,
               eps: float,
               version: str = 'standard',
               seed: int = 0) -> Tensor:
    """AutoAttack (arXiv 2003.01690), if a package that has it is installed.

    Args:
        forward (Callable): Images in [0, 1] to logits (B, K).
        x (Tensor): Clean images in [0, 1], shape (B, C, H, W).
        labels (Tensor): True classes, shape (B, ).
        eps (float): Radius in pixel units, such as 8/255.
        version (str): ``'standard'``, ``'plus'`` or ``'rand'``.
            Defaults to ``'standard'``.
        seed (int): Of its random starts. Defaults to 0.

    Returns:
        Tensor: Attacked images.

    Raises:
        ImportError: If neither ``autoattack`` nor ``torchattacks`` is
            installed; says how to install one.
    """
    found = autoattack_package()
    package = require(found, 'AutoAttack')
    with gradients_enabled():
        x, labels = x.detach().clone(), labels.clone()
        model = _UnitForward(forward, x.device)
        if found == 'autoattack':
            attack = package.AutoAttack(
                model,
                norm='Linf',
                eps=eps,
                version=version,
                seed=seed,
                verbose=False,
                device=x.device)
            return attack.run_standard_evaluation(
                x, labels, bs=len(x)).detach()
        attack = package.AutoAttack(
            model,
            norm='Linf',
            eps=eps,
            version=version,
            seed=seed,
            n_classes=forward(x[:1]).shape[1])
        return attack(x, labels).detach()
