# Copyright (c) mmext contributors. All rights reserved.
"""Fog, night, rain and snow for real frames that have labels but no depth."""
import hashlib
from typing import Callable, Dict, Tuple

import cv2
import numpy as np

from mmext.utils.user_error import ConfigError
from .pseudo_depth import (CAMVID_SURFACES, Surfaces, estimate_horizon,
                           guided_filter, pseudo_depth)
from .weather_particles import (add_lamp, lens_drops, rain_streaks,
                                snow_flakes, value_noise)

#: Attenuation of fog, 1 / m (visibility about 3.9 / beta metres).
FOG_BETA = (0.020, 0.040, 0.070)
#: Share of daylight that is left at night, in linear light.
NIGHT_AMBIENT = (0.120, 0.065, 0.030)
#: Haze (1 / m), wetness of the ground [0, 1], streaks per 1000 pixels.
RAIN = ((0.008, 0.45, 1.6), (0.016, 0.65, 3.2), (0.028, 0.8, 5.5))
#: Haze (1 / m), covered share of the ground [0, 1], flakes per 1000 pixels.
SNOW = ((0.012, 0.45, 2.5), (0.026, 0.7, 6.0), (0.042, 0.88, 10.0))


class Scene:
    """One frame with what the weather needs to know of it.

    Args:
        image (ndarray): BGR ``(H, W, 3)`` uint8.
        labels (ndarray): Label map ``(H, W)`` uint8.
        surfaces (Surfaces): Meaning of the ids. Defaults to CamVid's.
    """

    def __init__(self,
                 image: np.ndarray,
                 labels: np.ndarray,
                 surfaces: Surfaces = CAMVID_SURFACES) -> None:
        if image.shape[:2] != labels.shape:
            raise ValueError(
                'Expected an image and labels of one size, but got '
                f'{image.shape[:2]} and {labels.shape}.')
        self.image = image.astype(np.float32) / 255
        self.labels = labels
        self.surfaces = surfaces
        self.shape: Tuple[int, int] = labels.shape
        self.horizon = estimate_horizon(labels, surfaces)
        self.depth = pseudo_depth(labels, surfaces, self.horizon)
        self.grey = cv2.cvtColor(self.image, cv2.COLOR_BGR2GRAY)

    def soft(self, ids: Tuple[int, ...], radius: int = 4) -> np.ndarray:
        """Mask of these ids in [0, 1], soft along the image's edges."""
        mask = np.isin(self.labels, ids).astype(np.float32)
        return np.clip(guided_filter(self.grey, mask, radius), 0, 1)

    def transmission(self, beta) -> np.ndarray:
        """exp(-beta * depth), smoothed along the image's edges."""
        t = np.exp(-beta * self.depth).astype(np.float32)
        return np.clip(guided_filter(self.grey, t), 0, 1)


def _haze(image: np.ndarray, scene: Scene, beta, air) -> np.ndarray:
    """Koschmieder's law: I = J * t + A * (1 - t), t = exp(-beta * depth)."""
    t = scene.transmission(beta)[..., None]
    return image * t + np.asarray(air, np.float32) * (1 - t)


