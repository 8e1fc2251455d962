# Copyright (c) mmext contributors. All rights reserved.
"""Read and set the exponent of a whole network."""
import math
from contextlib import contextmanager
from typing import Iterator, List, Mapping, Optional

import torch.nn as nn

from mmext.utils.arguments import is_positive
from mmext.utils.user_error import ConfigError
from .layers import DistanceLayer
from .operator_checks import check_p


def distance_modules(model: nn.Module) -> List[DistanceLayer]:
    """The distance layers of a network, in order of registration.

    Args:
        model (nn.Module): Any module; wrappers are looked through.

    Returns:
        list[DistanceLayer]: Modules with an exponent ``p``.
    """
    return [m for m in model.modules() if isinstance(m, DistanceLayer)]


def set_p(model: nn.Module, p: float) -> None:
    """Set the exponent of every distance layer.

    Args:
        model (nn.Module): The network.
        p (float): A number above 0, or ``math.inf``.

    Raises:
        ConfigError: If ``p`` is no such number.
    """
    p = check_p(p)
    for module in distance_modules(model):
        module.p = p


def get_p(model: nn.Module) -> float:
    """The exponent that all distance layers of a network share.

    Args:
        model (nn.Module): The network.

    Returns:
        float: The exponent.

    Raises:
        ConfigError: If there is no distance layer, or they differ.
    """
    values = sorted({module.p for module in distance_modules(model)})
    if len(values) != 1:
        found = ', '.join(f'{p:g}' for p in values) or 'no distance layer'
        raise ConfigError(
            'expected distance layers that share one p, but found '
            f'{found} in {type(model).__name__}. Use set_p(model, p) to make '
            'them equal.')
    return values[0]


@contextmanager
def p_norm(model: nn.Module, p: float) -> Iterator[nn.Module]:
    """Give every distance layer the exponent ``p`` for a while.

    Each layer gets its own value back at the end, also after an error.

    Args:
        model (nn.Module): The network.
        p (float): A number above 0, or ``math.inf``.

    Yields:
        nn.Module: The network.
    """
    before = [(module, module.p) for module in distance_modules(model)]
    try:
        set_p(model, p)
        yield model
    finally:
        for module, value in before:
            module.p = value


def saved_p(checkpoint: Mapping) -> Optional[float]:
    """The exponent that the running means of a checkpoint were gathered at.

    Args:
        checkpoint (Mapping): What was loaded.

    Returns:
        float, optional: Its ``lp_norm``; None if it says nothing.

    Raises:
        ConfigError: If ``lp_norm`` is no exponent.
    """
    p = checkpoint.get('lp_norm')
    if p is None or p == math.inf or is_positive(p):
        return p
    raise ConfigError('lp_norm of a checkpoint is the exponent that it was '
                      f'saved at, above 0 or inf, but got {p!r}.')
