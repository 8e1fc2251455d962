# Copyright (c) mmext contributors. All rights reserved.
"""Spikes as pictures and videos for people."""
import os
from typing import Iterable, List, Optional, Tuple

import cv2
import numpy as np

from mmext.utils.io import PathLike, atomic_write
from mmext.utils.user_error import ConfigError
from .reconstruction import interval, playback, to_uint8

METHODS = ('playback', 'interval', 'spikes')


def preview(spikes: np.ndarray,
            key: Optional[int] = None,
            method: str = 'playback',
            half_window: Optional[int] = None,
            stretch: bool = False) -> np.ndarray:
    """A grey picture of spikes around a tick.

    Args:
        spikes (np.ndarray): (T, H, W) of 0 and 1, or signed, -1 and 1.
        key (int, optional): The tick. Defaults to None: the middle.
        method (str): 'playback', 'interval' or 'spikes', the bare spikes of
            the tick. Defaults to 'playback'.
        half_window (int, optional): Ticks on each side. Defaults to None:
            as many as there are, at most 32 for 'playback', which takes the
            three ticks nearest to the first and the last one.
        stretch (bool): Make the brightest 1 % of pixels white, for dim
            recordings. Defaults to False.

    Returns:
        np.ndarray: (H, W) uint8.
    """
    if method not in METHODS:
        raise ConfigError(
            f'Expected a method of {METHODS}, but got {method!r}.')
    spikes = _positive(spikes)
    ticks = len(spikes)
    key = ticks // 2 if key is None else key
    if method == 'spikes':
        return to_uint8(np.asarray(spikes[key], np.float32))
    if half_window is None:
        half_window = max(1, min(key, ticks - 1 - key))
        if method == 'playback':
            half_window = min(half_window, 32)
            if 0 <= key < ticks:
                key = max(1, min(key, ticks - 2))
    if method == 'interval':
        rate = interval(spikes, key, half_window)
    elif ticks < 3:
        rate = np.mean(spikes, 0, dtype=np.float32)
    else:
        rate = playback(spikes, key, half_window)
    if stretch:
        rate = rate / max(float(np.percentile(rate, 99)), 1e-6)
    return to_uint8(rate)


def _positive(spikes: np.ndarray) -> np.ndarray:
    """Signed spikes as those of 0 and 1."""
    spikes = np.asarray(spikes)
    return np.maximum(spikes, 0) if spikes.dtype.kind in 'if' else spikes


def raster(spikes: np.ndarray, row: Optional[int] = None) -> np.ndarray:
    """Time against place: the spikes of one row of pixels.

    Args:
        spikes (np.ndarray): (T, H, W) of 0 and 1, or signed.
        row (int, optional): Which row. Defaults to None: the middle.

    Returns:
        np.ndarray: (T, W) uint8, 255 at spikes, time downwards.
    """
    row = spikes.shape[1] // 2 if row is None else row
    return (np.asarray(spikes[:, row]) > 0).astype(np.uint8) * 255


def with_title(picture: np.ndarray, title: str) -> np.ndarray:
    """The picture in three channels, under a line of text."""
    if picture.ndim == 2:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    strip = np.full((18, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, title, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42,
                (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([strip, picture])


def write_picture(path: PathLike, picture: np.ndarray) -> None:
    """Write a picture, atomically; the suffix decides the kind."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    try:
        done, data = cv2.imencode(suffix, picture)
    except cv2.error:
        done = False
    if not done:
        raise ConfigError(f'Expected a name such as picture.png, but OpenCV '
                          f'cannot write {os.fspath(path)}.')
    atomic_write(path, data.tobytes())


def write_video(path: PathLike, pictures: Iterable[np.ndarray],
                fps: float) -> int:
    """Write pictures as a video.

    Args:
        path (str or PathLike): An .mp4 or .avi file.
        pictures (Iterable[np.ndarray]): (H, W) or (H, W, 3) uint8.
        fps (float): Pictures a second.

    Returns:
        int: How many pictures were written.
    """
    name = os.path.expanduser(os.fspath(path))
    codes = {'.mp4': 'mp4v', '.avi': 'MJPG'}
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in codes:
        raise ConfigError(f'Expected a video named .mp4 or .avi, but got '
                          f'{name}.')
    os.makedirs(os.path.dirname(os.path.abspath(name)), exist_ok=True)
    writer, count = None, 0
    try:
        for picture in pictures:
            if picture.ndim == 2:
                picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
            if writer is None:
                writer = cv2.VideoWriter(
                    name, cv2.VideoWriter_fourcc(*codes[suffix]), fps,
                    picture.shape[1::-1])
                if not writer.isOpened():
                    raise ConfigError(
                        f'OpenCV cannot write {name}: it lacks the codec, or '
                        'the folder cannot be written. Try .avi.')
            writer.write(picture)
            count += 1
    finally:
        if writer is not None:
            writer.release()
    if not count:
        raise ConfigError(f'Expected pictures for {name}, but got none.')
    return count


def strip(spikes: np.ndarray,
          ticks: Tuple[int, ...] = (0, ),
          stretch: bool = False) -> np.ndarray:
    """Bare spikes, playback, interval and one row over time, side by side.

    Args:
        spikes (np.ndarray): (T, H, W) of 0 and 1.
        ticks (tuple[int]): Ticks whose bare spikes are shown.
            Defaults to (0, ).
        stretch (bool): See :func:`preview`. Defaults to False.

    Returns:
        np.ndarray: (H', W', 3) uint8.
    """
    height = spikes.shape[1]
    cells: List[np.ndarray] = [
        with_title(preview(spikes, tick, 'spikes'), f'spikes, tick {tick}')
        for tick in ticks
    ]
    for method in ('playback', 'interval'):
        picture = preview(spikes, method=method, stretch=stretch)
        cells.append(with_title(picture, method))
    lines = cv2.resize(
        raster(spikes), (spikes.shape[2], height),
        interpolation=cv2.INTER_NEAREST)
    cells.append(with_title(lines, 'middle row, time downwards'))
    return np.hstack(cells)
