# Copyright (c) mmext contributors. All rights reserved.
"""With what the checks of recorded distance nets run, and their list."""
from collections import defaultdict
from typing import Callable, Dict, List, NamedTuple

import pytest
import torch

from mmext.models.lipschitz.functional import BACKEND_VARIABLE, find_backend
from mmext.utils.user_error import ConfigError

F64, F32 = torch.float64, torch.float32
#: Constants of the format, as its description lists them.
LAMBDA, EMA_DECAY, PGD_STEPS, PGD_EPS_INDEX = (0.1, 5e-4), 0.99, 10, 1


class Run(NamedTuple):
    """With which kernel, where and in which precision a check runs."""
    backend: str
    device: str
    dtype: torch.dtype

    def __str__(self) -> str:
        return f'{self.backend}-{self.device}-{str(self.dtype)[6:]}'


RUNS = [Run(b, 'cpu', d) for b in ('reference', 'cpp') for d in (F64, F32)]
if torch.cuda.is_available():
    RUNS += [Run('reference', 'cuda', F64), Run('triton', 'cuda', F32)]
PLAIN = [Run('reference', 'cpu', d) for d in (F64, F32)]

CHECKS: Dict[str, List[tuple]] = defaultdict(list)


def check(file: str, runs: List[Run] = RUNS) -> Callable:
    """Register a function of one file's arrays."""

    def add(function: Callable) -> Callable:
        CHECKS[file].append((function, runs))
        return function

    return add


def need(run: Run, monkeypatch) -> None:
    """Make layers use the backend, or skip where it cannot be built."""
    try:
        find_backend(run.backend,
                     torch.zeros(1, dtype=run.dtype, device=run.device))
    except ConfigError as error:
        pytest.skip(str(error))
    monkeypatch.setenv(BACKEND_VARIABLE, run.backend)
