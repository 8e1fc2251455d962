# Copyright (c) mmext contributors. All rights reserved.
"""What users may write, also in more than one way."""
import math
import numbers
from difflib import get_close_matches
from typing import Any, Collection, Iterable, Optional, Sequence, Tuple, Union


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


def first_unknown(
        names: Iterable[str],
        known: Collection[str]) -> Optional[Tuple[str, Optional[str]]]:
    """The first name that is not known, and the known one nearest to it.

    Args:
        names (Iterable[str]): What was given.
        known (Collection[str]): What there is.

    Returns:
        tuple[str, str | None], optional: None if all are known.
    """
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            return name, near[0] if near else None
    return None
