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


# What the tuner tries, as (RM, RN, LM, LN, KB), with a warp for 32 of LM x LN:
# the fastest of 550 choices on an H100, for linear layers and convolutions,
# and some for few rows or columns. All choices of a kernel that sums in a
# fixed order have the same KB, which is that order: tuning does not change
# results.
_TILES = dict(
    inf_forward=[(4, 8, 16, 8, 16), (8, 4, 16, 8, 16), (4, 8, 8, 8, 16),
                 (8, 4, 16, 8, 8), (4, 8, 16, 16, 8), (8, 4, 32, 8, 8),
                 (8, 8, 16, 4, 8), (4, 4, 16, 8, 8), (2, 4, 8, 8, 16),
                 (8, 2, 16, 8, 8), (16, 1, 16, 8, 8)],
    inf_bounds=[(2, 8, 16, 8, 8), (4, 8, 16, 8, 8), (4, 4, 16, 8, 8),
                (8, 4, 8, 8, 4), (4, 8, 8, 8, 4), (8, 4, 16, 8, 4),
                (8, 2, 16, 8, 4), (16, 1, 16, 8, 4)],
    power_forward=[(8, 4, 8, 8, 4), (4, 8, 8, 8, 4), (8, 4, 16, 8, 4),
                   (4, 8, 16, 8, 4), (4, 4, 16, 8, 4), (2, 4, 8, 8, 4),
                   (8, 2, 16, 8, 4), (16, 1, 16, 8, 4)],
    power_stable=[(4, 4, 16, 8, 8), (8, 4, 8, 8, 8), (4, 8, 16, 8, 8),
                  (4, 8, 8, 8, 8), (8, 4, 16, 8, 8), (2, 4, 8, 8, 8),
                  (8, 2, 16, 8, 8), (16, 1, 16, 8, 8)],
    power_backward=[(4, 4, 16, 8, 4), (8, 4, 8, 8, 4), (4, 8, 8, 8, 4),
                    (2, 8, 16, 8, 4), (4, 8, 16, 8, 4), (2, 4, 4, 32, 4),
                    (8, 2, 16, 8, 4), (16, 1, 16, 8, 4)],
    # atomic additions: there is no order to keep
    power_backward_fused=[(8, 2, 4, 32, 8), (8, 4, 4, 32, 8), (4, 4, 4, 32, 8),
                          (8, 2, 4, 32, 4), (16, 1, 4, 32, 4),
                          (16, 2, 4, 16, 4), (16, 2, 8, 16, 4),
                          (16, 1, 4, 32, 2), (16, 2, 4, 16, 2)])
_NAMES = ('RM', 'RN', 'LM', 'LN', 'KB')
CONFIGS: Dict[str, Tuple[Config, ...]] = {
    name: tuple(dict(zip(_NAMES, tile), STAGES=3) for tile in tiles)
    for name, tiles in _TILES.items()
}
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
    """Positions per block of ``inf_forward``: the most of its configs."""
    configs = (_INTERPRETED, ) if interpreted() else CONFIGS['inf_forward']
    return max(config['KB'] for config in configs)


def run_flat(name: str, tensors: Sequence[Optional[Tensor]], total: int,
             numbers: Sequence[int], **constants: int) -> None:
    """Launch a kernel with one thread per output."""
    with torch.cuda.device_of(tensors[0]):
        kernel(name)[(triton.cdiv(total, BLOCK), )](
            *tensors, total, *numbers, **constants, BLOCK=BLOCK)
