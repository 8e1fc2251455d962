# Copyright (c) mmext contributors. All rights reserved.
"""Night and dusk: a dark sky, lamps, lit windows, a noisy sensor."""
from typing import Tuple

import cv2
import numpy as np

from .classes import ROAD, SKY, TRAFFIC_SIGN
from .optics import (camera_points, flatten_light, frame_rng, replace_sky,
                     sensor, world_points)
from .renderer import Frame

_STREET = (0.50, 0.80, 1.0)  # colour of street lamps, BGR
_HEAD = (1.0, 0.97, 0.92)


def _glow_of(frame: Frame) -> np.ndarray:
    if frame.glow is None:
        raise ValueError('night and dusk need the light that windows and '
                         'lamps emit; render the frame with night=True')
    return frame.glow.astype(np.float32)


def _head_lamps(frame: Frame) -> np.ndarray:
    """Light of the own low beam on each pixel, (H, W) float32."""
    x, y, z = camera_points(frame)
    z = np.maximum(z, 0.5)
    wide = np.float32(1.4) + np.float32(0.26) * z
    beam = np.exp(-(x / wide)**2, dtype=np.float32)
    # Dipped: little light above the lamps (0.7 m under the camera).
    beam *= 1 / (1 + np.exp(-(y / z + 0.01) * 60, dtype=np.float32)) + \
        np.float32(0.10)
    beam *= np.minimum(1, (z / 6)) / (1 + (z / np.float32(17))**2)
    beam[frame.depth == 0] = 0
    return beam


def _pools(frame: Frame) -> Tuple[np.ndarray, np.ndarray]:
    """Light of street lamps and of other vehicles, (H, W) float32 each."""
    street = np.zeros(frame.labels.shape, np.float32)
    cars = np.zeros_like(street)
    ahead = (frame.lamps[:, :3] - frame.pose[:3, 3]) @ frame.pose[:3, :3]
    near = (ahead[:, 2] > -12) & (ahead[:, 2] < 75)
    if not near.any():
        return street, cars
    world = world_points(frame)[::2, ::2]
    solid = frame.depth[::2, ::2] > 0
    for lamp in frame.lamps[near].astype(np.float32):
        kind = int(lamp[3])
        centre = lamp[:3].copy()
        if kind:
            centre[2] += 5 if kind == 2 else -5
        delta = world - centre
        square = np.einsum('hwc,hwc->hw', delta, delta)
        reach = 30. if kind == 0 else 7.
        pool = solid * (reach / (reach + square))
        pool = pool**2 if kind == 0 else 0.6 * pool**2
        target = street if kind == 0 else cars
        target += cv2.resize(pool.astype(np.float32), target.shape[::-1])
    return street, cars


def _bloom(glow: np.ndarray, scale: float) -> np.ndarray:
    """Lamps with the halo that the lens adds."""
    small = cv2.resize(glow, None, fx=0.5, fy=0.5)
    near = cv2.GaussianBlur(small, (0, 0), max(0.6, 1.5 * scale))
    wide = cv2.GaussianBlur(small, (0, 0), max(1., 6 * scale))
    halo = cv2.resize(0.5 * near + 0.45 * wide, glow.shape[1::-1])
    return glow + halo


def night(frame: Frame,
          strength: float,
          seed: int,
          ambient: float = 0.32) -> np.ndarray:
    """Night: head lamps, street lamps, windows, noise.

    Args:
        frame (Frame): Rendered with ``night=True``.
        strength (float): How dark and noisy.
        seed (int): Sensor noise.
        ambient (float): Share of day light that is left.
            Defaults to 0.32.

    Returns:
        np.ndarray: (H, W, 3) float32.
    """
    rng = frame_rng(frame, 'night', seed)
    glow = _glow_of(frame)
    base = flatten_light(frame.image.astype(np.float32), 0.8, 1.)
    street, cars = _pools(frame)
    own = _head_lamps(frame)
    light = np.float32(ambient / strength) * np.array([1.12, 0.97, 0.88],
                                                      np.float32)
    lit = base * light
    gain = 0.95 * street[..., None] * np.array(_STREET, np.float32)
    gain += (0.62 * own + 0.45 * cars)[..., None] * np.array(_HEAD, np.float32)
    shine = np.where(frame.labels == TRAFFIC_SIGN, 1.8,
                     np.where(frame.labels == ROAD, 0.85, 1.))
    lit += base * gain * shine[..., None].astype(np.float32)
    replace_sky(lit, frame.labels, (44, 30, 24), (66, 58, 58))
    lit = lit * (glow.max(-1, keepdims=True) < 40) + _bloom(
        glow, frame.labels.shape[1] / 512)
    lit = 255 * (1 - np.exp(-lit / 175))
    return sensor(lit, rng, 4. * strength, 0.4 * strength)


def dusk(frame: Frame,
         strength: float,
         seed: int,
         ambient: float = 0.46) -> np.ndarray:
    """Dusk: a low, coloured sky, cool and dim light, first lamps.

    Args:
        frame (Frame): Rendered with ``night=True``.
        strength (float): How late it is.
        seed (int): Sensor noise.
        ambient (float): Share of day light that is left.
            Defaults to 0.46.

    Returns:
        np.ndarray: (H, W, 3) float32.
    """
    rng = frame_rng(frame, 'dusk', seed)
    glow = _glow_of(frame) * np.float32(0.75)
    base = flatten_light(frame.image.astype(np.float32), 0.75, 0.9)
    street, cars = _pools(frame)
    light = np.float32(ambient / strength) * np.array([1.2, 0.95, 0.92],
                                                      np.float32)
    lit = base * light
    gain = 0.35 * street[..., None] * np.array(_STREET, np.float32)
    gain += (0.2 * _head_lamps(frame) + 0.2 * cars)[..., None]
    lit += base * gain
    sky = lit.copy()
    replace_sky(sky, frame.labels, (120, 84, 72), (120, 142, 205))
    clouds = frame.image.mean(-1, keepdims=True) / 215
    np.copyto(lit, sky * clouds, where=(frame.labels == SKY)[..., None])
    lit = lit * (glow.max(-1, keepdims=True) < 40) + _bloom(
        glow, frame.labels.shape[1] / 512)
    return sensor(lit, rng, 3 * strength, 0.35)
