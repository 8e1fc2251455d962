# Copyright (c) mmext contributors. All rights reserved.
"""What users may write in more than one way."""
from typing import Sequence, Tuple, Union


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
