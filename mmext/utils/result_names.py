# Copyright (c) mmext contributors. All rights reserved.
"""Names of results of files and arrays, no two the same."""
import os
import os.path as osp
from typing import Any, Dict, List, Optional, Sequence, Set

import numpy as np

from .user_error import ConfigError


def result_names(inputs: Sequence[Any],
                 what: str = 'recordings',
                 array: str = 'array') -> List[str]:
    """What inputs are called in results: no two of them the same.

    A file has its name without the suffix, and an array its number. Files
    that share a name get the folders where they part, and the suffix if
    they are in one folder: ``a_left`` and ``b_left``, ``x_dat`` and
    ``x_npz``.

    Args:
        inputs (Sequence): Paths and arrays.
        what (str): What they are, for the message. Defaults to
            ``'recordings'``.
        array (str): What stands before the number of an array. Defaults to
            ``'array'``.

    Returns:
        list[str]: A name each; a file that comes twice keeps one.

    Raises:
        ConfigError: If two of them still have the same name.
    """
    files = [
        None if isinstance(one, np.ndarray) else osp.abspath(one)
        for one in inputs
    ]
    stems = [
        osp.splitext(osp.basename(path))[0] if path else f'{array}{index}'
        for index, path in enumerate(files)
    ]
    apart: Dict[str, str] = {}
    for name in set(stems):
        group = {path for path, stem in zip(files, stems) if stem == name}
        if len(group) > 1:
            apart.update(_names_apart(group - {None}))
    names = [apart.get(path, stem) for path, stem in zip(files, stems)]
    owners: Dict[str, Optional[str]] = {}
    for name, path in zip(names, files):
        other = owners.setdefault(name, path)
        if other != path:
            raise ConfigError(
                f'Expected {what} with different names, but the results '
                f'of {other or "an array"} and {path or "an array"} would '
                f'both be called {name}. Rename one, or run them apart.')
    return names


def _names_apart(paths: Set[str]) -> Dict[str, str]:
    """Names of files with the same stem, by path."""
    root = osp.commonpath([osp.dirname(path) for path in paths])
    parts = {path: osp.splitext(osp.relpath(path, root)) for path in paths}
    stems = {stem for stem, _ in parts.values()}
    # A single file has the name of an array.
    suffix = len(stems) < max(len(paths), 2)
    return {
        path: (stem + end.replace('.', '_') * suffix).replace(os.sep, '_')
        for path, (stem, end) in parts.items()
    }
