# Copyright (c) mmext contributors. All rights reserved.
"""Pictures from spikes: texture from playback and texture from interval.

Both estimate the spikes per tick of every pixel, ``eta I / theta``, from 0
to 1. Multiply by ``theta / eta`` for light.
"""
from typing import Dict, Optional, Tuple

import numpy as np

from mmext.utils.user_error import ConfigError
from .arrays import check_cube

_NEVER = np.iinfo(np.int32).max


def to_uint8(rate: np.ndarray, truncate: bool = False) -> np.ndarray:
    """Grey levels of a reconstruction.

    Args:
        rate (np.ndarray): float32 from 0 to 1.
        truncate (bool): Cut decimals off, as SpikeCV does, instead of
            rounding. Defaults to False.

    Returns:
        np.ndarray: uint8.
    """
    levels = np.clip(rate * np.float32(255), 0, 255)
    return (levels if truncate else np.rint(levels)).astype(np.uint8)


def picture_errors(picture: np.ndarray,
                   light: np.ndarray,
                   mask: Optional[np.ndarray] = None) -> Dict[str, float]:
    """Differences of a rebuilt picture from the light.

    Args:
        picture (np.ndarray): (H, W) from 0 to 1.
        light (np.ndarray): (H, W) from 0 to 1.
        mask (np.ndarray, optional): (H, W) of bool, the pixels to compare.
            Defaults to None, all.

    Returns:
        dict[str, float]: ``mae``, the mean absolute difference, and ``psnr``
        in dB of a peak of 1, at most 100.

    Raises:
        ConfigError: If there is no pixel to compare.
    """
    difference = picture.astype(np.float64) - light
    if mask is not None:
        difference = difference[mask]
    if not difference.size:
        raise ConfigError('Expected pixels to compare, but there are none. '
                          'Check the mask.')
    mse = float((difference**2).mean())
    return dict(
        mae=float(np.abs(difference).mean()),
        psnr=float(-10 * np.log10(max(mse, 1e-10))))


def _check_key(spikes: np.ndarray, key: int, half: int) -> None:
    ticks = len(spikes)
    if half < 1 or not 0 <= key < ticks:
        raise ConfigError(
            f'Expected a half window of at least 1 and a key tick from 0 to '
            f'{ticks - 1}, but got {half} and {key}.')


def playback(spikes: np.ndarray, key: int, half_window: int) -> np.ndarray:
    """Mean of the spikes around a tick (texture from playback).

    .. math:: \\frac{1}{2 w + 1} \\sum_{n = k - w}^{k + w} S_n

    For constant light it errs by at most ``1 / (2 w + 1)``.

    Args:
        spikes (np.ndarray): (T, H, W) of 0 and 1.
        key (int): Tick ``k``.
        half_window (int): Ticks ``w`` before and after it.

    Returns:
        np.ndarray: (H, W) float32 from 0 to 1.

    Raises:
        ConfigError: If the window does not lie within the spikes.
    """
    spikes = check_cube(spikes)
    _check_key(spikes, key, half_window)
    begin, end = key - half_window, key + half_window + 1
    if begin < 0 or end > len(spikes):
        raise ConfigError(
            f'Expected ticks {begin} to {end - 1} around the key tick {key}, '
            f'but there are {len(spikes)} ticks. Take a smaller half window '
            f'than {half_window}, or a key nearer to the middle.')
    count = spikes[begin:end].sum(0, dtype=np.float32)
    return count / np.float32(end - begin)


def playback_all(spikes: np.ndarray, half_window: int) -> np.ndarray:
    """:func:`playback` at every tick with a full window.

    Args:
        spikes (np.ndarray): (T, H, W) of 0 and 1.
        half_window (int): Ticks ``w`` before and after.

    Returns:
        np.ndarray: (T - 2 w, H, W) float32 from 0 to 1.
    """
    spikes = check_cube(spikes)
    length = 2 * half_window + 1
    _check_length(spikes, length, half_window)
    out = np.empty((len(spikes) - length + 1, *spikes.shape[1:]), np.float32)
    count = spikes[:length].sum(0, dtype=np.int32)
    for tick in range(len(out)):
        if tick:
            count += spikes[tick + length - 1]
            count -= spikes[tick - 1]
        np.divide(count, np.float32(length), out=out[tick], dtype=np.float32)
    return out