def fog(scene: Scene, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Fog by Koschmieder's law on the pseudo-depth, a little uneven.

    Args:
        scene (Scene): The frame.
        severity (int): 1, 2 or 3; the attenuation is ``FOG_BETA``.
        rng (Generator): Random state.

    Returns:
        ndarray: BGR in [0, 1], ``(H, W, 3)`` float32.
    """
    beta = FOG_BETA[severity - 1] * rng.uniform(0.9, 1.1)
    uneven = 0.75 + 0.5 * value_noise(scene.shape, scene.shape[1] / 3, rng)
    air = rng.uniform(0.74, 0.84) * np.array([1.0, 0.99, 0.975])
    image = 0.9 * scene.image + 0.1 * scene.grey[..., None]
    return _haze(image, scene, beta * uneven, air)


def night(scene: Scene, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Night: little cool ambient light, head and street lamps, noise.

    In linear light. The own head lamps fall off with the square of the
    distance in a cone below the horizon; street lamps sit on the tops of
    tall poles and warm what is near; cars have lamps that glow. Then
    exposure, shot and read noise as of a camera at high gain.

    Args:
        scene (Scene): The frame.
        severity (int): 1, 2 or 3; the ambient light is ``NIGHT_AMBIENT``.
        rng (Generator): Random state.

    Returns:
        ndarray: BGR in [0, 1], ``(H, W, 3)`` float32.
    """
    height, width = scene.shape
    albedo = scene.image**2.2
    # White clouds and burnt-out walls are no lamps: cut, then take the sky,
    # with what of it shines through twigs and around edges.
    sky_ids = scene.surfaces.sky
    near = cv2.dilate(
        np.isin(scene.labels, sky_ids).astype(np.uint8), np.ones((9, 9)))
    near |= np.isin(scene.labels, scene.surfaces.plants)
    through = np.clip((scene.grey - 0.45) / 0.2, 0, 1) * near
    sky = np.maximum(scene.soft(sky_ids), through)[..., None]
    albedo = np.minimum(albedo, 0.75) * (1 - sky)
    ambient = NIGHT_AMBIENT[severity - 1] * np.array([1.25, 1.0, 0.85])
    light = np.broadcast_to(ambient, (height, width, 3)).astype(np.float32)
    light = light + _head_lamps(scene)[..., None] * \
        np.array([0.85, 0.97, 1.0], np.float32)
    glow = np.zeros((height, width, 3), np.float32)
    light = light + _street_lamps(scene, glow, rng)
    _car_lamps(scene, glow, rng)
    rows = np.linspace(0.4, 1.6, height, dtype=np.float32)[:, None, None]
    night_sky = ambient.astype(np.float32) * 0.22 * rows
    linear = albedo * light + sky * night_sky + glow
    gain = (1.0, 0.85, 0.7)[severity - 1]
    linear = np.clip(gain * linear, 0, 1)
    # Shot noise grows with the root of the signal, read noise does not.
    sigma = np.sqrt(linear * 0.0009 + (0.0035 + 0.0015 * severity)**2)
    linear = linear + sigma * rng.standard_normal(linear.shape).astype(
        np.float32)
    return cv2.GaussianBlur(np.clip(linear, 0, 1)**(1 / 2.2), (3, 3), 0.6)


def _head_lamps(scene: Scene) -> np.ndarray:
    """Light of the own lamps on each pixel, in units of daylight."""
    height, width = scene.shape
    x = (np.arange(width, dtype=np.float32) - width / 2) / width
    y = (np.arange(height, dtype=np.float32) - scene.horizon) / height
    z = np.clip(scene.depth, 4, 200)
    across = np.exp(-0.5 * (x[None] / 0.24)**2)
    # dipped beam: a sharp upper edge a little below the horizon
    down = 1 / (1 + np.exp(-(y[:, None] - 0.01) / 0.012))
    down = down * np.exp(-np.maximum(y[:, None] - 0.3, 0) / 0.12)
    lamps = across * (0.06 + 0.94 * down) * np.minimum((9 / z)**2, 1.6)
    return 0.5 * cv2.GaussianBlur(lamps, (0, 0), 3)


def _street_lamps(scene: Scene, glow: np.ndarray,
                  rng: np.random.Generator) -> np.ndarray:
    """Warm light around pole tops; lamps are drawn into ``glow``."""
    height, width = scene.shape
    mask = np.isin(scene.labels, scene.surfaces.poles).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    warm = np.array([0.35, 0.68, 1.0], np.float32)
    light = np.zeros((height, width, 3), np.float32)
    grid_y, grid_x = np.mgrid[:height, :width].astype(np.float32)
    tall = [
        s for s in stats[1:]
        if s[3] > 0.12 * height and s[1] < scene.horizon - 0.1 * height
    ]
    for x, y, w, h, _ in sorted(tall, key=lambda s: -s[3])[:5]:
        cx, cy = x + w / 2 + rng.uniform(-2, 2), float(y + 2)
        power = rng.uniform(0.6, 1.0)
        reach = 0.55 * h
        # a pool below the lamp, wider than high
        distance = ((grid_x - cx) / (1.1 * reach))**2 + \
            ((grid_y - cy - 0.8 * h) / reach)**2
        light += (0.16 * power / (1 + distance**1.5))[..., None] * warm
        add_lamp(glow, cx, cy, max(1.5, 0.03 * h), power, warm)
    return light


def _car_lamps(scene: Scene, glow: np.ndarray,
               rng: np.random.Generator) -> None:
    """Two lamps on each car: white on the far side, red on our own."""
    height, width = scene.shape
    mask = np.isin(scene.labels, scene.surfaces.cars).astype(np.uint8)
    _, _, stats, centres = cv2.connectedComponentsWithStats(mask)
    for (x, y, w, h, area), (cx, _) in zip(stats[1:], centres[1:]):
        if area < 0.0004 * mask.size or not 0.4 < w / h < 2.2:
            continue
        white = cx > 0.52 * width
        colour = np.array([0.9, 0.97, 1.0] if white else [0.05, 0.05, 1.0])
        for side in (0.17, 0.83):
            # where two cars look like one, a lamp would hang in the air
            if not mask[int(y + 0.6 * h), int(x + side * w)]:
                continue
            add_lamp(glow, x + side * w, y + 0.6 * h, max(1.0, 0.05 * w),
                     rng.uniform(0.7, 1.0) * (1.0 if white else 0.5), colour)


def rain(scene: Scene, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Rain: dull light, wet mirroring ground, haze, streaks, drops.

    The ground mirrors what stands on it, with more weight at grazing angles
    (near the horizon), blurred by ripples, and is darker where it is wet.

    Args:
        scene (Scene): The frame.
        severity (int): 1, 2 or 3; see ``RAIN``.
        rng (Generator): Random state.

    Returns:
        ndarray: BGR in [0, 1], ``(H, W, 3)`` float32.
    """
    beta, wetness, density = RAIN[severity - 1]
    image = scene.image * (0.82, 0.72, 0.62)[severity - 1]
    image = 0.75 * image + 0.25 * image.mean(2, keepdims=True)
    image = _wet_ground(image, scene, wetness, rng)
    image = _haze(image, scene, beta, np.array([0.62, 0.60, 0.58]))
    image = image + rain_streaks(scene.shape, density, rng)[..., None]
    return lens_drops(image, 4 * severity, rng)


def _wet_ground(image: np.ndarray, scene: Scene, wetness: float,
                rng: np.random.Generator) -> np.ndarray:
    height, width = scene.shape
    ground = np.isin(scene.labels, scene.surfaces.ground)
    top = np.where(ground.any(0), np.argmax(ground, 0),
                   height).astype(np.float32)
    top = cv2.blur(top[None], (31, 1))[0]
    ripple = 6 * (value_noise(scene.shape, 7, rng) - 0.5)
    rows = np.arange(height, dtype=np.float32)[:, None]
    # near the camera the ground sees less high above the contact line
    source_y = np.clip(2 * top[None] - rows + ripple, 0, height - 1)
    source_x = np.arange(width, dtype=np.float32)[None] + ripple
    mirror = cv2.remap(
        image,
        source_x.astype(np.float32),
        source_y.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT)
    mirror = cv2.GaussianBlur(mirror, (0, 0), sigmaX=1.5, sigmaY=7)
    angle = np.clip((rows - scene.horizon) / (height - scene.horizon), 0, 1)
    fresnel = 0.12 + 0.75 * (1 - angle)**2.5
    puddles = np.clip(2.2 * value_noise(scene.shape, 60, rng) - 0.4, 0.25, 1)
    weight = (scene.soft(scene.surfaces.ground, 2) * wetness * fresnel *
              puddles)[..., None]
    dark = scene.soft(scene.surfaces.ground, 2)[..., None]
    image = image * (1 - 0.4 * wetness * dark)
    return image * (1 - weight) + mirror * weight


def snow(scene: Scene, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Snow: covered ground, cars and plants, haze, flakes.

    Args:
        scene (Scene): The frame.
        severity (int): 1, 2 or 3; see ``SNOW``.
        rng (Generator): Random state.

    Returns:
        ndarray: BGR in [0, 1], ``(H, W, 3)`` float32.
    """
    beta, cover, density = SNOW[severity - 1]
    image = 0.8 * scene.image + 0.2 * scene.grey[..., None]
    weight = _snow_cover(scene, cover, rng)[..., None]
    # keep some of the shading below, so that the cover is not paint
    detail = scene.grey - cv2.GaussianBlur(scene.grey, (0, 0), 12)
    white = (0.84 + 0.5 * detail)[..., None] * np.array([1.0, 0.985, 0.965])
    image = image * (1 - weight) + white * weight
    image = _haze(image, scene, beta, np.array([0.80, 0.79, 0.78]))
    flakes = snow_flakes(scene.shape, density, rng)[..., None]
    return image * (1 - flakes) + 0.96 * flakes


def _snow_cover(scene: Scene, cover: float,
                rng: np.random.Generator) -> np.ndarray:
    """Share of snow in [0, 1] on each pixel."""
    height, width = scene.shape
    surfaces = scene.surfaces
    # On the ground patches that shrink with distance, as the ground does.
    rows = np.arange(height, dtype=np.float32)[:, None]
    near = np.clip((rows - scene.horizon) / (height - scene.horizon), 0.02, 1)
    x = (np.arange(width, dtype=np.float32)[None] - width / 2) / near * 0.5
    patches = value_noise((512, 2048), 40, rng) * 0.6 + \
        value_noise((512, 2048), 9, rng) * 0.4
    patches = cv2.remap(
        patches,
        np.broadcast_to(x + 1024, scene.shape).astype(np.float32),
        np.broadcast_to(60 / near, scene.shape).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT)
    # two tracks that wheels have cleared
    lane = np.abs(x + rng.uniform(-20, 20))
    tracks = np.exp(-0.5 * ((lane - 95) / 30)**2)
    road = np.isin(scene.labels, surfaces.ground[:1])
    level = patches + 1.6 * (cover - 0.5) - 0.45 * tracks * road
    weight = np.clip(4 * (level - 0.35), 0, 1) * \
        scene.soft(surfaces.ground, 2)
    # what looks up: the upper part of cars, twigs and leaves
    cars = np.isin(scene.labels, surfaces.cars).astype(np.uint8)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(cars)
    top = stats[:, 1].astype(np.float32)[parts]
    tall = np.maximum(stats[:, 3], 1).astype(np.float32)[parts]
    roof = np.clip(1.6 - 3.2 * (rows - top) / tall, 0, 1) * cars
    plants = np.isin(scene.labels, surfaces.plants)
    # snow lies on the dark twigs, in fine grains and larger clumps
    speckle = value_noise(scene.shape, 2.2, rng) * \
        (0.5 + value_noise(scene.shape, 14, rng))
    twigs = np.clip(2.5 * (speckle - 0.45), 0, 1) * \
        np.clip((0.6 - scene.grey) / 0.2, 0, 1)
    others = cover * np.maximum(0.9 * roof, 0.7 * twigs * plants)
    return np.maximum(weight, cv2.GaussianBlur(others, (3, 3), 0.8))


#: The domains by name, in the order of ACDC.
WEATHER: Dict[str, Callable[[Scene, int, np.random.Generator],
                            np.ndarray]] = dict(
                                fog=fog, night=night, rain=rain, snow=snow)


def weather_seed(name: str, domain: str, salt: int = 0) -> int:
    """Seed of one frame: it depends on the file's name, not on the order.

    Args:
        name (str): File name without folder.
        domain (str): Name of the domain.
        salt (int): Another number gives another rendering. Defaults to 0.

    Returns:
        int: 64-bit seed. All severities share it, so that they show the
        same scene getting worse.
    """
    text = f'{domain}/{name}/{salt}'.encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], 'little')


