# Copyright (c) mmext contributors. All rights reserved.
"""What users may write, also in more than one way."""
import math
import numbers
from typing import Any, Sequence, Tuple, Union


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


def is_count(value: Any, low: int = 1) -> bool:
    """Whether a value is a whole number of at least ``low``."""
    return is_number(value, low) and isinstance(value, numbers.Integral)
