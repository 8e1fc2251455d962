# Copyright (c) mmext contributors. All rights reserved.
"""Fields of data samples, which reach metrics as objects or as dicts."""
from typing import Any


def get_field(sample: Any, field: str, default: Any = None) -> Any:
    """A field of a data sample or of its dict.

    Args:
        sample (Any): The sample.
        field (str): Name of the field.
        default (Any): What to return if there is none. Defaults to None.
    """
    if isinstance(sample, dict):
        return sample.get(field, default)
    return getattr(sample, field, default)


def sample_name(sample: Any) -> str:
    """Path of a sample's image, for messages."""
    return str(get_field(sample, 'img_path', 'A frame without img_path'))
