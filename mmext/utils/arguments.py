# Copyright (c) mmext contributors. All rights reserved.
"""What users may write, also in more than one way."""
import dataclasses
import math
import numbers
from difflib import get_close_matches
from typing import Any, Collection, Iterable, Optional, Sequence, Tuple, Union

import numpy as np

from .user_error import ConfigError


def as_tuple(names: Union[str, Sequence[str]]) -> Tuple[str, ...]:
    """Names, of which a text alone is one.

    ``--cfg-options x=head`` gives the text ``'head'``, which as a sequence
    would be four names of one letter.

    Args:
        names (str | Sequence[str]): One name, or several.

    Returns:
        tuple[str]: The names.
    """
    return (names, ) if isinstance(names, str) else tuple(names)


def is_number(value: Any, low: float = -math.inf) -> bool:
    """Whether a value is a finite number of at least ``low``."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) \
        and math.isfinite(value) and value >= low


def is_positive(value: Any) -> bool:
    """Whether a value is a finite number above 0."""
    return is_number(value) and value > 0


def is_count(value: Any, low: int = 1) -> bool:
    """Whether a value is a whole number of at least ``low``."""
    return is_number(value, low) and isinstance(value, numbers.Integral)


def is_share(value: Any) -> bool:
    """Whether a value is a number from 0 to 1."""
    return is_number(value, 0) and value <= 1


def check_number(name: str,
                 value: Any,
                 low: float = -math.inf,
                 whole: bool = False,
                 optional: bool = False,
                 strict: bool = False) -> Any:
    """Refuse an option that is no finite number, or too small a one.

    Args:
        name (str): The option, for the message.
        value (Any): What was given.
        low (float): The least that may be. Defaults to -inf.
        whole (bool): Whether it must be a whole number. Defaults to False.
        optional (bool): Whether it may be None. Defaults to False.
        strict (bool): Whether ``low`` itself is too small.
            Defaults to False.

    Returns:
        Any: The value.

    Raises:
        ConfigError: If it is none.
    """
    if value is None and optional:
        return value
    if not (is_count if whole else is_number)(value, low) or \
            strict and value == low:
        bound = '' if low == -math.inf else \
            f' {"above" if strict else "of at least"} {low:g}'
        raise ConfigError(f'{name} is a {"whole " * whole}number{bound}'
                          f'{", or None" * optional}, but got {value!r}.')
    return value


def as_switch(name: str, value: Any) -> bool:
    """A switch, of which Python would take any text for True.

    ``--cfg-options x=no`` gives the text ``'no'``. Numbers 0 and 1 are what
    they look like.

    Args:
        name (str): The option, for the message.
        value (Any): What was given.

    Returns:
        bool: The switch.

    Raises:
        ConfigError: If it is neither on nor off.
    """
    if isinstance(value, (numbers.Integral, np.bool_)) and value in (0, 1):
        return bool(value)
    kind = 'the text ' if isinstance(value, str) else ''
    raise ConfigError(f'{name} is True or False, but got {kind}{value!r}.')


def set_switches(options: Any, place: str = '') -> None:
    """Check the fields of a dataclass that are annotated as a bool.

    Args:
        options (Any): A dataclass, also a frozen one, in its
            ``__post_init__``. Numbers 0 and 1 become switches.
        place (str): What stands before the names in the message, such as
            ``'test_cfg.certify.'``. Defaults to ''.

    Raises:
        ConfigError: If one is neither on nor off.
    """
    for field in dataclasses.fields(options):
        if field.type is bool:
            value = as_switch(place + field.name, getattr(options, field.name))
            object.__setattr__(options, field.name, value)


def check_names(names: Iterable[str],
                known: Collection[str],
                place: str,
                otherwise: Optional[str] = None) -> None:
    """Refuse the name of an option that there is not.

    Args:
        names (Iterable[str]): What was given.
        known (Collection[str]): What there is.
        place (str): What has these options, for the message.
        otherwise (str, optional): The hint where no known name is near.
            Defaults to None: all of them.

    Raises:
        ConfigError: For the first that is not known, with the nearest one.
    """
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f'Did you mean {near[0]!r}?' if near else \
                otherwise or f'It takes {", ".join(known)}.'
            raise ConfigError(f'{place} has no option {name!r}. {hint}')
