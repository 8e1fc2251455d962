# Copyright (c) mmext contributors. All rights reserved.
"""AdamW whose decay is that of the l_p norm of each neuron's weights."""
import math
from typing import Any, Callable, List, Optional, Tuple

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import Tensor, nn

from mmext.models.lipschitz.p_norm import distance_modules
from mmext.registry import (OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS,
                            OPTIMIZERS)
from mmext.utils.user_error import ConfigError


def lp_decay(weight: Tensor, p: float, eps: float = 1e-10) -> Tensor:
    r"""Gradient of half the squared l_p norm of each row.

    .. math::
        \Big(\frac{|w_i|}{\|w\|_p}\Big)^{p-2} w_i, \qquad
        [i = \arg\max_j |w_j|]\, w_i \text{ for } p=\infty

    (arXiv:2102.05363). Powers are taken of squares divided by the largest one
    of the row, so that none overflows.

    Args:
        weight (Tensor): Rows are outputs, (Co, ...).
        p (float): Exponent, or inf: the first largest entry of each row.
        eps (float): Added to the squares. Defaults to 1e-10.

    Returns:
        Tensor: Like ``weight``.

    Example:
        >>> lp_decay(torch.tensor([[3., -4.]]), math.inf)
        tensor([[ 0., -4.]])
    """
    rows = weight.flatten(1) if weight.dim() > 1 else weight[:, None]
    if rows.size(1) == 1 or p == 2:  # an entry that is its own row
        return weight.clone()
    if math.isinf(p):
        index = rows.abs().argmax(1, keepdim=True)
        out = torch.zeros_like(rows)
        out.scatter_(1, index, rows.gather(1, index))
        return out.view_as(weight)
    squares = rows.square().add_(eps)
    squares /= squares.amax(1, keepdim=True)
    powers = squares.pow(p / 2 - 1)
    norm = (powers * squares).sum(1, keepdim=True).pow((p - 2) / p)
    return (powers.div_(norm) * rows).view_as(weight)