def add_weather(image: np.ndarray,
                labels: np.ndarray,
                domain: str,
                severity: int = 2,
                seed: int = 0,
                surfaces: Surfaces = CAMVID_SURFACES) -> np.ndarray:
    """Show a daylight frame in other weather; the labels stay valid.

    Args:
        image (ndarray): BGR ``(H, W, 3)`` uint8.
        labels (ndarray): Label map ``(H, W)`` uint8.
        domain (str): ``'fog'``, ``'night'``, ``'rain'`` or ``'snow'``.
        severity (int): 1, 2 or 3. Defaults to 2.
        seed (int): Random state, see :func:`weather_seed`. Defaults to 0.
        surfaces (Surfaces): Meaning of the ids. Defaults to CamVid's.

    Returns:
        ndarray: BGR ``(H, W, 3)`` uint8.

    Raises:
        ConfigError: If domain or severity is unknown.

    Examples:
        >>> foggy = add_weather(image, labels, 'fog', severity=2,
        ...                     seed=weather_seed('f00030', 'fog'))
    """
    if domain not in WEATHER or severity not in (1, 2, 3):
        raise ConfigError(
            f'Expected a domain of {list(WEATHER)} and a severity of 1, 2 or '
            f'3, but got {domain!r} and {severity!r}.')
    scene = Scene(image, labels, surfaces)
    out = WEATHER[domain](scene, severity, np.random.default_rng(seed))
    return np.clip(255 * out + 0.5, 0, 255).astype(np.uint8)
