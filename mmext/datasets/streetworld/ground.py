# Copyright (c) mmext contributors. All rights reserved.
"""The ground (a rolling map of the street) and the sky with its skyline."""
from functools import lru_cache
from typing import Dict, List

import cv2
import numpy as np

from .canvas import Canvas
from .classes import BUILDING, ROAD, SIDEWALK, SKY, TERRAIN, VEGETATION
from .street import CHUNK, Street
from .textures import noise, noise_patch, rng_of

HALF = 24.  # metres mapped to each side of the street's middle
FAR = 250.  # metres; the skyline stands there
_X, _Z = 20, 10  # texels a metre across and along
_RING = 12  # chunks kept
_STEPS = ((1, 1), (1, 4), (2, 12), (4, 48))  # reductions (across, along)
_BANDS = (9., 18., 40.)  # metres at which the next reduction starts


def _stripe(chunk: np.ndarray, lat0: float, lat1: float, value) -> None:
    a = int(round((lat0 + HALF) * _X))
    b = max(a + 1, int(round((lat1 + HALF) * _X)))
    chunk[:, max(a, 0):b] = value


def _columns(side: int, lat0: float, lat1: float) -> slice:
    """Columns of a map between two distances from the middle, one side."""
    a, b = sorted((side * lat0, side * min(lat1, HALF)))
    return slice(int(round((a + HALF) * _X)), int(round((b + HALF) * _X)))


