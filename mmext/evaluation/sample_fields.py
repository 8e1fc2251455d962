# Copyright (c) mmext contributors. All rights reserved.
"""Fields of data samples, which reach metrics as objects or as dicts."""
from typing import Any

_PATHS = ('img_path', 'spike_path', 'depth_map_path')


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
    """Path of a sample, for messages.

    That of its image, else of its spikes, else of its depth, since a data
    set may read some of them only.

    Args:
        sample (Any): The sample.
    """
    for field in _PATHS:
        path = get_field(sample, field)
        if path:
            return str(path)
    return f'A frame without {", ".join(_PATHS[:-1])} and {_PATHS[-1]}'
