# Copyright (c) mmext contributors. All rights reserved.
"""The few globals that a mmengine checkpoint needs, and nothing more."""
import pickle
from typing import Any

# Pickled arrays hold plain numbers or text; dtypes with object fields are
# left out because their raw bytes would be read as pointers.
_DTYPES = '?bhilqpBHILQPefdgFDGSU'


def _history_buffer_attribute(owner: Any, name: str) -> Any:
    """Stand in for ``getattr`` while a checkpoint is read.

    A ``HistoryBuffer`` pickles its statistics as ``getattr(HistoryBuffer,
    'mean')``. Allowing ``getattr`` itself would open every attribute of every
    allowed object, so only this use of it is served.
    """
    from mmengine.logging.history_buffer import HistoryBuffer
    if (owner is HistoryBuffer and isinstance(name, str)
            and not name.startswith('_') and name in vars(HistoryBuffer)):
        return vars(HistoryBuffer)[name]
    raise pickle.UnpicklingError(
        'Unsupported global: GLOBAL builtins.getattr was used for something '
        'else than a statistic of mmengine.logging.HistoryBuffer')


def _numpy_reconstruct(subtype: type, shape: tuple, typecode: bytes) -> Any:
    """Stand in for numpy's ``_reconstruct``: plain arrays only."""
    import numpy as np
    if subtype is not np.ndarray:
        raise pickle.UnpicklingError(
            f'Unsupported global: GLOBAL {subtype!r} as a numpy array class')
    return np.ndarray.__new__(np.ndarray, shape, typecode)


def _numpy_scalar(dtype: Any, data: bytes = b'') -> Any:
    """Stand in for numpy's ``scalar``: numbers and text only."""
    import numpy as np
    if not isinstance(dtype, np.dtype) or dtype.hasobject \
            or not isinstance(data, bytes):
        raise pickle.UnpicklingError(
            f'Unsupported global: GLOBAL numpy scalar of type {dtype!r}')
    return np.frombuffer(data, dtype=dtype, count=1)[0]


def install_safe_globals() -> None:
    """Let ``torch.load(weights_only=True)`` read mmengine checkpoints.

    Without it, torch refuses the checkpoints that mmengine 0.10.7 writes
    (``Unsupported global: HistoryBuffer``), and OneDL's mmengine falls back
    to the unsafe pickle. Numpy's functions are registered under the module
    names of numpy 1 and numpy 2, so files of either load under either.
    Calling it again changes nothing. It needs neither mmengine nor a host;
    without mmengine only numpy's names are added.
    """
    from importlib.util import find_spec

    import numpy as np
    import torch
    allowed = [
        np.ndarray, np.dtype, slice,
        *{type(np.dtype(code))
          for code in _DTYPES}
    ]
    for module in ('numpy._core.multiarray', 'numpy.core.multiarray'):
        allowed.append((_numpy_reconstruct, f'{module}._reconstruct'))
        allowed.append((_numpy_scalar, f'{module}.scalar'))
    if find_spec('mmengine') is not None:
        from mmengine.logging.history_buffer import HistoryBuffer
        allowed.append(HistoryBuffer)
        allowed.append((_history_buffer_attribute, 'builtins.getattr'))
    torch.serialization.add_safe_globals(allowed)
