# Copyright (c) mmext contributors. All rights reserved.
"""Spike cubes as bits, as signed values, and repaired."""
from typing import Any, Tuple

import numpy as np

from mmext.utils.arguments import is_count
from mmext.utils.user_error import ConfigError

BIT_ORDERS = ('little', 'big')


def check_cube(spikes: np.ndarray) -> np.ndarray:
    """Refuse what is no (T, H, W) cube of numbers; returns it."""
    spikes = np.asarray(spikes)
    if spikes.ndim != 3 or spikes.dtype.kind not in 'buif':
        raise ConfigError(
            'Expected spikes of shape (T, H, W), but got an array '
            f'{spikes.shape} of {spikes.dtype}. Time is the first axis.')
    return spikes


def frame_size(size: Any) -> Tuple[int, int]:
    """Height and width, if they are two positive whole numbers.

    Args:
        size (Any): What was given as a size.

    Raises:
        ConfigError: If it is none.
    """
    sides = tuple(size) if np.ndim(size) == 1 else ()
    if len(sides) != 2 or not all(map(is_count, sides)):
        raise ConfigError(
            'Expected the height and width of pictures, two positive whole '
            f'numbers such as size=(250, 400), but got {size!r}.')
    return int(sides[0]), int(sides[1])


def check_bit_order(bitorder: str, name: str = '.dat') -> None:
    """Refuse unknown orders of bits, and one for a file without bits.

    Args:
        bitorder (str): 'little' or 'big'.
        name (str): The file. Defaults to '.dat'.
    """
    if bitorder not in BIT_ORDERS:
        raise ConfigError(f'Expected a bit order of {BIT_ORDERS}, but got '
                          f'{bitorder!r}.')
    if bitorder != 'little' and not name.lower().endswith('.dat'):
        raise ConfigError(
            f'Expected no bit order for {name}, but got {bitorder!r}: it is '
            'for .dat files, the others know their pixels. Leave it at '
            "'little'; repair=True reads the .npy cubes of Respike.")


def as_bits(spikes: np.ndarray, where: str = '') -> np.ndarray:
    """Spikes as booleans, without a copy where that is possible.

    Args:
        spikes (np.ndarray): (T, H, W) of 0 and 1.
        where (str): What they are for, for the message. Defaults to ''.

    Returns:
        np.ndarray: (T, H, W) bool.

    Raises:
        ConfigError: If there is another value than 0 and 1.
    """
    spikes = check_cube(spikes)
    kind = spikes.dtype.kind
    if kind == 'b':
        return spikes
    # Not below 0 needs no pass over unsigned integers.
    good = spikes.max(initial=0) <= 1 and (kind == 'u'
                                           or spikes.min(initial=0) >= 0)
    if good and spikes.dtype.itemsize == 1:
        return spikes.view(bool)
    bits = spikes.astype(bool)
    if not good or (kind == 'f' and (spikes != bits).any()):
        low, high = spikes.min(), spikes.max()
        raise ConfigError(
            f'Expected spikes of 0 and 1{where}, but got values from {low} to '
            f'{high} of {spikes.dtype}. Pass the spikes themselves: '
            'spikes > 0 undoes to_signed(), and a threshold makes spikes of '
            'rates or grey levels.')
    return bits


def pack_frames(spikes: np.ndarray,
                bitorder: str = 'little',
                flipud: bool = False) -> np.ndarray:
    """Bits of every tick, pixels left to right and rows top to bottom.

    Args:
        spikes (np.ndarray): (T, H, W) of 0 and 1; ``H W`` must be a multiple
            of 8.
        bitorder (str): 'little' puts pixel ``p`` into bit ``p mod 8`` of its
            byte, as spike cameras do; 'big' into bit ``7 - p mod 8``.
            Defaults to 'little'.
        flipud (bool): Store rows bottom to top. Defaults to False.

    Returns:
        np.ndarray: (T, H W / 8) uint8.

    Raises:
        ConfigError: If there is another value than 0 and 1, or a tick has
            no whole bytes.
    """
    spikes = as_bits(spikes)
    check_bit_order(bitorder)
    ticks, height, width = spikes.shape
    if height * width % 8:
        raise ConfigError(
            f'Expected H * W to be a multiple of 8, but got {height} x '
            f'{width}. Crop the pictures, or save .npy, which has no bits.')
    if flipud:
        spikes = spikes[:, ::-1]
    flat = spikes.reshape(ticks, -1)
    return np.packbits(flat, 1, bitorder=bitorder)


def unpack_frames(data: np.ndarray,
                  shape: Tuple[int, int],
                  bitorder: str = 'little',
                  flipud: bool = False) -> np.ndarray:
    """The inverse of :func:`pack_frames`.

    Args:
        data (np.ndarray): (T, H W / 8) uint8.
        shape (tuple[int, int]): Height and width.
        bitorder (str): 'little' or 'big'. Defaults to 'little'.
        flipud (bool): The rows were stored bottom to top.
            Defaults to False.

    Returns:
        np.ndarray: (T, H, W) uint8 of 0 and 1.
    """
    check_bit_order(bitorder)
    spikes = np.unpackbits(data, 1, bitorder=bitorder)
    spikes = spikes.reshape(len(data), *shape)
    return spikes[:, ::-1] if flipud else spikes


def repair_big_endian(spikes: np.ndarray) -> np.ndarray:
    """Undo decoding with the most significant bit first and no flip.

    The .npy cubes of Respike (PKU-Spike-Stereo) were made that way. Rows are
    flipped and every group of 8 columns is reversed, which equals decoding
    the camera's bytes correctly. Never apply it to simulated spikes.

    Args:
        spikes (np.ndarray): (T, H, W); W must be a multiple of 8.

    Returns:
        np.ndarray: The upright cube.
    """
    spikes = check_cube(spikes)
    ticks, height, width = spikes.shape
    if width % 8:
        raise ConfigError('Expected a width that is a multiple of 8, but got '
                          f'{width}. Read the .dat file instead.')
    groups = spikes.reshape(ticks, height, width // 8, 8)
    return groups[:, ::-1, :, ::-1].reshape(ticks, height, width)


def to_signed(spikes: np.ndarray, dtype=np.float32) -> np.ndarray:
    """``2 S - 1``: what the networks read, -1 and +1 exactly.

    Args:
        spikes (np.ndarray): Spikes of 0 and 1.
        dtype: Of the result. Defaults to np.float32.

    Returns:
        np.ndarray: The same shape.
    """
    return spikes.astype(dtype) * dtype(2) - dtype(1)
