# Copyright (c) mmext contributors. All rights reserved.
"""l-infinity-distance nets against numbers recorded from the authors' code.

The folder is ``$MMEXT_GOLDEN/lipschitz``. Sizes, exponents, radii, weights
of losses and the number of layers, members and schedules are read from the
files, so that another recording of the same format works too. The checks are
in ``lipschitz_operator.py``, ``lipschitz_networks.py``,
``lipschitz_ensembles.py`` and ``lipschitz_training.py``; each runs with every
backend of the operator that this machine has, in float64 and float32.
:func:`test_every_array_is_compared` fails on an array that no check asks for.
"""
import pytest

from . import (lipschitz_ensembles, lipschitz_networks, lipschitz_operator,
               lipschitz_training)
from .lipschitz_runs import CHECKS, RUNS, need
from .recorded import Recorded, folder

ROOT = folder('lipschitz')
FILES = sorted(path.stem for path in ROOT.glob('*.npz'))
pytestmark = pytest.mark.skipif(
    not FILES,
    reason=f'no golden numbers in {ROOT}; set MMEXT_GOLDEN to the folder '
    'that holds lipschitz/')
CASES = [
    pytest.param(
        file,
        function,
        run,
        marks=[pytest.mark.gpu] if run.device == 'cuda' else [],
        id=f'{file}-{function.__name__}-{run}') for file in FILES
    for function, runs in CHECKS[file] for run in runs
]


@pytest.mark.parametrize('file, function, run', CASES)
def test_recorded(file, function, run, monkeypatch):
    need(run, monkeypatch)
    function(Recorded(ROOT / f'{file}.npz', run.dtype, run.device), run)


@pytest.mark.stack_subset
@pytest.mark.parametrize('file', FILES)
def test_every_array_is_compared(file, monkeypatch):
    """A key that no check asks for would be a number nobody compares."""
    assert CHECKS[file], f'no check reads {file}.npz'
    need(RUNS[0], monkeypatch)
    data = Recorded(ROOT / f'{file}.npz')
    for function, _ in CHECKS[file]:
        function(data, RUNS[0])
    assert not data.unused
