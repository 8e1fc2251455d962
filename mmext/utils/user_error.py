# Copyright (c) mmext contributors. All rights reserved.
"""The error of a mistake that the user of a tool can cure."""
import errno
import os
import sys
from typing import Any, Callable

# What the launchers call the rank of a process, in this order.
_RANK_NAMES = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')

# A place on the disk is not fit for what was asked; no fault of the program.
_PLACES = (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENOTDIR,
           errno.EEXIST)


class UserError(Exception):
    """A mistake in a command or config, with what to do about it.

    The tools print its message without a traceback and end with
    :attr:`exit_code`. Its text says what was expected, what was given and
    what to do.
    """

    exit_code = 2


class ConfigError(UserError, ValueError):
    """A setting, or a checkpoint for it, with which a run cannot work."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that a run needs is not there."""


class BadFileError(UserError, ValueError):
    """A data file that is damaged, or not what its reader expects."""


def run_tool(main: Callable[[], Any]) -> None:
    """Run the ``main`` of a tool; a :class:`UserError` becomes a message.

    So does an ``OSError`` of a named file or folder that may not be written
    or read, is on a full disk or where something else is already.
    The message goes to stderr, once for all processes of a distributed run,
    and the exit code is ``UserError.exit_code``. Every other exception keeps
    its traceback.

    Args:
        main (Callable): The tool's entry point, without arguments. An
            integer that it returns is the exit code.
    """
    try:
        code = main()
    except UserError as error:
        code = _tell(str(error), error.exit_code)
    except OSError as error:
        if error.filename is None or error.errno not in _PLACES:
            raise
        code = _tell(f'{error.filename}: {error.strerror}. Give another place '
                     'to read from or write to, or free this one.')
    sys.exit(code if isinstance(code, int) else 0)


def _tell(message: str, code: int = UserError.exit_code) -> int:
    rank = next(
        (os.environ[name] for name in _RANK_NAMES if name in os.environ), '0')
    if rank == '0':
        sys.stderr.write(f'Error: {message}\n')
    return code