@OPTIMIZERS.register_module()
class AdamWLp(torch.optim.AdamW):
    r"""AdamW with decay in the l_p norm for distance layers.

    Before Adam's update, tensors of a group with a ``p_norm`` decay by

    .. math:: w \leftarrow w - \eta\lambda\,
        \nabla_w \tfrac12 \|w_{row}\|_p^2

    and those of the other groups by :math:`w\leftarrow(1-\eta\lambda)w`
    (arXiv:2102.05363). At p = inf one entry of each row decays. The groups are
    made by :class:`LpOptimWrapperConstructor`, their p follows
    ``mmext.PNormScheduleHook``; it is a float, so that the state loads
    without unpickling objects.

    Args:
        params (Any): Parameters or groups.
        lr (float): Learning rate. Defaults to 0.02.
        betas (tuple[float, float]): Defaults to (0.9, 0.99).
        eps (float): Of Adam and of :func:`lp_decay`. At large p most
            gradients are tiny, 1e-8 would damp them. Defaults to 1e-10.
        weight_decay (float): lambda. Defaults to 5e-3.
        p_norm (float, optional): p of groups that do not have their own;
            None is plain decay. Defaults to None.
        **kwargs: See ``torch.optim.AdamW``.

    Raises:
        TypeError: If a parameter is of half precision, where ``eps`` and
            most of the decay are zero.
        ConfigError: If ``p_norm`` is not positive.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor='mmext.LpOptimWrapperConstructor',
        ...     optimizer=dict(type='mmext.AdamWLp', lr=0.02))
    """

    def __init__(self,
                 params: Any,
                 lr: float = 0.02,
                 betas: Tuple[float, float] = (0.9, 0.99),
                 eps: float = 1e-10,
                 weight_decay: float = 5e-3,
                 p_norm: Optional[float] = None,
                 **kwargs: Any) -> None:
        self._p_norm = p_norm
        super().__init__(
            params,
            lr=lr,
            betas=tuple(betas),
            eps=eps,
            weight_decay=weight_decay,
            **kwargs)
        self.defaults['p_norm'] = p_norm

    def add_param_group(self, param_group: dict) -> None:
        """Add a group; it may have a ``p_norm`` of its own.

        Args:
            param_group (dict): See ``torch.optim.Optimizer``.
        """
        # the defaults lack it while the constructor adds the first groups
        param_group.setdefault('p_norm',
                               self.defaults.get('p_norm', self._p_norm))
        p = param_group['p_norm']
        if p is not None and not p > 0:
            raise ConfigError(f'p_norm is positive, inf or None, but got {p}.')
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]['params']:
            if parameter.dtype in (torch.float16, torch.bfloat16):
                raise TypeError(
                    'AdamWLp needs parameters of float32 or float64, but got '
                    f'{parameter.dtype}. Keep the model in float32; distance '
                    'layers compute in float32 under autocast too.')

    @torch.no_grad()
    def step(self, closure: Optional[Callable] = None) -> Any:
        """Decay, then take one step of Adam.

        Args:
            closure (Callable, optional): Evaluates the loss again.

        Returns:
            Any: What ``closure`` returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        decays = [group['weight_decay'] for group in self.param_groups]
        try:
            for group in self.param_groups:
                if group['p_norm'] is not None:
                    _decay(group)
                    group['weight_decay'] = 0.  # done
            super().step()
        finally:
            for group, decay in zip(self.param_groups, decays):
                group['weight_decay'] = decay
        return loss


def _decay(group: dict) -> None:
    rate = float(group['lr']) * group['weight_decay']
    if not rate:
        return
    for parameter in group['params']:
        if parameter.grad is not None:
            parameter.sub_(
                lp_decay(parameter, group['p_norm'], group['eps']), alpha=rate)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LpOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Groups of parameters that know whether their decay has a p.

    Weights of distance layers come into groups with ``p_norm``, their
    current p, which ``mmext.PNormScheduleHook`` keeps up to date; all other
    parameters (biases, whose entries are rows of their own, linear heads,
    the scalar of a loss) into groups with ``p_norm=None``, plain decay.
    ``paramwise_cfg`` works as in mmengine's constructor; parameters with
    the same options share a group.

    Args:
        optim_wrapper_cfg (dict): See
            ``mmengine.optim.DefaultOptimWrapperConstructor``.
        paramwise_cfg (dict, optional): See there. Defaults to None.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor='mmext.LpOptimWrapperConstructor',
        ...     optimizer=dict(type='mmext.AdamWLp', lr=0.02),
        ...     paramwise_cfg=dict(bias_decay_mult=0.))
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build optimizer and wrapper.

        Args:
            model (nn.Module): The model, or a wrapper of it.

        Returns:
            OptimWrapper: The wrapper of the config, over one optimizer.
        """
        if is_model_wrapper(model):
            model = model.module
        rows = {id(m.weight): m for m in distance_modules(model)}
        single: List[dict] = []
        self.add_params(single, model)
        groups: List[dict] = []
        seen = set()
        for entry in single:
            # a module below several others is listed once for each
            if id(entry['params'][0]) in seen:
                continue
            seen.add(id(entry['params'][0]))
            layer = rows.get(id(entry['params'][0]))
            entry.setdefault('p_norm', None if layer is None else layer.p)
            _merge(groups, entry)
        optimizer = OPTIMIZERS.build(dict(self.optimizer_cfg, params=groups))
        wrapper = dict(self.optim_wrapper_cfg)
        wrapper.setdefault('type', 'OptimWrapper')
        return OPTIM_WRAPPERS.build(
            wrapper, default_args=dict(optimizer=optimizer))


def _merge(groups: List[dict], entry: dict) -> None:
    """Put a parameter into the group of its options, or a new one."""
    options = {k: v for k, v in entry.items() if k != 'params'}
    for group in groups:
        if options == {k: v for k, v in group.items() if k != 'params'}:
            group['params'] += entry['params']
            return
    groups.append(dict(options, params=list(entry['params'])))
