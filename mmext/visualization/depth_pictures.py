# Copyright (c) mmext contributors. All rights reserved.
"""Depth, its error and its uncertainty as pictures for people."""
from typing import List, Optional, Tuple

import cv2
import numpy as np

from mmext.spike.preview import preview, with_title
from mmext.utils.user_error import ConfigError

COLOURMAPS = dict(
    turbo=cv2.COLORMAP_TURBO,
    magma=cv2.COLORMAP_MAGMA,
    inferno=cv2.COLORMAP_INFERNO,
    viridis=cv2.COLORMAP_VIRIDIS,
    jet=cv2.COLORMAP_JET)
SPIKES_TITLE = 'spikes, playback'


def colour(values: np.ndarray,
           low: float,
           high: float,
           colourmap: str = 'turbo') -> np.ndarray:
    """Colours of values; black where they are not finite.

    Args:
        values (np.ndarray): (H, W).
        low (float): Value of the first colour.
        high (float): Value of the last colour.
        colourmap (str): 'turbo', 'magma', 'inferno', 'viridis' or 'jet'.
            Defaults to 'turbo'.

    Returns:
        np.ndarray: (H, W, 3) uint8, B G R.
    """
    if colourmap not in COLOURMAPS:
        raise ConfigError(f'Expected a colour map of {tuple(COLOURMAPS)}, but '
                          f'got {colourmap!r}.')
    values = np.asarray(values, np.float32)
    valid = np.isfinite(values)
    share = (np.where(valid, values, low) - low) / max(high - low, 1e-12)
    picture = cv2.applyColorMap((share.clip(0, 1) * 255).astype(np.uint8),
                                COLOURMAPS[colourmap])
    picture[~valid] = 0
    return picture


def colour_depth(depth: np.ndarray,
                 min_depth: float = 1.,
                 max_depth: float = 80.,
                 colourmap: str = 'turbo') -> np.ndarray:
    """Near in warm colours, even in the logarithm; black without depth.

    Args:
        depth (np.ndarray): (H, W) metres, 0 where there is none.
        min_depth (float): Depth of the warmest colour. Defaults to 1.
        max_depth (float): Depth of the coldest one. Defaults to 80.
        colourmap (str): See :func:`colour`. Defaults to 'turbo'.

    Returns:
        np.ndarray: (H, W, 3) uint8, B G R.
    """
    depth = np.asarray(depth, np.float32)
    valid = np.isfinite(depth) & (depth > 0)
    logs = np.log(np.where(valid, depth, 1))
    return colour(
        np.where(valid, -logs, np.nan), -np.log(max_depth), -np.log(min_depth),
        colourmap)


def colour_error(pred: np.ndarray,
                 target: np.ndarray,
                 most: float = 0.5,
                 colourmap: str = 'inferno') -> np.ndarray:
    """``|p - d| / d`` from 0 to ``most``; black where there is no truth.

    Args:
        pred (np.ndarray): (H, W) metres.
        target (np.ndarray): (H, W) metres, 0 where there is none.
        most (float): Error of the last colour. Defaults to 0.5.
        colourmap (str): See :func:`colour`. Defaults to 'inferno'.

    Returns:
        np.ndarray: (H, W, 3) uint8, B G R.
    """
    valid = np.isfinite(target) & (target > 0)
    truth = np.where(valid, target, 1)
    error = np.where(valid, np.abs(pred - truth) / truth, np.nan)
    return colour(error, 0, most, colourmap)


def depth_panel(image: Optional[np.ndarray] = None,
                target: Optional[np.ndarray] = None,
                pred: Optional[np.ndarray] = None,
                uncertainty: Optional[np.ndarray] = None,
                min_depth: float = 1.,
                max_depth: float = 80.,
                most_error: float = 0.5,
                most_uncertainty: float = 1.,
                columns: int = 3,
                image_title: str = 'image') -> np.ndarray:
    """What there is of image, truth, prediction, error and uncertainty.

    Args:
        image (np.ndarray, optional): (H, W, 3) B G R, (H, W) grey, or spikes
            (T, H, W) of 0 and 1, which are shown by playback.
        target (np.ndarray, optional): (H, W) metres.
        pred (np.ndarray, optional): (H, W) metres.
        uncertainty (np.ndarray, optional): (H, W).
        min_depth (float): See :func:`colour_depth`. Defaults to 1.
        max_depth (float): The same. Defaults to 80.
        most_error (float): See :func:`colour_error`. Defaults to 0.5.
        most_uncertainty (float): Of the last colour. Defaults to 1.
        columns (int): Pictures beside each other. Defaults to 3.
        image_title (str): Of an image; spikes have their own.
            Defaults to 'image'.

    Returns:
        np.ndarray: (H', W', 3) uint8, B G R.
    """
    cells: List[Tuple[str, np.ndarray]] = []
    if image is not None:
        if image.ndim == 3 and image.shape[-1] != 3:
            image, image_title = preview(image, stretch=True), SPIKES_TITLE
        cells.append((image_title, image))
    for title, depth in (('depth, truth', target), ('depth', pred)):
        if depth is not None:
            cells.append((title, colour_depth(depth, min_depth, max_depth)))
    if target is not None and pred is not None:
        cells.append((f'relative error, 0 to {most_error:g}',
                      colour_error(pred, target, most_error)))
    if uncertainty is not None:
        cells.append((f'uncertainty, 0 to {most_uncertainty:g}',
                      colour(uncertainty, 0, most_uncertainty, 'viridis')))
    if not cells:
        raise ConfigError('Expected an image or a depth map to draw, but got '
                          'none.')
    return grid(cells, columns)


def grid(cells: List[Tuple[str, np.ndarray]], columns: int) -> np.ndarray:
    """Pictures under their titles, as large as the last one.

    Args:
        cells (list[tuple[str, np.ndarray]]): Titles and pictures, (H, W) or
            (H, W, 3) uint8.
        columns (int): Pictures beside each other.

    Returns:
        np.ndarray: (H', W', 3) uint8.
    """
    height, width = cells[-1][1].shape[:2]
    pictures = [
        with_title(
            picture if picture.shape[:2] == (height, width) else cv2.resize(
                picture, (width, height)), title) for title, picture in cells
    ]
    blank = np.full_like(pictures[0], 255)
    columns = min(columns, len(pictures))
    pictures += [blank] * (-len(pictures) % columns)
    return np.vstack([
        np.hstack(pictures[i:i + columns])
        for i in range(0, len(pictures), columns)
    ])
