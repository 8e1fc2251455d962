# Copyright (c) mmext contributors. All rights reserved.
"""What a user is told when a data set is not where it should be."""
import os.path as osp
from dataclasses import dataclass
from typing import List, Sequence, Union

#: What to run instead, for a user who has none of the public data sets.
EMBEDDED_ALTERNATIVE = (
    'python tools/dataset_converters/streetworld.py --out data/streetworld\n'
    'python tools/train.py configs/svdp/streetworld.py')


@dataclass(frozen=True)
class DataHelp:
    """How a data set has to lie on the disk, and where it comes from.

    Args:
        layout (str): The expected folders, as a small tree.
        source (str): Where to get the data and how to prepare it.
        alternative (str): Commands that run the same job on data that can be
            made on the spot. Defaults to those of the embedded StreetWorld.
    """
    layout: str
    source: str
    alternative: str = EMBEDDED_ALTERNATIVE


def _indent(text: str) -> str:
    return '\n'.join('    ' + line for line in text.strip('\n').split('\n'))


def missing_data_error(name: str,
                       looked_for: Union[str, Sequence[str]],
                       data_help: DataHelp,
                       problem: str = 'is missing') -> FileNotFoundError:
    """Build (not raise) the error for a data set that cannot be read.

    Args:
        name (str): The data set, such as ``'ACDC'``.
        looked_for (str | Sequence[str]): Path or paths that were tried; shown
            as absolute paths.
        data_help (DataHelp): Expected layout, source and alternative.
        problem (str): What is wrong, continuing ``'The data set NAME'``.
            Defaults to ``'is missing'``.

    Returns:
        FileNotFoundError: The message says what is missing, where it was
        looked for, the expected layout, how to get it, and what to run
        without it.

    Example:
        >>> raise missing_data_error('ACDC', 'data/acdc/rgb_anon/fog/train',
        ...                          ACDCDataset.data_help)
    """
    paths: List[str] = [looked_for] if isinstance(looked_for, str) else \
        list(looked_for)
    where = '\n'.join(osp.abspath(osp.expanduser(p)) for p in paths)
    return FileNotFoundError(
        f'The data set {name} {problem}.\n'
        f'  Looked for:\n{_indent(where)}\n'
        f'  Expected layout:\n{_indent(data_help.layout)}\n'
        f'  How to get it:\n{_indent(data_help.source)}\n'
        f'  Without it, the embedded data run the same job:\n'
        f'{_indent(data_help.alternative)}')
