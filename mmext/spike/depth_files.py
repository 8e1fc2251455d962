# Copyright (c) mmext contributors. All rights reserved.
"""Depth and disparity in PFM, 16-bit PNG and array files."""
import os
import re
import struct
import warnings
from typing import Any, Iterable, Optional

import cv2
import numpy as np

from mmext.utils.arguments import is_positive
from mmext.utils.io import PathLike, atomic_write
from mmext.utils.user_error import BadFileError, ConfigError, MissingFileError
from .array_files import read_array

# No depth camera is larger; a damaged header may say so.
MAX_PIXELS = 1 << 28
_PFM_HEADER = re.compile(
    rb'(P[Ff])\s+(\d{1,9})\s+(\d{1,9})\s+([-+0-9.eE]{1,32})(?:\r\n|[ \t\r\n])')
DISPARITY_SUFFIXES = ('.pfm', '.png', '.npy', '.npz')
_PNG_START = b'\x89PNG\r\n\x1a\n'


def check_scale(scale: Any, name: str = 'scale') -> None:
    """Refuse a stored value of a metre, or pixel, that cannot be one.

    Args:
        scale (Any): What was given.
        name (str): Of the option, for the message. Defaults to 'scale'.

    Raises:
        ConfigError: If it is no finite number above 0.
    """
    if not is_positive(scale):
        raise ConfigError(
            f'Expected {name} to be a positive number, the stored value of '
            'a metre (256 for KITTI and DrivingStereo, 100 for vKITTI, 1000 '
            f'for NYU) or of a pixel of disparity, but got {scale!r}.')


def _read_bytes(path: PathLike, kind: str) -> bytes:
    name = os.path.expanduser(os.fspath(path))
    if not os.path.isfile(name):
        raise MissingFileError(
            f'Expected a {kind} file, but there is none at {name}.')
    with open(name, 'rb') as file:
        return file.read()


def read_pfm(path: PathLike) -> np.ndarray:
    """Read a PFM file of either byte order.

    Args:
        path (str or PathLike): The file.

    Returns:
        np.ndarray: (H, W) or (H, W, 3) float32, top row first. Values are
        given as they are stored, NaN and infinity too.

    Raises:
        MissingFileError: If there is no such file.
        BadFileError: If it is no PFM file, truncated or oversized.
    """
    data = _read_bytes(path, 'PFM')
    found = _PFM_HEADER.match(data[:128])
    if found is None:
        raise BadFileError(
            f"Expected {path} to begin with 'Pf' or 'PF', its width, height "
            f'and scale, but found {bytes(data[:16])!r}. It is no PFM file.')
    width, height = int(found[2]), int(found[3])
    try:
        scale = float(found[4])
    except ValueError:
        scale = 0.
    if not 0 < width * height <= MAX_PIXELS or not abs(scale) > 0:
        raise BadFileError(
            f'Expected a picture of 1 to {MAX_PIXELS} pixels and a scale '
            f'other than 0 in {path}, but found {height} x {width} and '
            f'{found[4]!r}.')
    channels = 3 if found[1] == b'PF' else 1
    expected = 4 * channels * width * height
    content = len(data) - found.end()
    if content != expected:
        kind = 'truncated' if content < expected else 'oversized'
        raise BadFileError(
            f'Expected {expected} bytes for {height} x {width} pixels after '
            f'the header of {path}, but found {content}: it is {kind}.')
    values = np.frombuffer(data, '<f4' if scale < 0 else '>f4', -1,
                           found.end())
    shape = (height, width, 3) if channels == 3 else (height, width)
    return values.reshape(shape)[::-1].astype(np.float32)


def write_pfm(path: PathLike,
              depth: np.ndarray,
              little_endian: bool = True) -> None:
    """Write a PFM file, atomically.

    Args:
        path (str or PathLike): The file.
        depth (np.ndarray): (H, W) or (H, W, 3) of floats, top row first.
        little_endian (bool): Byte order. Defaults to True.
    """
    depth = np.asarray(depth)
    if not (depth.ndim == 2 or depth.ndim == 3 and depth.shape[-1] == 3):
        raise ConfigError('Expected depth of shape (H, W) or (H, W, 3), but '
                          f'got {depth.shape}.')
    kind = 'Pf' if depth.ndim == 2 else 'PF'
    order, scale = ('<f4', -1.0) if little_endian else ('>f4', 1.0)
    head = f'{kind}\n{depth.shape[1]} {depth.shape[0]}\n{scale}\n'
    atomic_write(path, head.encode() + depth[::-1].astype(order).tobytes())


