# Copyright (c) mmext contributors. All rights reserved.
"""Tiles of the distance operator's Triton kernels, and their launch."""
import functools
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
import triton
from torch import Tensor

from . import triton_kernels, triton_power_kernels

# Tiles are tried that compute at most this many times what the best must.
WASTE = 1.25

# Outputs per program of the kernels without a tile.
BLOCK = 256

# One tile for everything: the interpreter pays per operation.
_INTERPRETED = dict(RM=4, RN=4, LM=8, LN=8, KB=8, STAGES=1)
Config = Dict[str, int]


def interpreted() -> bool:
    """Whether the kernels were defined for Triton's interpreter."""
    return not isinstance(triton_kernels.inf_forward, triton.JITFunction)


def _configs(*tiles: Sequence[int], kb: int,
             stages: Sequence[int]) -> Tuple[Config, ...]:
    """Choices for the tuner: (RM, RN, LM, LN), a warp for 32 of LM x LN.

    All choices of a kernel that sums have the same KB, which fixes the order
    of the sums: tuning does not change results.
    """
    return tuple(
        dict(RM=rm, RN=rn, LM=lm, LN=ln, KB=kb, STAGES=s)
        for rm, rn, lm, ln in tiles for s in stages)


_WIDE = ((4, 8, 16, 8), (8, 4, 16, 8), (8, 4, 16, 16), (4, 4, 16, 8))
_NARROW = ((8, 2, 16, 8), (16, 1, 16, 8))
_FEW_ROWS = ((2, 4, 4, 32), )
CONFIGS: Dict[str, Tuple[Config, ...]] = dict(
    inf_forward=_configs(*_WIDE, (8, 8, 16, 8), *_NARROW, kb=8, stages=(3, )),
    inf_bounds=_configs(*_WIDE, *_NARROW, kb=4, stages=(3, )),
    power_forward=_configs(*_WIDE, *_NARROW, kb=4, stages=(3, )),
    power_stable=_configs(*_WIDE, *_NARROW, kb=4, stages=(3, )),
    power_backward=_configs(*_WIDE, *_NARROW, *_FEW_ROWS, kb=4, stages=(3, )),
    power_backward_fused=_configs((8, 4, 4, 32), (16, 2, 4, 32), (8, 2, 4, 32),
                                  (16, 1, 8, 16),
                                  kb=4,
                                  stages=(3, )))
_KEY = dict(
    inf_forward=['bucket', 'N', 'K', 'CONV', 'NEED_BLOCK'],
    inf_bounds=['bucket', 'N', 'K', 'CONV'],
    power_forward=['bucket', 'N', 'K', 'CONV', 'POW'],
    power_stable=['bucket', 'N', 'K', 'CONV', 'POW'],
    power_backward=['bucket', 'N', 'Q', 'MODE', 'POW'],
    power_backward_fused=['bucket', 'N', 'Q', 'MODE', 'POW'])
_ADDED_TO = dict(power_backward_fused=['result', 'stream_grad'])


def _warps(config: Config) -> int:
    """Warps of 32 threads that a tile's lanes make."""
    return config['LM'] * config['LN'] // 32


def kernel(name: str) -> Any:
    """A kernel of one of the two files."""
    module = triton_kernels if name.startswith(
        'inf') and name != 'inf_bounds' else triton_power_kernels
    return getattr(module, name)


@functools.lru_cache(maxsize=None)
def _tuned(name: str) -> Any:
    """A kernel that tries its configs once per shape."""
    choices = [
        triton.Config(
            config, num_warps=_warps(config), num_stages=config['STAGES'])
        for config in CONFIGS[name]
    ]
    return triton.autotune(
        choices,
        _KEY[name],
        # What is added to has to be empty before each trial.
        reset_to_zero=_ADDED_TO.get(name),
        prune_configs_by=dict(early_config_prune=_prune))(
            kernel(name))


def _prune(configs: Sequence[Any], sizes: Dict[str, Any],
           **kwargs) -> List[Any]:
    """Leave out tiles that would compute much outside of the result."""
    rows, columns = sizes.get('M', sizes.get('R')), sizes['N']

    def cells(config: Any) -> int:
        tile = config.kwargs
        height, width = tile['RM'] * tile['LM'], tile['RN'] * tile['LN']
        return triton.cdiv(rows, height) * height * triton.cdiv(
            columns, width) * width

    least = min(map(cells, configs))
    return [c for c in configs if cells(c) <= WASTE * least]


def run(name: str,
        tensors: Sequence[Optional[Tensor]],
        numbers: Sequence[float],
        rows: int,
        columns: int,
        rest: Sequence[int],
        tune: bool = True,
        **constants: int) -> None:
    """Launch a tiled kernel over [rows, columns] and further grid axes."""

    def grid(meta: Dict[str, int]) -> Tuple[int, ...]:
        tiles = (
            triton.cdiv(rows, meta['RM'] * meta['LM']) *
            triton.cdiv(columns, meta['RN'] * meta['LN']))
        return (tiles, *rest)

    # The tuner tells batches apart by powers of two only.
    arguments = (*tensors, *numbers, triton.next_power_of_2(rows))
    constants['FAST'] = not interpreted() and torch.version.hip is None
    with torch.cuda.device_of(tensors[0]):
        if tune and not interpreted():
            _tuned(name)[grid](*arguments, **constants)
            return
        config = _INTERPRETED if interpreted() else CONFIGS[name][0]
        kernel(name)[grid](
            *arguments, **constants, **config, num_warps=_warps(config))


def block() -> int:
    """Positions per block of ``inf_forward``, whichever config it has."""
    config = _INTERPRETED if interpreted() else CONFIGS['inf_forward'][0]
    return config['KB']


def run_flat(name: str, tensors: Sequence[Optional[Tensor]], total: int,
             numbers: Sequence[int], **constants: int) -> None:
    """Launch a kernel with one thread per output."""
    with torch.cuda.device_of(tensors[0]):
        kernel(name)[(triton.cdiv(total, BLOCK), )](
            *tensors, total, *numbers, **constants, BLOCK=BLOCK)
