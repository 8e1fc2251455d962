# Copyright (c) mmext contributors. All rights reserved.
"""Bad weather and bad light from a frame's image, depth and labels.

Labels, depth and pose stay what they are; only the image changes. All is
fixed by the frame (town, time) and a seed.
"""
from dataclasses import replace
from typing import Callable, Dict

import cv2
import numpy as np

from ..transforms.weather_particles import draw_lines
from .classes import (BUILDING, BUS, CAR, DOMAINS, FENCE, ROAD, SIDEWALK,
                      TERRAIN, TRUCK, VEGETATION, WALL)
from .night import dusk, night
from .optics import (flatten_light, frame_rng, ground_noise, replace_sky,
                     run_top, veil, world_points)
from .renderer import Frame


def fog(frame: Frame,
        strength: float,
        seed: int,
        beta: float = 0.035) -> np.ndarray:
    """Fog after Foggy Cityscapes, see :func:`~.optics.veil`.

    Args:
        frame (Frame): A clear frame.
        strength (float): Factor on ``beta``.
        seed (int): Shade of the fog.
        beta (float): Attenuation per metre. Defaults to 0.035, a
            meteorological range of 86 m.

    Returns:
        np.ndarray: (H, W, 3) float32.
    """
    rng = frame_rng(replace(frame, t=0.), 'fog', seed)
    light = rng.uniform(188, 214) * np.array([1.03, 1.0, 0.97])
    return veil(frame.image, frame.depth, beta * strength, light)


def _reflections(frame: Frame, image: np.ndarray, world: np.ndarray,
                 strength: float, seed: int) -> None:
    """Mirror what stands above into wet road and pavement, in place."""
    wet = (frame.labels == ROAD) | (frame.labels == SIDEWALK)
    h = image.shape[0]
    rows = np.arange(h, dtype=np.int32)[:, None]
    foot = np.maximum.accumulate(np.where(wet, 0, rows), 0)
    source = np.clip(2 * foot - rows, 0, h - 1).astype(np.float32)
    cols = np.arange(image.shape[1], dtype=np.float32)[None]
    mirror = cv2.remap(
        cv2.blur(image, (3, 9)),
        np.broadcast_to(cols, source.shape).copy(), source, cv2.INTER_LINEAR)
    puddles = ground_noise(world, 0.06, seed + frame.town)
    # Shallow rays are mirrored more (Fresnel); puddles more than asphalt.
    share = 0.10 + 0.42 * np.clip(frame.depth / 45, 0, 1)
    share *= np.where(puddles > 0.12, 1.35, 0.75).astype(np.float32)
    share = cv2.blur(share, (3, 3)) * wet * np.float32(min(strength, 1.6))
    share = np.clip(share, 0, 0.85)[..., None]
    image += share * (mirror * np.float32(0.9) - image)


def _streaks(shape, rng: np.random.Generator, count: int,
             length: float) -> np.ndarray:
    h, w = shape
    mask = np.zeros((h, w), np.uint8)
    slant = rng.uniform(-0.18, 0.18)
    x, y = rng.uniform(-10, w + 10, count), rng.uniform(-20, h, count)
    size = length * rng.uniform(0.4, 1.3, count)
    tone = rng.integers(60, 220, count)
    a = np.stack([x, y], 1)
    b = a + np.stack([size * slant, size], 1)
    draw_lines(mask, a, b, tone, shift=3)
    return cv2.blur(mask, (1, 3)).astype(np.float32)[..., None] / 255


def _drops(image: np.ndarray, rng: np.random.Generator, count: int) -> None:
    """Drops on the glass, which show the scene upside down, in place."""
    h, w = image.shape[:2]
    for _ in range(count):
        r = float(rng.uniform(0.006, 0.02) * w)
        x, y = rng.uniform(r, w - r), rng.uniform(r, h - r)
        x0, y0 = int(x - r), int(y - r)
        n = int(2 * r) + 1
        part = image[y0:y0 + n, x0:x0 + n]
        v, u = np.mgrid[:part.shape[0], :part.shape[1]].astype(np.float32)
        du, dv = u + x0 - x, v + y0 - y
        inside = np.clip((1 - np.hypot(du, dv * 0.85) / r) * 3, 0, 1)
        seen = cv2.remap(
            image, (x - 3 * du).astype(np.float32),
            (y - 3 * dv).astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT)
        seen = cv2.blur(seen, (3, 3)) * (1 - 0.25 * dv[..., None] / r)
        part += inside[..., None] * (seen - part)


def rain(frame: Frame, strength: float, seed: int) -> np.ndarray:
    """Rain: grey light, haze, wet road, streaks, drops on the glass.

    Args:
        frame (Frame): A clear frame.
        strength (float): How heavy.
        seed (int): Streaks, drops, puddles.

    Returns:
        np.ndarray: (H, W, 3) float32.
    """
    rng = frame_rng(frame, 'rain', seed)
    image = frame.image.astype(np.float32)
    h, w = frame.labels.shape
    replace_sky(image, frame.labels, (128, 124, 120), (160, 157, 153), 0.85)
    dim = np.float32(np.clip(0.92 - 0.14 * strength, 0.3, 1))
    image = flatten_light(image, 0.7, 0.9) * dim
    world = world_points(frame)
    ground = frame.labels == ROAD
    image[ground] *= np.float32(0.82)
    _reflections(frame, image, world, strength, seed)
    image = veil(image, frame.depth, 0.009 * strength, (142, 139, 136))
    scale = w / 512
    layers = _streaks((h, w), rng, int(270 * strength * scale), 20 * scale)
    near = _streaks((h, w), rng, int(50 * strength * scale), 55 * scale)
    image += np.clip(0.5 * layers + 0.4 * near, 0, 0.7) * (205 - image)
    _drops(image, rng, int(8 * strength))
    return image