def read_depth_png(path: PathLike, scale: float) -> np.ndarray:
    """Read depth from a 16-bit grey PNG picture.

    Args:
        path (str or PathLike): The file.
        scale (float): Stored value of one metre: 256 for KITTI and
            DrivingStereo, 100 for vKITTI, 1000 for NYU.

    Returns:
        np.ndarray: (H, W) float32 metres, 0 where there is no depth.

    Raises:
        MissingFileError: If there is no such file.
        BadFileError: If the file is damaged, or has 8 bits or colours.
        ConfigError: If the scale is no finite number above 0.
    """
    check_scale(scale)
    data = _read_bytes(path, 'depth PNG')
    if len(data) < 33 or not data.startswith(_PNG_START):
        raise BadFileError(f'Expected a PNG picture in {path}, but found '
                           f'{bytes(data[:8])!r} in {len(data)} bytes.')
    width, height, depth, colour = struct.unpack('>IIBB', data[16:26])
    if depth != 16 or colour != 0:
        raise BadFileError(
            f'Expected a grey picture of 16 bits in {path}, but found '
            f'{depth} bits of colour type {colour}. It is no depth, or a '
            'preview of it; use the 16-bit file.')
    if not 0 < width * height <= MAX_PIXELS:
        raise BadFileError(f'Expected 1 to {MAX_PIXELS} pixels in {path}, but '
                           f'its header says {height} x {width}.')
    try:
        values = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        values = None
    if values is None or values.dtype != np.uint16 or values.shape != (height,
                                                                       width):
        raise BadFileError(f'Cannot decode {path}: it is truncated or '
                           'damaged. Fetch it again.')
    most = int(values.max())
    if 0 < most <= 255:
        raise BadFileError(
            f'Expected stored depth above 255 in {path}, but the largest '
            f'value is {most}: 8-bit depth was written into 16 bits. Convert '
            'it from the metric depth again.')
    return values.astype(np.float32) / np.float32(scale)


def write_depth_png(path: PathLike, depth: np.ndarray, scale: float) -> None:
    """Write depth as a 16-bit grey PNG picture, atomically.

    Depth that is not finite or not positive becomes 0, larger depth than
    ``65535 / scale`` that value.

    Args:
        path (str or PathLike): The file.
        depth (np.ndarray): (H, W) metres.
        scale (float): Stored value of one metre.

    Raises:
        ConfigError: If the depth has another shape, or the scale is no
            finite number above 0.
    """
    check_scale(scale)
    depth = np.asarray(depth, np.float64)
    if depth.ndim != 2:
        raise ConfigError(
            f'Expected depth of shape (H, W), but got {depth.shape}.')
    valid = np.isfinite(depth) & (depth > 0)
    stored = np.rint(np.clip(np.where(valid, depth, 0) * scale, 0, 65535))
    done, data = cv2.imencode('.png', stored.astype(np.uint16))
    if not done:
        raise ConfigError(f'Cannot encode depth of {depth.shape} for {path}.')
    atomic_write(path, data.tobytes())


def tell_clipped(depths: Iterable[np.ndarray], scale: float) -> None:
    """Warn, once for all, of depth that :func:`write_depth_png` clips.

    Args:
        depths (Iterable[np.ndarray]): (H, W) metres each.
        scale (float): Stored value of one metre.
    """
    limit, total, count, most = 65535 / scale, 0, 0, 0.
    for depth in depths:
        far = depth[np.isfinite(depth) & (depth > limit + 0.5 / scale)]
        total, count = total + depth.size, count + far.size
        most = max(most, float(far.max(initial=0)))
    if count:
        warnings.warn(
            f'{count} of {total} pixels are farther than {limit:.4g} m, the '
            f'most that a 16-bit file holds with depth_scale={scale:g}, and '
            f'are stored as that. The farthest is {most:.4g} m: take a '
            f'depth_scale of at most {int(65535 / most) or 65535 / most:.6g}.')


def read_disparity(path: PathLike,
                   scale: float = 256.,
                   key: Optional[str] = None) -> np.ndarray:
    """Read the disparity of a rectified stereo pair.

    Args:
        path (str or PathLike): A .pfm file (Middlebury), 16-bit grey .png
            (KITTI, DrivingStereo; 0 where it is unknown), .npy or .npz file.
        scale (float): Stored value of one pixel in a .png file.
            Defaults to 256.
        key (str, optional): Array of an .npz file, which is needed if it has
            several. Defaults to None.

    Returns:
        np.ndarray: (H, W) float32 pixels, NaN where it is unknown.

    Raises:
        MissingFileError: If there is no such file.
        BadFileError: If it is damaged, or holds no disparity.
        ConfigError: If the file is of another kind, ``key`` unknown, or the
            scale no finite number above 0.
    """
    check_scale(scale)
    name = os.path.expanduser(os.fspath(path))
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in DISPARITY_SUFFIXES:
        raise ConfigError(f'Expected a disparity of {DISPARITY_SUFFIXES}, but '
                          f'got {name}.')
    if not os.path.isfile(name):
        raise MissingFileError(
            f'Expected a disparity, but there is none at {name}. Correct the '
            'path; the recipe of the data tells where to get it.')
    if suffix == '.png':
        values = read_depth_png(name, scale)
        values[values == 0] = np.nan
        return values
    values = read_pfm(name) if suffix == '.pfm' else read_array(name, key)
    if values.ndim != 2 or values.dtype.kind not in 'fui':
        raise BadFileError(
            f'Expected a disparity (H, W) of numbers in {name}, but found '
            f'{values.shape} of {values.dtype}.')
    values = values.astype(np.float32)
    values[~np.isfinite(values)] = np.nan
    return values
