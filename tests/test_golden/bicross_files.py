# Copyright (c) mmext contributors. All rights reserved.
"""The recorded files of BiCross, for the modules beside test_bicross.py."""
import numpy as np
import pytest

from .recorded import folder

ROOT = folder('bicross')


def load(name):
    """Arrays of a file; the test is skipped if the set has no such file."""
    path = ROOT / f'{name}.npz'
    if not path.is_file():
        pytest.skip(f'{path} is not in this set')
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def cube(bits, shape):
    """A (T, H, W) cube that was packed with the most significant bit first."""
    return np.unpackbits(bits)[:int(np.prod(shape))].reshape(shape)
