# Copyright (c) mmext contributors. All rights reserved.
"""What a camera sees that slides along the baseline of a stereo pair."""
from typing import List, NamedTuple, Optional, Tuple

import cv2
import numpy as np

from mmext.utils.user_error import ConfigError


def depth_from_disparity(disparity: np.ndarray,
                         focal: float,
                         baseline: float,
                         offset: float = 0.) -> np.ndarray:
    """Depth ``focal * baseline / (disparity + offset)`` of a rectified pair.

    Args:
        disparity (np.ndarray): (H, W) pixels, NaN where it is unknown.
        focal (float): Focal length in pixels.
        baseline (float): Distance of both lenses in millimetres.
        offset (float): Distance of both principal points in pixels, ``doffs``
            of the Middlebury data. Defaults to 0.

    Returns:
        np.ndarray: (H, W) float32 metres, 0 where there is no depth.

    Raises:
        ConfigError: If the focal length or the baseline is not positive.
    """
    if not (focal > 0 and baseline > 0):
        raise ConfigError('Expected a positive focal length in pixels and '
                          f'baseline in millimetres, but got {focal} and '
                          f'{baseline}.')
    total = np.asarray(disparity, np.float64) + offset
    valid = np.isfinite(total) & (total > 0)
    depth = focal * baseline / 1000 / np.where(valid, total, 1)
    return np.where(valid, depth, 0).astype(np.float32)


class View(NamedTuple):
    """What is seen from one place.

    Attributes:
        picture (np.ndarray): (H, W) or (H, W, 3), as the left picture.
        disparity (np.ndarray): (H, W) float32 pixels between the two lenses,
            NaN where the left picture shows nothing or nothing is known.
    """
    picture: np.ndarray
    disparity: np.ndarray


