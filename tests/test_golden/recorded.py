# Copyright (c) mmext contributors. All rights reserved.
"""Reading recorded arrays: from where, which were compared, how closely."""
import math
import os
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set, Tuple

import numpy as np
import torch
from torch import Tensor


def number(text: str) -> float:
    """A number as key names spell it: '9_5' is 9.5, 'inf' infinity."""
    return math.inf if text == 'inf' else float(text.replace('_', '.'))


def folder(method: str) -> Path:
    """Where the files of a method are expected; it need not be there."""
    default = Path(__file__).parents[2].parent / 'shared' / 'golden'
    return Path(os.environ.get('MMEXT_GOLDEN', default)) / method


class Recorded:
    """The arrays of one file, and which of them were asked for.

    Args:
        path (Path): The ``.npz`` file.
        dtype (torch.dtype): Of what :meth:`__getitem__` returns for floats.
        device (str): And its device.
    """

    def __init__(self, path: Path, dtype: torch.dtype = torch.float64,
                 device: str = 'cpu') -> None:
        with np.load(path) as file:
            self.arrays: Dict[str, np.ndarray] = {
                key: file[key]
                for key in file.files
            }
        self.dtype, self.device = dtype, device
        self.used: Set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def raw(self, key: str) -> np.ndarray:
        """As stored."""
        self.used.add(key)
        return self.arrays[key]

    def number(self, key: str) -> float:
        """A scalar of any kind."""
        return self.raw(key).item()

    def __getitem__(self, key: str) -> Tensor:
        """Inputs in the run's precision, on its device."""
        value = torch.from_numpy(np.ascontiguousarray(self.raw(key)))
        if value.is_floating_point():
            value = value.to(self.dtype)
        return value.to(self.device)

    def match(self, pattern: str) -> Iterator[Tuple[Any, ...]]:
        """Keys that match wholly, with their groups: (key, group, ...)."""
        for key in self.arrays:
            found = re.fullmatch(pattern, key)
            if found:
                yield (key, *found.groups())

    def count(self, pattern: str) -> int:
        """How many keys match wholly."""
        return len(list(self.match(pattern)))

    @property
    def unused(self) -> List[str]:
        """Keys that nobody asked for."""
        return sorted(set(self.arrays) - self.used)

    def close(self, actual: Any, key: str, rtol: float = 0.,
              minus: Any = None) -> None:
        """Compare with a recorded array in float64.

        The absolute tolerance is 1e-9 (float64) or 2e-5 (float32), but at
        most a tenth of the scale of what is expected, so that small values
        are compared, too.

        Args:
            actual (Tensor | float): What our code gives.
            key (str): The array.
            rtol (float): Relative tolerance if larger than the usual one.
            minus (Tensor, optional): Compare the changes from here.
        """
        expected = torch.from_numpy(
            np.asarray(self.raw(key), dtype=np.float64))
        self.near(actual, expected, rtol, minus, key)

    def near(self, actual: Any, expected: Tensor, rtol: float = 0.,
             minus: Any = None, name: str = '') -> None:
        """As :meth:`close`, with a part of an array."""
        actual, expected = _double(actual), _double(expected)
        assert tuple(actual.shape) == tuple(expected.shape), name
        if minus is not None:
            minus = _double(minus)
            actual, expected = actual - minus, expected - minus
        usual = 1e-9 if self.dtype == torch.float64 else 2e-5
        scale = float(expected.abs().max()) if expected.numel() else 0.
        atol = min(usual, 0.1 * scale) if scale else usual
        error = (actual - expected).abs()
        limit = atol + max(usual, rtol) * expected.abs()
        assert bool((error <= limit).all()), \
            f'{name}: {float((error - limit).max()):.3g} above the tolerance'

    def equal(self, actual: Any, key: str) -> None:
        """Decisions and whole numbers agree exactly."""
        expected = self.raw(key)
        actual = torch.as_tensor(actual).detach().cpu().numpy()
        assert actual.shape == expected.shape, key
        assert np.array_equal(actual, expected), key


def _double(value: Any) -> Tensor:
    if not isinstance(value, Tensor):  # a list would become float32
        value = torch.from_numpy(np.asarray(value, dtype=np.float64))
    return value.detach().cpu().double()