def _check_length(spikes: np.ndarray, length: int, half: int) -> None:
    if half < 1 or len(spikes) < length:
        raise ConfigError(
            f'Expected a half window of at least 1 and at least {length} '
            f'ticks for it, but got {half} and {len(spikes)} ticks.')


def _neighbours(spikes: np.ndarray, key: int, begin: int,
                end: int) -> Tuple[np.ndarray, np.ndarray]:
    """Last spike from ``begin`` to ``key``; first one to ``end``."""
    last = np.full(spikes.shape[1:], -1, np.int32)
    for tick in range(begin, key + 1):
        last[spikes[tick] != 0] = tick
    following = np.full(spikes.shape[1:], _NEVER, np.int32)
    for tick in range(end, key, -1):
        following[spikes[tick] != 0] = tick
    return last, following


def _rate(last: np.ndarray, following: np.ndarray,
          undefined: int) -> np.ndarray:
    gap = np.where((last < 0) | (following == _NEVER), undefined,
                   following - last)
    return np.float32(1) / gap.astype(np.float32)


def interval(spikes: np.ndarray,
             key: int,
             half_window: int,
             compat: bool = False) -> np.ndarray:
    """One over the time between two spikes (texture from interval).

    The spikes are the last one at or before the key tick, and the next one
    after it, at most ``w`` ticks away. Where either is missing the interval
    is ``2 w``. For constant light the interval is within one tick of
    ``theta / (eta I)``.

    Args:
        spikes (np.ndarray): (T, H, W) of 0 and 1.
        key (int): Key tick ``k``.
        half_window (int): Ticks ``w`` to search on each side; the search
            ends where the spikes do.
        compat (bool): As SpikeCV, which never sees a spike at tick 0.
            Defaults to False.

    Returns:
        np.ndarray: (H, W) float32 from 0 to 1.
    """
    spikes = check_cube(spikes)
    _check_key(spikes, key, half_window)
    begin = max(key - half_window + 1, 1 if compat else 0)
    end = min(key + half_window, len(spikes) - 1)
    return _rate(*_neighbours(spikes, key, begin, end), 2 * half_window)


def interval_all(spikes: np.ndarray,
                 half_window: int,
                 compat: bool = False) -> np.ndarray:
    """:func:`interval` at every tick with a full window.

    Args:
        spikes (np.ndarray): (T, H, W) of 0 and 1.
        half_window (int): Ticks ``w`` to search on each side.
        compat (bool): As SpikeCV's function for many ticks: the last spike
            *before* the tick and the next one *at or after* it, however far
            away, and an interval of 257 where either is missing. Defaults
            to False: each tick as :func:`interval` has it.

    Returns:
        np.ndarray: (T - 2 w, H, W) float32 from 0 to 1.
    """
    spikes = check_cube(spikes)
    _check_length(spikes, 2 * half_window, half_window)
    begin, end = half_window, len(spikes) - half_window
    # With compat a spike at the tick itself is the next one, not the last.
    shift = 1 if compat else 0
    out = np.empty((end - begin, *spikes.shape[1:]), np.float32)
    before = np.empty(out.shape, np.int32)
    last = np.full(spikes.shape[1:], -1, np.int32)
    for tick in range(end - shift):
        last[spikes[tick] != 0] = tick
        if begin <= tick + shift < end:
            before[tick + shift - begin] = last
    following = np.full(spikes.shape[1:], _NEVER, np.int32)
    for tick in range(len(spikes) - 1, begin - 1, -1):
        if compat:
            following[spikes[tick] != 0] = tick
        if tick < end:
            previous = before[tick - begin]
            if compat:
                out[tick - begin] = _rate(previous, following, 257)
            else:
                out[tick - begin] = _within(previous, following, tick,
                                            half_window)
        if not compat:
            following[spikes[tick] != 0] = tick
    return out


def _within(last: np.ndarray, following: np.ndarray, key: int,
            half_window: int) -> np.ndarray:
    last = np.where(last > key - half_window, last, -1)
    following = np.where(following <= key + half_window, following, _NEVER)
    return _rate(last, following, 2 * half_window)
