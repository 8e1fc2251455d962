# Copyright (c) mmext contributors. All rights reserved.
"""The recorded files of MoSA, for test_mosa.py and the modules beside it."""
import json

import numpy as np
import pytest
import torch

from .recorded import folder

ROOT = folder('mosa')
FILES = sorted(ROOT.glob('*.npz'))
# To this a second implementation reproduced the recordings.
ROUNDING = 2e-14


class Arrays(dict):
    """The arrays of one file; remembers which of them were read."""

    def __init__(self, path):
        with np.load(path) as file:
            super().__init__((k, torch.from_numpy(np.asarray(file[k])))
                             for k in file.files if file[k].dtype.kind != 'U')
        self.used = set()

    def __getitem__(self, key):
        self.used.add(key)
        return super().__getitem__(key)

    @property
    def unused(self):
        return sorted(set(self) - self.used)


def metas():
    found = {}
    for path in FILES:
        with np.load(path) as file:
            if 'meta_json' in file:
                found[path.stem] = json.loads(str(file['meta_json']))
    return found


METAS = metas()
TRAJECTORIES = [name for name, meta in METAS.items() if 'T' in meta]
SCENARIOS = [name for name in METAS if name not in TRAJECTORIES]
CACHE = {}


def arrays(name):
    if name not in CACHE:
        CACHE[name] = Arrays(ROOT / f'{name}.npz')
    return CACHE[name]


def entries(data, prefix):
    """Recorded tensors below a prefix, by (block, layer, kind)."""
    for key in data:
        if key.startswith(f'{prefix}/layers.') or \
                key.startswith(f'{prefix}/stages.'):
            _, block, tail = key.split('/')
            part, kind = tail.rsplit('.', 1)
            yield (block, part, kind), data[key]


def close(actual, expected, tolerance=1e-9):
    """Within 1e-9, and within a tenth of the expected values' scale.

    What is smaller than the recordings' own rounding, such as the divergence
    of two passes that drew the same modules, is compared with zero.
    """
    expected = expected.double()
    scale = float(expected.abs().max()) if expected.numel() else 0.
    limit = max(min(tolerance, 0.1 * scale), ROUNDING) if scale else tolerance
    assert tuple(actual.shape) == tuple(expected.shape)
    error = (actual.detach().double() - expected).abs().max()
    assert float(error) <= limit


def needs(file):
    return pytest.mark.skipif(
        not (ROOT / file).is_file(), reason=f'no {file} in {ROOT}')
