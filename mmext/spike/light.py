# Copyright (c) mmext contributors. All rights reserved.
"""Light over time: stretches of ticks between two pictures."""
from dataclasses import dataclass
from typing import Iterable, Iterator, Optional, Tuple

import cv2
import numpy as np

from mmext.utils.user_error import ConfigError

INTERPOLATIONS = ('linear', 'repeat')
ALIGNMENTS = ('center', 'start')


@dataclass(frozen=True)
class Light:
    """Some ticks of light that is constant or changes linearly.

    Tick ``j`` (from ``start`` to ``start + ticks - 1``) has the light::

        first + (last - first) * j / span

    and ``first`` if there is no ``last``. A stretch may be cut at any tick
    without a change of its light, see :meth:`cut`.

    Args:
        first (np.ndarray): (H, W), uint8 or uint16 grey levels, or float
            light, where 1 is the white of a uint8 picture.
        ticks (int): How many ticks.
        last (np.ndarray, optional): Light ``span`` ticks after ``first``, of
            the same shape and kind. Defaults to None.
        span (int): Ticks from ``first`` to ``last``. Defaults to 1.
        start (int): Tick of the stretch to begin with. Defaults to 0.
    """
    first: np.ndarray
    ticks: int
    last: Optional[np.ndarray] = None
    span: int = 1
    start: int = 0

    def cut(self, ticks: int) -> Tuple['Light', 'Light']:
        """Two parts that follow each other, the first of ``ticks`` ticks."""
        return (Light(self.first, ticks, self.last, self.span, self.start),
                Light(self.first, self.ticks - ticks, self.last, self.span,
                      self.start + ticks))


def grey(image: np.ndarray, gamma: Optional[float] = None) -> np.ndarray:
    """Luminance ``0.299 R + 0.587 G + 0.114 B`` of a picture.

    Args:
        image (np.ndarray): (H, W) or (H, W, 3) uint8 in OpenCV's order B, G,
            R, or float light.
        gamma (float, optional): Exponent that turns stored values into
            light, 2.2 for most videos. Defaults to None: values are taken
            as light, as the public simulators do.

    Returns:
        np.ndarray: (H, W), of the kind of ``image``; float32 from 0 to 1 if
        there is a ``gamma``.
    """
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim == 3 and image.shape[-1] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    if image.ndim != 2:
        raise ConfigError(
            'Expected a picture of shape (H, W) or (H, W, 3), but got '
            f'{image.shape}. Drop the alpha channel, or pick one picture.')
    if gamma is None:
        return image
    levels = np.iinfo(image.dtype).max if image.dtype.kind == 'u' else 1
    return ((image / levels)**gamma).astype(np.float32)


def light_from_frames(frames: Iterable[np.ndarray],
                      ticks_per_frame: int = 1,
                      interpolation: str = 'linear',
                      lead: int = 0,
                      tail: int = 0) -> Iterator[Light]:
    """Stretch frames over ticks; frame ``k`` is at ``lead + k * n`` ticks.

    With 'linear', light runs from each frame to the next, and the last one
    is held for its ``n`` ticks; with 'repeat' every frame is held. The
    number of ticks is ``lead + n * frames + tail``. One frame is kept at a
    time, so a stream of any length works.

    Args:
        frames (Iterable[np.ndarray]): (H, W) pictures of one kind and size,
            or (H, W, 3), which become grey.
        ticks_per_frame (int): Ticks ``n`` of one frame. Defaults to 1.
        interpolation (str): 'linear' or 'repeat'. Defaults to 'linear'.
        lead (int): Ticks that hold the first frame before it.
            Defaults to 0.
        tail (int): Ticks that hold the last frame after it. Defaults to 0.

    Yields:
        Light: Stretches that follow each other.

    Raises:
        ConfigError: If a setting is unusable, there is no frame, or sizes
            differ.
    """
    if interpolation not in INTERPOLATIONS:
        raise ConfigError(f'Expected an interpolation of {INTERPOLATIONS}, '
                          f'but got {interpolation!r}.')
    if ticks_per_frame < 1 or lead < 0 or tail < 0:
        raise ConfigError(
            'Expected at least one tick a frame and no negative lead or '
            f'tail, but got {ticks_per_frame}, {lead} and {tail}.')
    before = None
    for index, frame in enumerate(frames):
        frame = grey(np.asarray(frame))
        if before is None:
            if lead:
                yield Light(frame, lead)
        else:
            if frame.shape != before.shape or frame.dtype != before.dtype:
                raise ConfigError(
                    f'Frame {index} is {frame.dtype} {frame.shape}, the '
                    f'frames before it are {before.dtype} {before.shape}. '
                    'All frames of a stream need one size and kind.')
            yield _between(before, frame, ticks_per_frame, interpolation)
        before = frame
    if before is None:
        raise ConfigError('Expected at least one frame, but got none.')
    yield Light(before, ticks_per_frame + tail)


def _between(before: np.ndarray, frame: np.ndarray, ticks: int,
             interpolation: str) -> Light:
    if interpolation == 'repeat' or ticks == 1:
        return Light(before, ticks)
    return Light(before, ticks, frame, ticks)


def window_start(frame: int,
                 ticks_per_frame: int,
                 length: int,
                 align: str = 'center',
                 interpolation: str = 'linear') -> int:
    """First tick of the spikes that belong to a labelled frame.

    Args:
        frame (int): Number of the frame.
        ticks_per_frame (int): Ticks of one frame.
        length (int): Ticks of the window, 128 in BiCross.
        align (str): 'center' puts the frame in the middle of the window (the
            middle of its hold with 'repeat'), 'start' at its begin.
            Defaults to 'center'.
        interpolation (str): As in :func:`light_from_frames`.
            Defaults to 'linear'.

    Returns:
        int: The tick, counted from frame 0; negative if the window begins
        before it, so give :func:`light_from_frames` a ``lead``.
    """
    if align not in ALIGNMENTS:
        raise ConfigError(
            f'Expected an align of {ALIGNMENTS}, but got {align!r}.')
    tick = frame * ticks_per_frame
    if align == 'start':
        return tick
    hold = ticks_per_frame // 2 if interpolation == 'repeat' else 0
    return tick + hold - length // 2