_CAPS = {  # class: (metres of snow on its top edge, share of it)
    CAR: (0.34, 1.),
    TRUCK: (0.3, 1.),
    BUS: (0.3, 1.),
    WALL: (0.3, 0.95),
    FENCE: (0.22, 0.9),
    VEGETATION: (2.4, 0.62),
    BUILDING: (1.1, 0.9)
}


def _cover(frame: Frame, world: np.ndarray, strength: float,
           seed: int) -> np.ndarray:
    """How much snow lies in each pixel, (H, W) float32 from 0 to 1."""
    labels = frame.labels
    soft = ground_noise(world, 0.05, seed + 7)
    wide = ground_noise(world, 0.22, seed + 3)
    patch = soft * 0.6 + wide * 0.8
    out = np.zeros(labels.shape, np.float32)
    for label, level in ((ROAD, -0.02), (SIDEWALK, 0.34), (TERRAIN, 0.75)):
        lies = np.clip((patch + level * strength) * 3 + 0.5, 0, 1)
        np.copyto(out, lies, where=labels == label)
    rows = np.arange(labels.shape[0], dtype=np.int32)[:, None]
    top = run_top(labels)
    below = (rows - top) * frame.depth / np.float32(frame.intrinsics.f)
    # An edge under something nearer (a crown, a sign) is no top edge.
    above = np.roll(frame.depth, 1, 0)
    free = (above == 0) | (above > 1.02 * frame.depth)
    free[0] = False
    below[~np.take_along_axis(free, top, 0)] = 99
    grain = np.clip(soft + 0.8, 0, 1)
    for label, (reach, share) in _CAPS.items():
        cap = np.clip(2 * (1 - below / np.float32(reach)), 0, 1)
        cap = cap * share
        if label == VEGETATION:
            cap = np.maximum(cap, 0.22 * strength * grain)
        np.copyto(out, cap.astype(np.float32), where=labels == label)
    return out * np.float32(min(strength, 1.2))


def _flakes(shape, rng: np.random.Generator, strength: float,
            scale: float) -> np.ndarray:
    h, w = shape
    out = np.zeros((h, w), np.float32)
    for count, low, high, soft, gain in ((520, 0.5, 1.0, 1,
                                          0.75), (150, 1.0, 1.8, 3, 0.8),
                                         (26, 2.2, 4.5, 7, 0.6)):
        mask = np.zeros((h, w), np.uint8)
        n = int(count * strength)
        xy = (rng.uniform(0, 1, (n, 2)) * [w * 8, h * 8]).astype(int)
        size = (rng.uniform(low, high, n) * scale * 8).astype(int)
        for (x, y), r in zip(xy.tolist(), size.tolist()):
            cv2.circle(mask, (x, y), r, 255, -1, cv2.LINE_AA, 3)
        if soft > 1:
            mask = cv2.blur(mask, (soft, soft))
        out = np.maximum(out, mask * np.float32(gain / 255))
    return np.clip(out, 0, 0.9)[..., None]


def snow(frame: Frame, strength: float, seed: int) -> np.ndarray:
    """Snow: flat light, covered ground and tops, haze, flakes.

    Args:
        frame (Frame): A clear frame.
        strength (float): How much snow.
        seed (int): Flakes and cover.

    Returns:
        np.ndarray: (H, W, 3) float32.
    """
    rng = frame_rng(frame, 'snow', seed)
    image = frame.image.astype(np.float32)
    replace_sky(image, frame.labels, (176, 172, 168), (206, 203, 200), 0.9)
    image = flatten_light(image, 0.68, 0.86)
    world = world_points(frame)
    lies = _cover(frame, world, strength, seed)[..., None]
    rough = ground_noise(world, 0.02, seed)[..., None]
    white = np.array([226, 221, 216], np.float32) * (1 + 0.07 * rough)
    image += np.clip(lies, 0, 0.97) * (white - image)
    image = veil(image, frame.depth, 0.012 * strength, (207, 204, 201))
    scale = frame.labels.shape[1] / 512
    flakes = _flakes(frame.labels.shape, rng, strength, scale)
    return image + flakes * (245 - image)


WEATHER: Dict[str, Callable[..., np.ndarray]] = dict(
    fog=fog, night=night, rain=rain, snow=snow, dusk=dusk)


def apply_weather(frame: Frame,
                  domain: str,
                  strength: float = 1.,
                  seed: int = 0,
                  **settings) -> Frame:
    """A frame as it would look in another domain.

    Args:
        frame (Frame): A clear frame. For 'night' and 'dusk' it must have
            been rendered with ``night=True``.
        domain (str): One of ``DOMAINS``; 'clear' changes nothing.
        strength (float): How bad, 1 being the default of each domain.
            Defaults to 1.
        seed (int): Seed of everything random. Defaults to 0.
        **settings: Further settings of the domain's function, such as
            ``beta`` for fog.

    Returns:
        Frame: The same frame with another image.

    Raises:
        ValueError: If the domain is not known, or the frame has no emitted
            light and the domain needs it.

    Examples:
        >>> frame = StreetWorld(town=3).render(t=12.5)
        >>> foggy = apply_weather(frame, 'fog', beta=0.02)
    """
    if domain not in DOMAINS:
        raise ValueError(f'unknown StreetWorld domain {domain!r}; choose '
                         f'from {", ".join(DOMAINS)}')
    if not strength > 0:
        raise ValueError(f'strength must be positive, got {strength}')
    if domain == 'clear':
        return frame
    image = WEATHER[domain](frame, strength, seed, **settings)
    return replace(frame, image=np.clip(image, 0, 255).astype(np.uint8))
