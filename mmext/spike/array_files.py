# Copyright (c) mmext contributors. All rights reserved.
"""Arrays of .npy files without trust: headers checked, nothing unpickled."""
import os
import zipfile
import zlib
from contextlib import contextmanager
from tokenize import TokenError
from typing import BinaryIO, Iterator, List, Optional, Tuple

import numpy as np

from mmext.utils.user_error import BadFileError, ConfigError

# A cube above this is no window around a label but a damaged header.
MAX_BYTES = 1 << 33


def read_header(file: BinaryIO,
                name: str) -> Tuple[Tuple[int, ...], bool, np.dtype]:
    """Shape, order and kind of a .npy header."""
    try:
        version = np.lib.format.read_magic(file)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0
        }[version]
        shape, fortran, dtype = reader(file)
    except (ValueError, KeyError, EOFError, OSError, SyntaxError, TypeError,
            RecursionError, MemoryError, OverflowError, TokenError,
            zipfile.BadZipFile, zlib.error) as error:
        raise BadFileError(
            f'Expected a .npy array in {name}, but its header is damaged '
            f'({type(error).__name__}: {error}). Write the file again.'
        ) from error
    if dtype.hasobject:
        raise BadFileError(
            f'Expected numbers in {name}, but it holds pickled objects, '
            'which are never read. Save it as uint8.')
    return shape, fortran, dtype


def check_spike_array(name: str, shape, dtype: np.dtype, found: int) -> None:
    """A header may promise anything: compare it with the bytes there are."""
    if len(shape) != 3 or min(shape, default=0) < 1 or dtype.kind not in 'bui':
        raise BadFileError(
            f'Expected spikes (T, H, W) of integers in {name}, but found an '
            f'array {shape} of {dtype}.')
    expected = int(dtype.itemsize)
    for n in shape:
        expected *= int(n)
    if expected != found:
        kind = 'truncated' if found < expected else 'oversized'
        raise BadFileError(
            f'Expected {expected} bytes for {shape} of {dtype} in {name}, but '
            f'found {found}: it is {kind}. Write the file again.')


def map_npy(name: str) -> np.ndarray:
    """A .npy file of spikes as a memory map."""
    with open(name, 'rb') as file:
        shape, fortran, dtype = read_header(file, name)
        offset = file.tell()
    check_spike_array(name, shape, dtype, os.path.getsize(name) - offset)
    return np.memmap(
        name, dtype, 'r', offset, shape, order='F' if fortran else 'C')


def read_content(name: str, file: BinaryIO, shape, fortran: bool,
                 dtype: np.dtype) -> np.ndarray:
    """The array that follows a header, if it is not too large to hold."""
    expected = int(dtype.itemsize)
    for n in shape:
        expected *= int(n)
    if expected > MAX_BYTES:
        raise BadFileError(
            f'Expected at most {MAX_BYTES} bytes in {name}, but it holds '
            f'{expected}. Cut it, or store it as .dat.')
    data = file.read(expected)
    if len(data) != expected:
        raise BadFileError(f'Expected {expected} bytes of numbers in {name}, '
                           f'but found {len(data)}: it is truncated.')
    return np.frombuffer(data, dtype).reshape(
        shape, order='F' if fortran else 'C')


@contextmanager
def damage_reported(name: str) -> Iterator[None]:
    """Errors of a file that cannot be unpacked say what to do.

    Args:
        name (str): The file.

    Raises:
        BadFileError: For what zip files raise when they are damaged.
    """
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError,
            NotImplementedError, RuntimeError) as error:
        raise BadFileError(
            f'Cannot read {name}: it is truncated, damaged or no array file '
            f'({type(error).__name__}: {error}). Write the file again.'
        ) from error


def choose_array(name: str, archive: zipfile.ZipFile,
                 key: Optional[str]) -> str:
    """Name of the one array of an .npz file, or of the one asked for.

    Args:
        name (str): The file, for the message.
        archive (ZipFile): The file, open.
        key (str, optional): Array that was asked for.

    Raises:
        ConfigError: If there is no such array, or one must be asked for.
    """
    keys = array_names(archive)
    if key is None and len(keys) == 1:
        return keys[0]
    if key not in keys:
        raise ConfigError(
            f'Expected one array in {name}, or the name of one as key, but '
            f'got {key!r} and the file has {keys}.')
    return key


def array_names(archive: zipfile.ZipFile) -> List[str]:
    """Names of the arrays in an .npz file."""
    return [n[:-4] for n in archive.namelist() if n.endswith('.npy')]


def read_array(name: str, key: Optional[str] = None) -> np.ndarray:
    """An array of a .npy file, or one of a .npz file.

    Args:
        name (str): The file, which must exist.
        key (str, optional): Array of an .npz file, which is needed if it has
            several. Defaults to None.

    Raises:
        ConfigError: If there is no such array.
        BadFileError: If the file is damaged.
    """
    with damage_reported(name):
        if not name.lower().endswith('.npz'):
            with open(name, 'rb') as file:
                return read_content(name, file, *read_header(file, name))
        with zipfile.ZipFile(name) as archive:
            member = choose_array(name, archive, key)
            with archive.open(f'{member}.npy') as file:
                return read_content(name, file, *read_header(file, name))
