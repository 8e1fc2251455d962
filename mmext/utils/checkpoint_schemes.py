# Copyright (c) mmext contributors. All rights reserved.
"""``mmext://`` names for checkpoints that ship inside the package."""
from types import ModuleType
from typing import Any, Dict

PREFIX = 'mmext://'


def load_shipped(filename: str,
                 map_location: Any = None,
                 **kwargs) -> Dict[str, Any]:
    """Load ``mmext://streetworld/NAME``.

    Args:
        filename (str): The name with its scheme.
        map_location: Device for the tensors, as in :func:`torch.load`.
            Defaults to None (the CPU).
        **kwargs: Ignored; mmengine's loaders take some.

    Returns:
        dict: ``state_dict`` and ``meta``.

    Raises:
        FileNotFoundError: If no such checkpoint ships.
    """
    from mmext.datasets.streetworld.source import (SOURCE_WEIGHTS,
                                                   load_source_weights)
    folder, _, name = filename[len(PREFIX):].partition('/')
    if folder != 'streetworld' or name not in SOURCE_WEIGHTS:
        known = ', '.join(f'{PREFIX}streetworld/{k}' for k in SOURCE_WEIGHTS)
        raise FileNotFoundError(
            f'{filename} does not ship with mmext; there is {known}')
    checkpoint = load_source_weights(name)
    if map_location is not None and not callable(map_location):
        checkpoint['state_dict'] = {
            k: v.to(map_location)
            for k, v in checkpoint['state_dict'].items()
        }
    return checkpoint


def register_schemes(module: ModuleType) -> None:
    """Teach mmengine's ``CheckpointLoader`` the ``mmext://`` scheme.

    Args:
        module (ModuleType): ``mmengine.runner.checkpoint``.
    """
    module.CheckpointLoader.register_scheme(PREFIX, load_shipped, force=True)
