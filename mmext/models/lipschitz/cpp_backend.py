# Copyright (c) mmext contributors. All rights reserved.
"""The distance operator in C++ for CPUs."""
from typing import Optional

from torch import Tensor


def unavailable(x: Tensor) -> Optional[str]:
    """Why this backend cannot serve a tensor."""
    return 'its kernel is not there yet.'
