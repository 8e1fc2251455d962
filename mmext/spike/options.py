# Copyright (c) mmext contributors. All rights reserved.
"""Options of readers, checked before there is a file to read."""
import inspect
from typing import Any, Mapping

from mmext.utils.arguments import as_switch, check_names
from .arrays import check_bit_order, frame_size
from .files import open_spikes


def check_options(options: Mapping[str, Any], where: str) -> None:
    """Refuse what :func:`~mmext.spike.open_spikes` does not take.

    Args:
        options (Mapping[str, Any]): Its keyword arguments, but the path.
        where (str): What they were given to, for the message.

    Raises:
        ConfigError: If a name is unknown, or a size, bit order or switch
            wrong.
    """
    known = list(inspect.signature(open_spikes).parameters)[1:]
    check_names(options, known, f'mmext.spike.open_spikes, in {where},')
    for name in ('flipud', 'repair', 'check'):
        if options.get(name) is not None:
            as_switch(f'{name} in {where}', options[name])
    if options.get('size') is not None:
        frame_size(options['size'])
    check_bit_order(options.get('bitorder', 'little'))
