# Copyright (c) mmext contributors. All rights reserved.
"""Taking and putting back the state of every global random generator."""
import random
from typing import Any, Dict, Mapping, Optional

import numpy as np
import torch

RNGState = Dict[str, Any]


def get_rng_state(
        generators: Optional[Mapping[str,
                                     torch.Generator]] = None) -> RNGState:
    """State of the generators of python, numpy, torch and CUDA.

    It holds plain numbers and tensors only, so it can be saved and read
    under ``weights_only=True``.

    Args:
        generators (Mapping[str, torch.Generator], optional): More generators
            to include, by name. Defaults to None.

    Returns:
        dict: To be given to :func:`set_rng_state`.
    """
    version, python, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return dict(
        python=dict(version=version, keys=list(python), gauss=gauss),
        numpy=dict(
            kind=kind,
            keys=torch.from_numpy(keys.astype(np.int64)),
            position=int(position),
            has_gauss=int(has_gauss),
            cached=float(cached)),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all()
        if torch.cuda.is_available() else [],
        generators={
            name: generator.get_state()
            for name, generator in (generators or {}).items()
        })


def set_rng_state(
        state: RNGState,
        generators: Optional[Mapping[str, torch.Generator]] = None) -> None:
    """Put back what :func:`get_rng_state` returned.

    Args:
        state (dict): The state.
        generators (Mapping[str, torch.Generator], optional): The generators
            to set, by name; names that ``state`` lacks keep their state.
            Defaults to None.
    """
    python, numpy = state['python'], state['numpy']
    random.setstate(
        (python['version'], tuple(python['keys']), python['gauss']))
    np.random.set_state(
        (numpy['kind'], numpy['keys'].cpu().numpy().astype(np.uint32),
         numpy['position'], numpy['has_gauss'], numpy['cached']))
    torch.set_rng_state(state['torch'].cpu())
    if torch.cuda.is_available():
        for device, value in enumerate(
                state['cuda'][:torch.cuda.device_count()]):
            torch.cuda.set_rng_state(value.cpu(), device)
    for name, generator in (generators or {}).items():
        if name in state['generators']:
            generator.set_state(state['generators'][name].cpu())