@lru_cache(maxsize=6)
def _asphalt(tone: float, seed: int) -> np.ndarray:
    h, w = int(CHUNK * _Z), int(2 * HALF * _X)
    grey = tone * (1 + 0.10 * noise_patch(seed + 3, h, w, 2))
    fine = noise(5, 256, 3, 6)
    fine = np.tile(fine, (h // 256 + 1, w // 256 + 1))[:h, :w]
    grey = grey + 13 * fine
    img = np.stack([grey * 1.02, grey, grey * 0.98], -1)
    return np.clip(img, 0, 255).astype(np.uint8)


def _road(street: Street, seed: int) -> np.ndarray:
    """Asphalt with patches, cracks and covers over a whole chunk."""
    h, w = int(CHUNK * _Z), int(2 * HALF * _X)
    rng = rng_of(street.seed, seed, 0x60)
    img = _asphalt(street.asphalt, seed % 3).copy()
    for _ in range(rng.integers(0, 3)):
        x, y = rng.uniform(-street.edge, street.edge), rng.integers(0, h - 60)
        x = int((x + HALF) * _X)
        part = img[y:y + rng.integers(15, 60), x:x + rng.integers(20, 70)]
        part[:] = part * np.float32(0.84)
    for _ in range(rng.integers(0, 3)):
        p = np.cumsum(rng.normal(0, 22, (8, 2)), 0) + rng.uniform(0, [w, h])
        cv2.polylines(img, [p.astype(np.int32)], False, (50, 50, 50), 2)
    if rng.random() < 0.5:
        x = int((rng.uniform(-3, 3) + HALF) * _X)
        cv2.ellipse(img, (x, h // 2), (7, 4), 0, 0, 360, (55, 55, 58), -1)
    return img


@lru_cache(maxsize=4)
def _pavement(seed: int, tone: float) -> np.ndarray:
    h, w = int(CHUNK * _Z), int(2 * HALF * _X)
    grey = tone * (1 + 0.07 * noise_patch(seed + 9, h, w, 3))
    grey[::5] *= 0.86
    grey[:, ::10] *= 0.86
    img = np.stack([grey * 0.94, grey * 0.99, grey * 1.03], -1)
    return np.clip(img, 0, 255).astype(np.uint8)


@lru_cache(maxsize=6)
def _grass(street: Street, seed: int, bare: bool) -> np.ndarray:
    h, w = int(CHUNK * _Z), int(2 * HALF * _X)
    tone = np.array((95, 120, 140) if bare else street.grass, np.float32)
    rough = noise(9, 256, 3, 5)
    rough = np.tile(rough, (h // 256 + 1, w // 256 + 1))[:h, :w]
    gain = 1 + 0.24 * noise_patch(seed + 5, h, w, 2) + 0.3 * rough
    return np.clip(tone * gain[..., None], 0, 255).astype(np.uint8)


def _marks(street: Street, img: np.ndarray, chunk: int, open_: bool) -> None:
    """Lane lines, tram rails and the kerb."""
    h = img.shape[0]
    white = 205 + 18 * noise_patch(chunk, h, 1, 4)[:, :1]
    s = np.arange(h) / _Z + chunk * CHUNK
    dash = (s % 8 < 4)[:, None]
    if street.tram:
        for side in (-1, 1):
            for off in (-0.72, 0.72):
                x = side * 1.6 + off
                _stripe(img, x - 0.1, x + 0.1, 60)
                _stripe(img, x - 0.04, x + 0.04, 150)
            _stripe(img, side * 3.2 - 0.06, side * 3.2 + 0.06, white[...,
                                                                     None])
    elif street.lanes > 1 or chunk % 2:
        for x in (-0.16, 0.16) if street.lanes > 1 else (0., ):
            _stripe(img, x - 0.06, x + 0.06, white[..., None])
    for side in (-1, 1):
        for k in range(street.lanes):
            x = side * (street.tram + k * street.lane)
            if not k and not street.tram and street.lanes == 1:
                x = 0.
            elif not k:
                continue
            a = int(round((x - 0.06 + HALF) * _X))
            img[:, a:a + 3] = np.where(dash[..., None], white[..., None],
                                       img[:, a:a + 3])
        x = side * (street.edge - street.parking)
        gaps = (s % 2 < 1)[:, None]
        a = int(round((x - 0.05 + HALF) * _X))
        if not open_:
            img[:, a:a + 2] = np.where(gaps[..., None], white[..., None],
                                       img[:, a:a + 2])


def _zebras(street: Street, img: np.ndarray) -> None:
    """Zebra crossings and stop lines of a crossing's chunk."""
    w = img.shape[1]
    on = np.abs((np.arange(w) + 0.5) / _X - HALF) < street.edge
    bars = ((np.arange(w) / _X) % 1.0 < 0.5) & on
    for a, b in ((4.2, 7.2), (18.8, 21.8)):
        img[int(a * _Z):int(b * _Z), bars] = 208
    left, right = HALF - street.edge, HALF + street.edge
    img[int(3.0 * _Z):int(3.4 * _Z), int(HALF * _X):int(right * _X)] = 205
    img[int(22.6 * _Z):int(23. * _Z), int(left * _X):int(HALF * _X)] = 205


def lay_out(street: Street, chunk: int) -> List[np.ndarray]:
    """The map of one chunk.

    Args:
        street (Street): The street.
        chunk (int): Which chunk; it starts at ``chunk * CHUNK`` metres.

    Returns:
        list[np.ndarray]: Colours (240, 960, 3) uint8 and train ids
        (240, 960) uint8; rows run along the street, columns from -24 m
        to 24 m.
    """
    seed = street.seed * 131 + chunk
    h, w = int(CHUNK * _Z), int(2 * HALF * _X)
    img = _road(street, seed)
    ids = np.full((h, w), ROAD, np.uint8)
    walk = _pavement(seed % 2, 150 + 12 * np.sin(street.seed))
    crossing = street.kind(chunk) == 'crossing'
    a, z = int(8 * _Z) + 1, int(18 * _Z)
    for side in (-1, 1):
        kind = street.side_kind(chunk, side)
        lawn = _grass(street, seed % 2, False)
        inner, outer = street.edge, street.edge + street.walk
        if street.lawn and street.tram and not crossing:
            cols = _columns(side, 0, street.tram - 0.1)
            img[:, cols] = lawn[:, cols]
            ids[:, cols] = TERRAIN
        cols = _columns(side, inner, HALF)
        img[:, cols] = walk[:, cols]
        ids[:, cols] = SIDEWALK
        if kind in ('residential', 'park', 'industrial'):
            cols = _columns(side, outer, HALF)
            dust = _grass(street, seed % 2, True)
            img[:, cols] = (dust if kind == 'industrial' else lawn)[:, cols]
            ids[:, cols] = TERRAIN
        if kind in ('residential', 'park') and street.verge:
            cols = _columns(side, inner + 0.25, inner + street.verge)
            img[:, cols] = lawn[:, cols]
            ids[:, cols] = TERRAIN
        edge = _columns(side, inner, inner + 0.22)
        img[:, edge] = 175 + 14 * noise_patch(seed, h, 1, 4)[..., None]
        if crossing:
            cols = _columns(side, inner, HALF)
            img[a:z, cols] = _asphalt(street.asphalt, seed % 3)[a:z, cols]
            ids[a:z, cols] = ROAD
    _marks(street, img, chunk, crossing)
    if crossing:
        _zebras(street, img)
    return [img, ids]


class Ground:
    """A ring of chunk maps and the look-up from pixels into it.

    Args:
        street (Street): The street.
    """

    def __init__(self, street: Street) -> None:
        self.street = street
        h, w = int(CHUNK * _Z), int(2 * HALF * _X)
        self._colours = [
            np.zeros((_RING * h // b, w // a, 3), np.uint8) for a, b in _STEPS
        ]
        self._ids = np.zeros((_RING * h, w), np.uint8)
        self._held: Dict[int, int] = {}

    def _ensure(self, first: int) -> None:
        for chunk in range(first, first + _RING):
            slot = chunk % _RING
            if self._held.get(slot) == chunk:
                continue
            img, ids = lay_out(self.street, chunk)
            for ring, (a, b) in zip(self._colours, _STEPS):
                size = (img.shape[1] // a, img.shape[0] // b)
                part = img if a * b == 1 else cv2.resize(
                    img, size, interpolation=cv2.INTER_AREA)
                ring[slot * size[1]:(slot + 1) * size[1]] = part
            n = ids.shape[0]
            self._ids[slot * n:(slot + 1) * n] = ids
            self._held[slot] = chunk

    def draw(self, canvas: Canvas) -> None:
        """Fill the ground's colours, train ids and inverse depth.

        Args:
            canvas (Canvas): Its camera must not roll.
        """
        cam, pose = canvas.intrinsics, canvas.pose
        self._ensure(int(np.floor((pose[2, 3] - 12) / CHUNK)))
        cx, cy = cam.centre
        turn = pose[:3, :3]
        y = (np.arange(cam.height) - cy) / cam.f
        inv = -(turn[1, 1] * y + turn[1, 2]) / pose[1, 3]
        first = int(np.searchsorted(inv, 1 / FAR))
        canvas.horizon = first
        if first >= cam.height:
            return
        y, inv = y[first:], inv[first:].astype(np.float32)
        depth = (1 / inv)[:, None]
        x = ((np.arange(cam.width) - cx) / cam.f).astype(np.float32)[None]
        along = depth * (
            np.float32(turn[2, 0]) * x +
            (turn[2, 1] * y + turn[2, 2]).astype(np.float32)[:, None])
        along += np.float32(pose[2, 3])
        lateral = depth * (
            np.float32(turn[0, 0]) * x +
            (turn[0, 1] * y + turn[0, 2]).astype(np.float32)[:, None])
        lateral += np.float32(pose[0, 3])
        lateral -= self.street.bend(along)
        u = (lateral + np.float32(HALF)) * np.float32(_X)
        v = along * np.float32(_Z)
        np.mod(v, np.float32(_RING * CHUNK * _Z), out=v)
        image = canvas.image[first:]
        marks = [0] + [
            int(np.searchsorted(inv, 1 / d)) for d in reversed(_BANDS)
        ] + [len(inv)]
        for level, (a, b) in enumerate(zip(marks[-2::-1], marks[:0:-1])):
            if b <= a:
                continue
            fx, fy = _STEPS[level]
            part = cv2.remap(
                self._colours[level],
                u[a:b] / fx - np.float32(0.5),
                v[a:b] / fy - np.float32(0.5),
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE)
            image[a:b, :, :3] = part
        image[..., 3] = cv2.remap(
            self._ids,
            u - np.float32(0.5),
            v - np.float32(0.5),
            cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_REPLICATE)
        canvas.inverse[first:] = inv[:, None]

    def shade(self, canvas: Canvas, outlines: np.ndarray,
              strength: float) -> None:
        """Darken the ground inside outlines (n, k, 3), world metres."""
        if not len(outlines):
            return
        mask = np.zeros((canvas.height, canvas.width), np.uint8)
        points = canvas.to_camera(outlines)
        k = canvas.intrinsics.matrix
        ahead = points[..., 2].min(1) > 1.
        pix = points[ahead] @ k.T
        pix = (pix[..., :2] / pix[..., 2:] * 16).astype(np.int32)
        for poly in pix:
            cv2.fillConvexPoly(mask, poly, 255, cv2.LINE_AA, 4)
        mask = cv2.blur(mask, (5, 3))
        rows = np.flatnonzero(mask.any(1))
        if rows.size:
            a, b = rows[0], rows[-1] + 1
            gain = 1 - np.float32(strength / 255) * mask[a:b, :, None]
            part = canvas.image[a:b, :, :3]
            part[:] = part * gain


class Sky:
    """Clouds and the far skyline, looked up by direction.

    Args:
        street (Street): Gives seed and strength of the sun.
    """
    _STEP = 0.125  # degrees a texel
    _LOW = -2.  # degrees, lower end of the picture

    def __init__(self, street: Street) -> None:
        rng = rng_of(street.seed, 0x5c)
        h, w = 400, 2880
        up = np.linspace(48, self._LOW, h // 2, dtype=np.float32)[:, None]
        blue = np.array([215, 165, 115]) * rng.uniform(0.85, 1.1)
        low = np.array([232, 222, 208], np.float32)
        mix = np.clip(up / 40, 0, 1)[..., None]**0.6
        clouds = noise(street.seed % 32 + 100, 512, 6, 3)
        clouds = np.tile(clouds, (1, 3))[:h // 2, :w // 2]
        cover = 0.35 - 0.5 * street.sun
        veil = np.clip((clouds + cover) * 2.5 + 0.3, 0, 1)
        veil = (veil * (0.35 + 0.65 * np.clip(up / 12, 0, 1)))[..., None]
        tone = 200 + 40 * street.sun + 26 * clouds[..., None]
        img = low * (1 - mix) + blue.astype(np.float32) * mix
        img = np.clip(img + (tone - img) * veil, 0, 255).astype(np.uint8)
        self.image = np.full((h, w, 4), SKY, np.uint8)
        self.image[..., :3] = cv2.resize(img, (w, h))
        self._skyline(rng)
        self._packed = self.image.view(np.uint32)[..., 0]

    def _skyline(self, rng: np.random.Generator) -> None:
        image = self.image[-200:]
        h, w = image.shape[:2]
        base = h - int(-self._LOW / self._STEP) + 2
        hills = 6 + 14 * (
            1 + np.tile(noise(int(rng.integers(16)), 256, 4),
                        (1, 12))[0, :w]) * 0.7
        rows = np.arange(h)[:, None]
        wood = rows > base - hills[None]
        leaf = np.empty((h, w, 4), np.uint8)
        leaf[..., :3] = (1 + 0.2 * noise_patch(3, h, w, 5)[..., None]
                         ) * np.array([108, 118, 100], np.float32)
        leaf[..., 3] = VEGETATION
        image[wood] = leaf[wood]
        x = 0
        while x < w - 60:
            width, tall = int(rng.integers(12, 60)), int(rng.integers(8, 60))
            if rng.random() < 0.7:
                tone = rng.uniform(125, 170) * np.array([1.06, 1.0, 0.94])
                part = image[base - tall:, x:x + width]
                part[..., :3] = tone
                part[4::7, 2::5, :3] = tone * 0.8
                part[..., 3] = BUILDING
            x += width + int(rng.integers(0, 50))

    def draw(self, canvas: Canvas) -> None:
        """Fill what lies above the horizon (and the last metres below)."""
        cam, pose = canvas.intrinsics, canvas.pose
        cx, cy = cam.centre
        turn = pose[:3, :3]
        yaw = np.degrees(np.arctan2(turn[0, 2], turn[2, 2]))
        pitch = np.degrees(np.arcsin(turn[1, 2]))
        h, w = self.image.shape[:2]
        angle = np.degrees(np.arctan((np.arange(cam.width) - cx) / cam.f))
        col = ((angle + yaw + 180) / self._STEP).astype(np.int64) % w
        up = -np.degrees(np.arctan(
            (np.arange(cam.height) - cy) / cam.f)) - pitch
        row = np.clip((48 - up) / self._STEP, 0, h - 1).astype(np.int64)
        n = canvas.horizon
        view = self._packed[row[:n, None], col[None]]
        free = canvas.inverse[:n] == 0
        np.copyto(canvas.packed[:n], view, where=free)
        free &= canvas.image[:n, :, 3] != SKY
        np.copyto(canvas.inverse[:n], np.float32(1 / FAR), where=free)
