# Copyright (c) mmext contributors. All rights reserved.
"""What the weather models share: transmission, geometry, runs, noise."""
from typing import Sequence

import cv2
import numpy as np

from .classes import SKY
from .renderer import Frame
from .textures import noise, rng_of

_TAGS = {'fog': 1, 'rain': 2, 'snow': 3, 'night': 4, 'dusk': 5}


def frame_rng(frame: Frame, domain: str, seed: int) -> np.random.Generator:
    """A generator that depends on the seed, the domain and the frame."""
    return rng_of(seed, _TAGS[domain], frame.town, int(round(frame.t * 1000)))


def transmission(depth: np.ndarray, beta: float) -> np.ndarray:
    r"""Share of light that reaches the camera through fog.

    .. math:: t(x) = e^{-\beta \, d(x)}

    with the attenuation :math:`\beta` per metre; the meteorological range
    is :math:`2.996 / \beta` (Sakaridis et al., Semantic Foggy Scene
    Understanding with Synthetic Data, IJCV 2018, Eq. 3 and 4). The optical
    depth is that along the camera's axis. The sky is infinitely far.

    Args:
        depth (np.ndarray): (H, W) metres, 0 for the sky.
        beta (float): Attenuation per metre.

    Returns:
        np.ndarray: (H, W) float32 within 0 and 1.
    """
    t = np.exp(-np.float32(beta) * depth, dtype=np.float32)
    t[depth == 0] = 0
    return t


def veil(image: np.ndarray, depth: np.ndarray, beta: float,
         airlight: Sequence[float]) -> np.ndarray:
    r"""Fog: :math:`I(x) = R(x)\,t(x) + L\,(1 - t(x))`.

    Args:
        image (np.ndarray): (H, W, 3) scene radiance R.
        depth (np.ndarray): (H, W) metres, 0 for the sky.
        beta (float): Attenuation per metre, see :func:`transmission`.
        airlight (Sequence[float]): Colour L of the fog.

    Returns:
        np.ndarray: (H, W, 3) float32.
    """
    t = transmission(depth, beta)[..., None]
    light = np.asarray(airlight, np.float32)
    return light + (image - light) * t


def camera_points(frame: Frame):
    """Camera coordinates of all pixels, (H, W) float32 each: x, y, z."""
    cx, cy = frame.intrinsics.centre
    f = frame.intrinsics.f
    z = frame.depth
    x = z * ((np.arange(z.shape[1], dtype=np.float32) - cx) / f)[None]
    y = z * ((np.arange(z.shape[0], dtype=np.float32) - cy) / f)[:, None]
    return x.astype(np.float32), y.astype(np.float32), z


def world_points(frame: Frame) -> np.ndarray:
    """World coordinates of all pixels, (H, W, 3) float32."""
    points = np.stack(camera_points(frame), -1)
    turn = frame.pose[:3, :3].astype(np.float32)
    return points @ turn.T + frame.pose[:3, 3].astype(np.float32)


def ground_noise(world: np.ndarray, cell: float, seed: int) -> np.ndarray:
    """Noise that sticks to the ground, (H, W) float32, about -1 to 1.

    Args:
        world (np.ndarray): (H, W, 3) world coordinates.
        cell (float): Metres per texel of a 256 x 256 tile.
        seed (int): Which tile.
    """
    tile = noise(seed % 16 + 40, 256, 6, 3)
    u = np.mod(world[..., 0] / cell, 255).astype(np.float32)
    v = np.mod(world[..., 2] / cell, 255).astype(np.float32)
    return cv2.remap(tile, u, v, cv2.INTER_LINEAR)


def run_top(labels: np.ndarray) -> np.ndarray:
    """Row where the vertical run of one class through a pixel starts."""
    rows = np.arange(labels.shape[0], dtype=np.int32)[:, None]
    starts = np.zeros(labels.shape, np.int32)
    change = labels[1:] != labels[:-1]
    starts[1:] = np.where(change, rows[1:], 0)
    return np.maximum.accumulate(starts, 0)


def flatten_light(image: np.ndarray, colour: float,
                  contrast: float) -> np.ndarray:
    """Less colour and less contrast about the mean, as under clouds.

    Args:
        image (np.ndarray): (H, W, 3) float32.
        colour (float): Share of the colour that is left.
        contrast (float): Share of the contrast that is left.

    Returns:
        np.ndarray: (H, W, 3) float32.
    """
    grey = image.mean(-1, keepdims=True)
    image = grey + (image - grey) * np.float32(colour)
    middle = np.float32(image.mean())
    return middle + (image - middle) * np.float32(contrast)


def replace_sky(image: np.ndarray,
                labels: np.ndarray,
                top: Sequence[float],
                low: Sequence[float],
                share: float = 1.) -> None:
    """Paint the sky with a vertical gradient, in place.

    Args:
        image (np.ndarray): (H, W, 3) float32.
        labels (np.ndarray): (H, W) train ids.
        top (Sequence[float]): B G R at the upper edge.
        low (Sequence[float]): B G R from the middle of the image on.
        share (float): Weight of the paint. Defaults to 1.
    """
    mask = labels == SKY
    rows = np.linspace(0, 1, image.shape[0], dtype=np.float32) * 2
    rows = np.clip(rows, 0, 1)[:, None]
    shade = (
        np.asarray(top, np.float32) * (1 - rows) +
        np.asarray(low, np.float32) * rows)
    full = np.broadcast_to(shade[:, None], image.shape)
    image[mask] += np.float32(share) * (full[mask] - image[mask])


def sensor(image: np.ndarray, rng: np.random.Generator, read: float,
           shot: float) -> np.ndarray:
    r"""Add read noise (constant) and shot noise (root of the signal).

    .. math:: I + \epsilon \sqrt{r^2 + s^2 I},\quad
              \epsilon \sim N(0, 1)

    Args:
        image (np.ndarray): (H, W, 3) signal I, float32.
        rng (np.random.Generator): Where the noise comes from.
        read (float): r.
        shot (float): s.

    Returns:
        np.ndarray: (H, W, 3) float32.
    """
    level = np.sqrt(np.maximum(image, 0)) * np.float32(shot)
    level = np.sqrt(level * level + np.float32(read * read))
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    return image + grain * level