class StereoSlide:
    """Views between the lenses of a stereo pair, and a little beyond.

    A point at ``x`` of the left picture with disparity ``d`` is at ``x - s
    d`` for a camera that went the share ``s`` of the baseline, while its
    principal point went along. Between neighbours in a row whose disparities
    differ by at most ``jump`` the surface is closed, elsewhere it is torn;
    the nearest surface is seen. The picture is sampled (cubic) at the place
    where the surface meets the pixel, so motion of a tenth of a pixel is one.

    Unknown disparity is taken to be that of the farther side in its row, and
    so is that of tears and margins, which the left picture does not show:
    there the right picture is sampled, or else the farther side's edge drawn
    out. None of these has a disparity in :class:`View`.

    Args:
        picture (np.ndarray): (H, W) or (H, W, 3) uint8, the left picture.
        disparity (np.ndarray): (H, W) pixels of the left picture, not finite
            where it is unknown.
        right (np.ndarray, optional): The right picture. Defaults to None.
        jump (float): Pixels. Defaults to 1.

    Raises:
        ConfigError: If sizes differ, or no disparity is finite.

    Examples:
        >>> import numpy as np
        >>> from mmext.spike import StereoSlide
        >>> left = np.arange(8, dtype=np.uint8)[None]
        >>> slide = StereoSlide(left, np.full((1, 8), 2.))
        >>> slide.view(0.5).picture[0, :7]
        array([1, 2, 3, 4, 5, 6, 7], dtype=uint8)
    """

    def __init__(self,
                 picture: np.ndarray,
                 disparity: np.ndarray,
                 right: Optional[np.ndarray] = None,
                 jump: float = 1.) -> None:
        disparity = np.asarray(disparity, np.float32)
        if disparity.ndim != 2 or disparity.shape != picture.shape[:2]:
            raise ConfigError(
                f'Expected a disparity of {picture.shape[:2]}, one for each '
                f'pixel of the picture, but got {disparity.shape}. Take the '
                'disparity of the left picture, at the same resolution.')
        if right is not None and right.shape != picture.shape:
            raise ConfigError(
                f'Expected a right picture of {picture.shape}, as the left '
                f'one, but got {right.shape}. Both must be rectified.')
        known = np.isfinite(disparity)
        if not known.any():
            raise ConfigError(
                'Expected a disparity with finite values, but all '
                f'{disparity.size} are NaN or infinite. Check the file, and '
                'the name of the array in it.')
        self.left, self.right = picture, right
        self.shape = disparity.shape
        self.fastest = float(np.abs(disparity[known]).max())
        rows, columns = np.indices(self.shape, np.float32)
        self._grid = rows, columns
        filled = np.where(known, disparity, np.nan)
        filled = np.take_along_axis(filled, _farther(filled), 1)
        filled[np.isnan(filled)] = disparity[known].min()
        self._pieces = _surface(filled, known, jump)

    def view(self, place: float) -> View:
        """What is seen from the share ``place`` of the way to the right."""
        rows, begin, end, first, last = self._pieces[:5]
        left, right = begin - place * first, end - place * last
        start = np.ceil(left)
        seen = np.full(self.shape, -1)
        # Pieces are sorted: the nearest one has the highest number.
        number = np.arange(len(rows))
        for step in range(int((right - start).max(initial=0)) + 1):
            column = start + step
            hit = (column < right) & (column >= 0) & (column < self.shape[1])
            np.maximum.at(seen, (rows[hit], column[hit].astype(int)),
                          number[hit])
        found = seen >= 0
        one = np.where(found, seen, 0)
        share = (self._grid[1] - left[one]) / np.maximum(
            right[one] - left[one], 1e-6)
        source = begin[one] + share * (end - begin)[one]
        disparity = first[one] + share * (last - first)[one]
        disparity[~found] = np.nan
        nearby = _farther(disparity)
        picture = self._sample(self.left,
                               np.take_along_axis(source, nearby, 1))
        if self.right is not None:
            deep = np.nan_to_num(np.take_along_axis(disparity, nearby, 1))
            other = self._sample(self.right,
                                 self._grid[1] - (1 - place) * deep)
            picture[~found] = other[~found]
        known = np.where(share < 0.5, *(k[one] for k in self._pieces[5:]))
        disparity[~known] = np.nan
        return View(picture, disparity)

    def _sample(self, picture: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return cv2.remap(picture, columns.astype(np.float32), self._grid[0],
                         cv2.INTER_CUBIC, None, cv2.BORDER_REPLICATE)

    def frames_around(self,
                      place: float,
                      step: float,
                      reach: int,
                      most: float = 0.5) -> Tuple[List[np.ndarray], int, int]:
        """Frames of a steady slide, for :func:`~mmext.spike.
        light_from_frames`.

        Args:
            place (float): Where the camera is in the middle.
            step (float): Share of the baseline that it goes in one tick.
            reach (int): Ticks before and after the middle.
            most (float): Pixels that the nearest point moves from frame to
                frame, if that takes a tick or more. Defaults to 0.5.

        Returns:
            tuple: The pictures, ticks of one frame, and the tick, from the
            first frame on, at which the camera is at ``place``.
        """
        pixels = abs(step) * self.fastest
        if not pixels:
            return [self.view(place).picture], 2 * reach + 1, reach
        ticks = min(max(1, int(most / pixels)), max(1, reach))
        half = -(-reach // ticks)
        places = place + step * ticks * np.arange(-half, half + 1)
        return [self.view(p).picture for p in places], ticks, half * ticks


def _farther(disparity: np.ndarray) -> np.ndarray:
    """Columns to take missing values from: the smaller of both sides'.

    Args:
        disparity (np.ndarray): (H, W), NaN where it is missing.

    Returns:
        np.ndarray: (H, W) columns; a pixel's own where it has a value, or
        its row has none.
    """
    width = disparity.shape[1]
    valid = ~np.isnan(disparity)
    own = np.broadcast_to(np.arange(width), disparity.shape)
    left = np.maximum.accumulate(np.where(valid, own, -1), 1)
    right = np.minimum.accumulate(np.where(valid, own, width)[:, ::-1],
                                  1)[:, ::-1]
    values = np.where(valid, disparity, np.inf)
    values = np.pad(values, ((0, 0), (1, 1)), constant_values=np.inf)
    sides = [np.take_along_axis(values, side + 1, 1) for side in (left, right)]
    best = np.where(sides[0] <= sides[1], left, right)
    return np.where(valid | ~valid.any(1, keepdims=True), own, best)


def _surface(disparity: np.ndarray, known: np.ndarray,
             jump: float) -> Tuple[np.ndarray, ...]:
    """Pieces of rows on which disparity runs evenly, the nearest last.

    Returns:
        tuple: Rows, and of both ends the columns in the picture, the
        disparities, and whether these are known; (n, ) each.
    """
    joined = np.pad(
        np.abs(np.diff(disparity, axis=1)) <= jump, ((0, 0), (1, 1)))
    rows, left = np.nonzero(joined[:, 1:-1])
    ends = (rows, left), (rows, left + 1)
    pieces = [(rows, left, left + 1, *(disparity[e] for e in ends),
               *(known[e] for e in ends))]
    # At a tear each side has half a pixel more.
    for torn, before, after in ((~joined[:, 1:], 0, 0.5), (~joined[:, :-1],
                                                           0.5, 0)):
        end = rows, at = np.nonzero(torn)
        pieces.append((rows, at - before, at + after, *[disparity[end]] * 2,
                       *[known[end]] * 2))
    parts = [np.concatenate(part) for part in zip(*pieces)]
    order = np.argsort(parts[3] + parts[4], kind='stable')
    kinds = (np.intp, *[np.float32] * 4, bool, bool)
    return tuple(part[order].astype(k) for part, k in zip(parts, kinds))
