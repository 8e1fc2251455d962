# Copyright (c) mmext contributors. All rights reserved.
"""Where frames come from: folders, videos, StreetWorld."""
import fnmatch
import os
import re
import warnings
from typing import Iterator, List, Optional, Sequence, Tuple

import cv2
import numpy as np

from mmext.utils.io import PathLike
from mmext.utils.user_error import BadFileError, ConfigError, MissingFileError
from .files import SUFFIXES
from .light import grey

# In JPEG data these bytes begin a segment: neither stuffing nor restart.
_JPEG_MARKER = re.compile(rb'\xff[^\x00\xd0-\xd7\xff]')
PICTURES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.pgm', '.ppm')


def natural_key(name: str) -> List:
    """Sorts frame_9 before frame_10."""
    return [
        int(part) if part.isdigit() else part
        for part in re.split(r'(\d+)', name)
    ]


def list_pictures(folder: PathLike, pattern: str = '*') -> List[str]:
    """Pictures of a folder in their natural order.

    This is also how frames of an external interpolator come in: let it write
    its pictures, originals included, into one folder.

    Args:
        folder (str or PathLike): The folder.
        pattern (str): Which names count, such as 'rgb_*' where depth maps
            are in the same folder. Defaults to '*'.

    Raises:
        MissingFileError: If there is no folder, or no such picture in it.
    """
    name = os.path.expanduser(os.fspath(folder))
    names = sorted(
        (n for n in os.listdir(name)
         if n.lower().endswith(PICTURES) and fnmatch.fnmatchcase(n, pattern)),
        key=natural_key) if os.path.isdir(name) else []
    if not names:
        raise MissingFileError(
            f'Expected a folder with pictures ({", ".join(PICTURES)}) whose '
            f'names match {pattern!r}, but there are none in {name}.')
    return [os.path.join(name, n) for n in names]


def list_recordings(folder: PathLike) -> List[str]:
    """Recordings of a folder in their natural order.

    Args:
        folder (str or PathLike): The folder.

    Raises:
        MissingFileError: If there is none in it.
    """
    name = os.path.expanduser(os.fspath(folder))
    names = sorted(
        (n for n in os.listdir(name) if n.lower().endswith(SUFFIXES)),
        key=natural_key)
    if not names:
        raise MissingFileError(
            f'Expected recordings ({", ".join(SUFFIXES)}) in {name}, but '
            'there are none.')
    return [os.path.join(name, n) for n in names]


def read_picture(path: PathLike) -> np.ndarray:
    """One picture, (H, W, 3) uint8 B G R.

    Raises:
        MissingFileError: If there is no such file.
        BadFileError: If OpenCV cannot read it, or it is a truncated JPEG.
    """
    name = os.path.expanduser(os.fspath(path))
    if not os.path.isfile(name):
        raise MissingFileError(f'Expected a picture, but there is none at '
                               f'{name}. Correct the path.')
    picture = cv2.imread(name, cv2.IMREAD_COLOR)
    if picture is None:
        raise BadFileError(f'Cannot decode {name}: it is damaged, or no '
                           'picture. Delete it, or fetch it again.')
    # OpenCV fills the rest of a truncated JPEG, and of no other kind, grey.
    with open(name, 'rb') as file:
        data = file.read(2)
        whole = data != b'\xff\xd8' or _jpeg_ends(data + file.read())
    if not whole:
        raise BadFileError(
            f'Expected the end of a JPEG picture in {name}, but it stops '
            'before: it is truncated. Delete it, or fetch it again.')
    return picture


def _jpeg_ends(data: bytes) -> bool:
    """Whether a JPEG has its end, after which anything may follow.

    Segments are stepped over: a thumbnail in one has an end of its own.
    """
    at = 2
    while True:
        found = _JPEG_MARKER.search(data, at)
        if found is None or found[0] == b'\xff\xd9':
            return found is not None
        at = found.end()
        at += int.from_bytes(data[at:at + 2], 'big')


