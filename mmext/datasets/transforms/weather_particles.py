# Copyright (c) mmext contributors. All rights reserved.
"""What weather puts in front of a lens: noise, lamps, streaks, flakes."""
from typing import Tuple

import cv2
import numpy as np


def value_noise(shape: Tuple[int, int], cell: float,
                rng: np.random.Generator) -> np.ndarray:
    """Smooth noise in [0, 1] with features of ``cell`` pixels.

    Args:
        shape (tuple[int]): ``(H, W)``.
        cell (float): Distance of the random values, pixels.
        rng (Generator): Where they come from.

    Returns:
        ndarray: ``(H, W)`` float32.
    """
    rows, cols = (max(2, int(np.ceil(n / cell)) + 2) for n in shape)
    grid = rng.random((rows, cols), dtype=np.float32)
    noise = cv2.resize(
        grid, (int(cols * cell) + 1, int(rows * cell) + 1),
        interpolation=cv2.INTER_CUBIC)
    return np.clip(noise[:shape[0], :shape[1]], 0, 1)


def draw_lines(canvas: np.ndarray,
               start: np.ndarray,
               end: np.ndarray,
               values: np.ndarray,
               thickness: int = 1,
               shift: int = 0) -> None:
    """Draw smooth lines, falling drops or flakes, in place.

    Args:
        canvas (ndarray): ``(H, W)`` uint8 or float32.
        start (ndarray): ``(n, 2)`` x and y, pixels.
        end (ndarray): ``(n, 2)`` x and y, pixels.
        values (ndarray): ``(n, )`` brightness of each line.
        thickness (int): Pixels. Defaults to 1.
        shift (int): Bits of the coordinates' fraction that are kept.
            Defaults to 0.
    """
    scale = 1 << shift
    for p, q, value in zip((start * scale).astype(int).tolist(),
                           (end * scale).astype(int).tolist(),
                           values.tolist()):
        cv2.line(canvas, p, q, value, thickness, cv2.LINE_AA, shift)


def add_lamp(glow: np.ndarray, cx: float, cy: float, radius: float,
             power: float, colour: np.ndarray) -> None:
    """Add a bright disc with a halo (linear light) to ``glow``, in place.

    Args:
        glow (ndarray): ``(H, W, 3)`` float32.
        cx (float): Column of its centre.
        cy (float): Row of its centre.
        radius (float): Of the disc, pixels.
        power (float): Brightness of the centre.
        colour (ndarray): ``(3, )`` BGR.
    """
    reach = int(12 * radius) + 2
    y0, y1 = max(0, int(cy) - reach), min(glow.shape[0], int(cy) + reach)
    x0, x1 = max(0, int(cx) - reach), min(glow.shape[1], int(cx) + reach)
    if y0 >= y1 or x0 >= x1:
        return
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    d = np.sqrt((x - cx)**2 + (y - cy)**2) / radius
    shape = np.exp(-d**2) + 0.10 / (1 + d**2) * np.clip(1 - d / 12, 0, 1)
    glow[y0:y1, x0:x1] += (power * shape)[..., None] * colour


def rain_streaks(shape: Tuple[int, int], density: float,
                 rng: np.random.Generator) -> np.ndarray:
    """Falling drops, drawn by motion: far ones short and faint.

    Args:
        shape (tuple[int]): ``(H, W)``.
        density (float): Streaks per 1000 pixels.
        rng (Generator): Where and how long they are.

    Returns:
        ndarray: Light to add, ``(H, W)`` float32.
    """
    height, width = shape
    layer = np.zeros(shape, np.float32)
    slant = rng.uniform(-0.22, 0.22)
    for length, thickness, light, share in ((0.035, 1, 0.10, 0.6),
                                            (0.07, 1, 0.16, 0.3), (0.14, 2,
                                                                   0.16, 0.1)):
        drops = np.zeros(shape, np.float32)
        count = int(density * share * height * width / 1000)
        x = rng.uniform(-0.1, 1.1, count) * width
        y = rng.uniform(-0.1, 1.0, count) * height
        dy = rng.uniform(0.6, 1.3, count) * length * height
        draw_lines(drops, np.stack([x, y], 1),
                   np.stack([x + slant * dy, y + dy], 1),
                   rng.uniform(0.4, 1.0, count), thickness)
        layer += light * cv2.GaussianBlur(drops, (3, 3), 0.6 * thickness)
    return layer


def lens_drops(image: np.ndarray, count: int,
               rng: np.random.Generator) -> np.ndarray:
    """Drops on the glass: small discs that show the scene upside down.

    Args:
        image (ndarray): ``(H, W, 3)`` float32.
        count (int): Most of them; at least half as many are drawn.
        rng (Generator): Where and how large they are.

    Returns:
        ndarray: ``(H, W, 3)`` float32.
    """
    height, width = image.shape[:2]
    blurred = cv2.GaussianBlur(image, (0, 0), 4)
    out = image.copy()
    for _ in range(rng.integers(count // 2, count + 1)):
        radius = rng.uniform(0.008, 0.028) * width
        cx, cy = rng.uniform(0, width), rng.uniform(0, height)
        y0, y1 = int(max(0, cy - radius)), int(min(height, cy + radius))
        x0, x1 = int(max(0, cx - radius)), int(min(width, cx + radius))
        if y1 - y0 < 3 or x1 - x0 < 3:
            continue
        y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        d = ((x - cx) / radius)**2 + ((y - cy) / radius)**2
        alpha = (0.8 * np.clip(2.5 * (1 - d), 0, 1))[..., None]
        seen = blurred[y0:y1, x0:x1][::-1, ::-1]
        out[y0:y1, x0:x1] = out[y0:y1, x0:x1] * (1 - alpha) + seen * alpha
    return out


def snow_flakes(shape: Tuple[int, int], density: float,
                rng: np.random.Generator) -> np.ndarray:
    """Flakes in four sizes, the near ones blurred by motion.

    Args:
        shape (tuple[int]): ``(H, W)``.
        density (float): Flakes per 1000 pixels.
        rng (Generator): Where they are.

    Returns:
        ndarray: Share of white in [0, 1], ``(H, W)`` float32.
    """
    height, width = shape
    layer = np.zeros(shape, np.float32)
    slant = rng.uniform(-0.6, 0.6)
    for radius, light, share in ((0.8, 0.55, 0.62), (1.4, 0.65, 0.27),
                                 (2.4, 0.7, 0.09), (4.5, 0.5, 0.02)):
        points = np.zeros(shape, np.float32)
        count = int(density * share * height * width / 1000)
        x, y = (rng.uniform(0, n, count) for n in (width, height))
        end = np.stack([x + slant * radius * 1.5, y + radius * 1.5], 1)
        draw_lines(points, np.stack([x, y], 1), end,
                   rng.uniform(0.5, 1, count), max(1, round(radius * 1.6)))
        blur = cv2.GaussianBlur(points, (0, 0), 0.45 * radius + 0.2)
        layer = np.maximum(layer, light * blur)
    return np.clip(layer, 0, 1)
