# Copyright (c) mmext contributors. All rights reserved.
"""The source model that ships with the package."""
import json
import os.path as osp
from typing import Any, Dict

from .classes import CLASSES, PALETTE

#: Shipped checkpoints: name -> file in ``weights/``.
SOURCE_WEIGHTS = {'segformer-b0_clear': 'segformer-b0_clear.safetensors'}


def source_weights_path(name: str = 'segformer-b0_clear') -> str:
    """Absolute path of a shipped checkpoint.

    Args:
        name (str): A key of ``SOURCE_WEIGHTS``. Defaults to
            'segformer-b0_clear'.

    Returns:
        str: The path of a safetensors file.

    Raises:
        KeyError: If no such checkpoint ships.
        FileNotFoundError: If the installed package lacks the file.
    """
    if name not in SOURCE_WEIGHTS:
        raise KeyError(f'no StreetWorld checkpoint is called {name!r}; there '
                       f'is {", ".join(SOURCE_WEIGHTS)}')
    path = osp.join(osp.dirname(__file__), 'weights', SOURCE_WEIGHTS[name])
    if not osp.isfile(path):
        raise FileNotFoundError(
            f'{path} is missing from the installed package. Install mmext '
            'again, or train the model with tools/train.py '
            'configs/svdp/streetworld_source_segformer-b0.py.')
    return path


def load_source_weights(name: str = 'segformer-b0_clear') -> Dict[str, Any]:
    """Load a shipped checkpoint, in the form of a mmengine checkpoint.

    ``load_from='mmext://streetworld/segformer-b0_clear'`` in a config does
    the same.

    Args:
        name (str): A key of ``SOURCE_WEIGHTS``. Defaults to
            'segformer-b0_clear'.

    Returns:
        dict: ``state_dict`` (float32; stored as float16) and ``meta`` with
        ``dataset_meta`` and what the file says about its training.
    """
    from safetensors import safe_open
    state = {}
    with safe_open(source_weights_path(name), framework='pt') as file:
        about = dict(file.metadata() or {})
        for key in file.keys():
            tensor = file.get_tensor(key)
            if tensor.is_floating_point():
                tensor = tensor.float()
            state[key] = tensor
    about = {k: json.loads(v) for k, v in about.items()}
    meta = dict(
        dataset_meta=dict(classes=CLASSES, palette=[list(c) for c in PALETTE]),
        source=about)
    return dict(state_dict=state, meta=meta)