def _finish(picture: np.ndarray, size: Optional[Sequence[int]],
            gamma: Optional[float]) -> np.ndarray:
    picture = grey(picture)
    if size is not None and picture.shape != tuple(size):
        picture = cv2.resize(
            picture, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return grey(picture, gamma)


def folder_frames(folder: PathLike,
                  size: Optional[Tuple[int, int]] = None,
                  gamma: Optional[float] = None,
                  pattern: str = '*') -> Iterator[np.ndarray]:
    """Grey pictures of a folder, see :func:`list_pictures`.

    Args:
        folder (str or PathLike): The folder.
        size (tuple[int, int], optional): Height and width to resize to.
            Defaults to None.
        gamma (float, optional): See :func:`~mmext.spike.grey`.
            Defaults to None.
        pattern (str): Which names count. Defaults to '*'.

    Yields:
        np.ndarray: (H, W) uint8, or float32 light with a ``gamma``.
    """
    for path in list_pictures(folder, pattern):
        yield _finish(read_picture(path), size, gamma)


def video_frames(path: PathLike,
                 start: int = 0,
                 stop: Optional[int] = None,
                 size: Optional[Tuple[int, int]] = None,
                 gamma: Optional[float] = None) -> Iterator[np.ndarray]:
    """Grey frames of a video.

    A video that ends before the number of frames in its header, which some
    kinds of files only estimate, is read with a warning.

    Args:
        path (str or PathLike): The file.
        start (int): First frame. Defaults to 0.
        stop (int, optional): Frame after the last one. Defaults to None.
        size (tuple[int, int], optional): Height and width to resize to.
            Defaults to None.
        gamma (float, optional): See :func:`~mmext.spike.grey`.
            Defaults to None.

    Yields:
        np.ndarray: (H, W) uint8, or float32 light with a ``gamma``.

    Raises:
        MissingFileError: If there is no such file.
        BadFileError: If OpenCV cannot read it, or it is too short.
    """
    name = os.path.expanduser(os.fspath(path))
    if not os.path.isfile(name):
        raise MissingFileError(f'Expected a video, but there is none at '
                               f'{name}.')
    video = cv2.VideoCapture(name)
    try:
        index = 0
        # Seeking is not exact in all formats; decoding is.
        while stop is None or index < stop:
            good, frame = video.read()
            if not good:
                break
            if index >= start:
                yield _finish(frame, size, gamma)
            index += 1
        if index <= start or (stop is not None and index < stop):
            raise BadFileError(
                f'Expected frames {start} to {stop or start} of {name}, but '
                f'OpenCV reads {index} frames. The file is damaged, no video, '
                'or shorter than that.')
        told = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        if stop is None and index < told:
            warnings.warn(
                f'Expected {told} frames in {name}, as its header says, but '
                f'OpenCV reads {index}. The file is truncated or damaged, '
                'unless the header is an estimate: look at its end.')
    finally:
        video.release()


def streetworld_frames(world,
                       times: Sequence[float],
                       domain: str = 'clear',
                       strength: float = 1.,
                       seed: int = 0) -> Iterator:
    """Frames of the embedded street scenes at any times.

    Args:
        world (mmext.datasets.streetworld.StreetWorld): The town.
        times (Sequence[float]): Seconds; ``start + np.arange(n) / fps`` for
            any frame rate.
        domain (str): Weather or light. Defaults to 'clear'.
        strength (float): How bad the weather is. Defaults to 1.
        seed (int): Of the weather. Defaults to 0.

    Yields:
        mmext.datasets.streetworld.Frame: With ``image`` and ``depth``.
    """
    from mmext.datasets.streetworld import DOMAINS, apply_weather
    if domain not in DOMAINS:
        raise ConfigError(f'Expected a domain of {DOMAINS}, but got '
                          f'{domain!r}.')
    for t in times:
        frame = world.render(float(t), domain in ('night', 'dusk'))
        yield apply_weather(frame, domain, strength, seed)
