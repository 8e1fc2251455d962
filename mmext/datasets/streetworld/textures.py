# Copyright (c) mmext contributors. All rights reserved.
"""Textures with reductions, noise and flat materials, drawn from a seed."""
from functools import lru_cache
from typing import Dict, Optional, Sequence, Tuple

import cv2
import numpy as np

Colour = Tuple[float, float, float]


def rng_of(*key: int) -> np.random.Generator:
    """A generator that depends on nothing but the whole numbers given.

    Args:
        *key (int): Seed and what the numbers are for.

    Returns:
        np.random.Generator: The same stream for the same key, always.
    """
    return np.random.default_rng([int(k) & 0xffffffff for k in key])


class Texture:
    """A BGRA picture with reductions built when they are first needed.

    Args:
        bgra (np.ndarray): (h, w, 4) uint8; alpha under 128 is a hole.
        emission (np.ndarray, optional): (h, w, 3) uint8, the light the
            surface gives off itself at night. Defaults to None (none).
    """

    def __init__(self,
                 bgra: np.ndarray,
                 emission: Optional[np.ndarray] = None) -> None:
        opaque = bgra[..., 3] > 0
        if not opaque.all() and opaque.any():
            # Holes take the mean colour, or reductions get a dark rim.
            bgra = bgra.copy()
            bgra[~opaque, :3] = bgra[opaque][:, :3].mean(0)
        self.height, self.width = bgra.shape[:2]
        self._levels: Dict[Tuple[int, int], np.ndarray] = {(0, 0): bgra}
        self._glow: Dict[Tuple[int, int], np.ndarray] = {}
        if emission is not None:
            self._glow[(0, 0)] = emission
        self.glows = emission is not None

    @staticmethod
    def _reduced(levels: Dict, x: int, y: int) -> np.ndarray:
        found = levels.get((x, y))
        if found is None:
            base = levels[(0, 0)]
            size = (max(1, base.shape[1] >> x), max(1, base.shape[0] >> y))
            found = cv2.resize(base, size, interpolation=cv2.INTER_AREA)
            levels[(x, y)] = found
        return found

    def level(self, x: int, y: int) -> np.ndarray:
        """The picture at 1 / 2**x of its width and 1 / 2**y of its height."""
        return self._reduced(self._levels, x, y)

    def glow(self, x: int, y: int) -> np.ndarray:
        """The emission at a reduction, see :meth:`level`."""
        return self._reduced(self._glow, x, y)


@lru_cache(maxsize=64)
def noise(seed: int,
          size: int = 256,
          octaves: int = 5,
          first: int = 2) -> np.ndarray:
    """Tileable value noise.

    Args:
        seed (int): Seed.
        size (int): Side of the square in texels. Defaults to 256.
        octaves (int): How many sizes of grain are summed. Defaults to 5.
        first (int): Cells of the coarsest grain per side are
            ``2 ** first``. Defaults to 2.

    Returns:
        np.ndarray: (size, size) float32, zero mean, about within -1 and 1.
        Shared between callers, so it is marked read-only.
    """
    rng = rng_of(seed, 0x401)
    out = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        cells = min(2**(first + octave), size)
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        grid = np.pad(grid, 2, mode='wrap')
        scale = size // cells
        big = cv2.resize(
            grid, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        out += big[2 * scale:2 * scale + size,
                   2 * scale:2 * scale + size] * 0.6**octave
    out = (out - out.mean()) / max(float(np.abs(out).max()), 1e-6)
    out.setflags(write=False)
    return out


def noise_patch(seed: int, height: int, width: int, first: int = 2):
    """A cut of :func:`noise`, repeated to fit.

    Args:
        seed (int): Which tile, and where it is cut.
        height (int): Rows.
        width (int): Columns.
        first (int): Coarsest octave, see :func:`noise`. Defaults to 2.

    Returns:
        np.ndarray: (height, width) float32.
    """
    tile = noise(seed % 16, 256, 6, first)
    dy, dx = (seed * 37) % 256, (seed * 91) % 256
    rows = (np.arange(height) + dy) % 256
    cols = (np.arange(width) + dx) % 256
    return tile[rows[:, None], cols[None]]


def plain(colour: Sequence[float],
          height: int,
          width: int,
          seed: int = 0,
          grain: float = 10.) -> np.ndarray:
    """A surface of one colour with noise.

    Args:
        colour (Sequence[float]): B G R, 0 to 255.
        height (int): Rows.
        width (int): Columns.
        seed (int): Of the noise. Defaults to 0.
        grain (float): Its strength. Defaults to 10.

    Returns:
        np.ndarray: (height, width, 3) float32.
    """
    patch = noise_patch(seed, height, width, 3)
    return np.asarray(colour, np.float32) + grain * patch[..., None]


def to_texture(bgr: np.ndarray,
               alpha: Optional[np.ndarray] = None,
               emission: Optional[np.ndarray] = None) -> Texture:
    """Clip and pack float colours (and alpha) into a `Texture`.

    Args:
        bgr (np.ndarray): (H, W, 3) colours, 0 to 255.
        alpha (np.ndarray, optional): (H, W) opacity, 0 to 255.
            Defaults to None, opaque.
        emission (np.ndarray, optional): Light that it gives at night.
            Defaults to None.
    """
    h, w = bgr.shape[:2]
    out = np.full((h, w, 4), 255, np.uint8)
    out[..., :3] = np.clip(bgr, 0, 255)
    if alpha is not None:
        out[..., 3] = alpha
    return Texture(out, emission)


_WALLS = ((150, 178, 200), (120, 150, 190), (175, 190, 205), (95, 110, 160),
          (70, 85, 140), (160, 165, 170), (190, 200, 205), (110, 140, 165),
          (130, 130, 135), (140, 170, 160), (185, 170, 150), (90, 100, 115))


def _windows(img: np.ndarray, glow: np.ndarray, rng: np.random.Generator,
             rows: Sequence[int], scale: float, floor: float) -> None:
    """Draw rows of windows into a facade and its emission."""
    width = img.shape[1]
    pitch = scale * rng.uniform(1.8, 3.2)
    count = max(1, int(width / pitch))
    pitch = width / count
    ww = pitch * rng.uniform(0.4, 0.75)
    wh = scale * floor * rng.uniform(0.42, 0.68)
    frame = rng.uniform(60, 240, 3) * 0.3 + rng.choice([40, 160])
    sill, bars = rng.random() < 0.6, rng.integers(0, 3)
    lit_share = rng.uniform(0.2, 0.5)
    for top in rows:
        y0 = int(top + scale * floor * 0.2)
        y1 = int(y0 + wh)
        for i in range(count):
            x0 = int((i + 0.5) * pitch - ww / 2)
            x1 = int(x0 + ww)
            glass = rng.uniform(25, 90)
            tone = np.array([glass * 1.25, glass * 1.1, glass])
            cv2.rectangle(img, (x0 - 2, y0 - 2), (x1 + 2, y1 + 2),
                          frame.tolist(), -1)
            cv2.rectangle(img, (x0, y0), (x1, y1), tone.tolist(), -1)
            cv2.rectangle(img, (x0, y0), (x1, y0 + (y1 - y0) // 3),
                          (tone * 1.45 + 12).tolist(), -1)
            if rng.random() < 0.3:
                cv2.rectangle(img, (x0, y0), (x0 + int(ww * 0.35), y1),
                              rng.uniform(120, 210, 3).tolist(), -1)
            for b in range(int(bars)):
                x = x0 + int(ww * (b + 1) / (bars + 1))
                cv2.line(img, (x, y0), (x, y1), frame.tolist(), 1)
            if sill:
                cv2.rectangle(img, (x0 - 3, y1 + 2), (x1 + 3, y1 + 4),
                              (frame * 0.7 + 50).tolist(), -1)
            if rng.random() < lit_share:
                warm = rng.uniform(0.5, 1) * np.array([110, 185, 235])
                cv2.rectangle(glow, (x0, y0), (x1, y1), warm.tolist(), -1)


def _shop(img: np.ndarray, glow: np.ndarray, rng: np.random.Generator,
          top: int, scale: float) -> None:
    """Draw shop windows, a name board and a door on the ground floor."""
    height, width = img.shape[:2]
    band = int(scale * 0.6)
    board = rng.uniform(30, 220, 3)
    cv2.rectangle(img, (0, top), (width, top + band), board.tolist(), -1)
    letters = int(rng.integers(4, 10))
    x = int(rng.uniform(0.1, 0.3) * width)
    ink = (255 - board).tolist()
    for _ in range(letters):
        step = int(rng.uniform(0.5, 1) * scale * 0.5)
        cv2.rectangle(img, (x, top + band // 4),
                      (x + step // 2, top + 3 * band // 4), ink, -1)
        x += step
    n = max(1, int(width / (scale * 4)))
    for i in range(n):
        x0 = int((i + 0.08) * width / n)
        x1 = int((i + 0.92) * width / n)
        glass = rng.uniform(30, 80, 3)
        y0, y1 = top + band + 4, height - int(scale * 0.4)
        cv2.rectangle(img, (x0, y0), (x1, y1), glass.tolist(), -1)
        cv2.line(img, (x0, y1), (x0 + (x1 - x0) // 2, y0),
                 (glass * 1.7).tolist(), 3)
        if rng.random() < 0.6:
            cv2.rectangle(glow, (x0, y0), (x1, y1),
                          (rng.uniform(90, 200), 190, 225), -1)
    x0 = int(rng.uniform(0.1, 0.8) * width)
    cv2.rectangle(img, (x0, height - int(scale * 2.2)),
                  (x0 + int(scale * 1.1), height),
                  rng.uniform(20, 110, 3).tolist(), -1)


def _gates(img: np.ndarray, rng: np.random.Generator, width: float,
           scale: float) -> None:
    """Draw the ribs and gates of a works hall."""
    h, w = img.shape[:2]
    img[:, ::14] *= 0.85
    for x in np.arange(0.1, 0.9, 6 / max(width, 7)):
        x0 = int(x * w)
        cv2.rectangle(img, (x0, int(h - 3.6 * scale)),
                      (x0 + int(3.4 * scale), h),
                      rng.uniform(60, 170, 3).tolist(), -1)


def _bands(img: np.ndarray, glow: np.ndarray, rng: np.random.Generator,
           rows: Sequence[float], ground: float, scale: float) -> None:
    """Draw an office's bands of glass."""
    w = img.shape[1]
    for top in rows:
        y0, y1 = int(top + 0.15 * ground), int(top + 0.75 * ground)
        shade = rng.uniform(60, 120)
        cv2.rectangle(img, (0, y0), (w, y1),
                      (shade * 1.25, shade * 1.1, shade * 0.9), -1)
        for x in range(0, w, int(scale * 1.3)):
            cv2.line(img, (x, y0), (x, y1), (40, 40, 40), 2)
            if rng.random() < 0.3:
                cv2.rectangle(glow, (x + 2, y0),
                              (x + int(scale * 1.3) - 2, y1), (200, 215, 220),
                              -1)


def facade(seed: int, width: float, height: float, style: str) -> Texture:
    """The street side of a house.

    Args:
        seed (int): Seed.
        width (float): Metres.
        height (float): Metres.
        style (str): 'shop' (flats over shops), 'house', 'office' (bands of
            glass) or 'hall' (a works hall with gates).

    Returns:
        Texture: 24 texels a metre, with lit windows as emission.
    """
    rng, scale = rng_of(seed, 0xfa), 24.
    h, w = int(height * scale), int(width * scale)
    base = np.array(_WALLS[rng.integers(len(_WALLS))], np.float32)
    base = base * rng.uniform(0.75, 1.12) + rng.uniform(-12, 12, 3)
    img = plain(base, h, w, seed, 14.)
    img += 9 * noise_patch(seed + 7, 1, w, 2)[..., None]
    img *= np.linspace(1.06, 0.9, h, dtype=np.float32)[:, None, None]
    if style != 'office' and rng.random() < 0.45:
        img[::6] *= 0.9
    img = np.ascontiguousarray(np.clip(img, 0, 255), np.float32)
    glow = np.zeros((h, w, 3), np.uint8)
    floor = 4.2 if style == 'hall' else rng.uniform(2.8, 3.4)
    ground = floor * scale * (1.15 if style == 'shop' else 1.0)
    tops = np.arange(h - ground - floor * scale, 2, -floor * scale)
    if style == 'hall':
        _gates(img, rng, width, scale)
        _windows(img, glow, rng, tops[:1], scale, 2.2)
    elif style == 'office':
        _bands(img, glow, rng, [*tops, h - ground], ground, scale)
    else:
        _windows(img, glow, rng, tops, scale, floor)
        if style == 'shop':
            _shop(img, glow, rng, int(h - ground), scale)
        else:
            _windows(img, glow, rng, [h - ground], scale, floor)
            x0 = int(rng.uniform(0.1, 0.8) * w)
            cv2.rectangle(img, (x0, h - int(scale * 2.1)),
                          (x0 + int(scale), h),
                          rng.uniform(20, 110, 3).tolist(), -1)
    cv2.rectangle(img, (0, 0), (w, int(scale * 0.3)), (base * 0.7).tolist(),
                  -1)
    img[:, :3] *= 0.75
    img[:, -3:] *= 0.75
    return to_texture(img, emission=glow)


def side_wall(seed: int) -> Texture:
    """A windowless gable wall, 8 x 8 texels a metre."""
    rng = rng_of(seed, 0x51)
    base = np.array(_WALLS[rng.integers(len(_WALLS))], np.float32) * 0.75
    img = plain(base, 96, 96, seed, 16.)
    img[::6] *= 0.94
    return to_texture(img)


def roof(seed: int) -> Texture:
    """Tiles or slate."""
    rng = rng_of(seed, 0x40)
    base = [(50, 60, 130), (60, 62, 70), (45, 70, 110), (80, 70, 65)]
    img = plain(base[rng.integers(4)], 64, 256, seed, 22.)
    img[::5] *= 0.7
    return to_texture(img)


def wall(seed: int) -> Texture:
    """A free-standing wall: brick, concrete or stone, 12 m x 2.4 m."""
    rng = rng_of(seed, 0x3a)
    kind = rng.integers(3)
    h, w = 58, 288
    if kind == 0:
        img = plain((70, 80, 150), h, w, seed, 26.)
        for r in range(0, h, 6):
            img[r] = (120, 130, 140)
            img[r:r + 6, (r // 6 % 2) * 6::12] *= 0.8
    elif kind == 1:
        img = plain((150, 155, 158), h, w, seed, 24.)
        img[:, ::72] *= 0.6
        if rng.random() < 0.7:
            for _ in range(5):
                a = rng.integers(0, [w, h], (6, 2)).astype(np.int32)
                cv2.polylines(img, [a], False,
                              rng.uniform(20, 240, 3).tolist(), 3)
    else:
        img = plain((115, 130, 140), h, w, seed, 18.)
        for _ in range(260):
            x, y = rng.integers(0, [w, h])
            cv2.ellipse(img, (int(x), int(y)),
                        (int(rng.integers(4, 9)), int(rng.integers(3, 6))), 0,
                        0, 360, (np.array([110, 125, 140]) *
                                 rng.uniform(0.6, 1.25)).tolist(), -1)
    img[:5] = np.array([165, 170, 172]) * rng.uniform(0.7, 1.1)
    return to_texture(img)


def fence(seed: int) -> Texture:
    """A 6 m x 1.5 m fence; partly see-through: alpha is the opacity."""
    rng = rng_of(seed, 0xfe)
    h, w = 72, 288
    tone = np.array([(60, 90, 120), (190, 195, 200), (70, 75, 70),
                     (110, 120, 60)][rng.integers(4)], np.float32)
    img = plain(tone, h, w, seed, 12.)
    alpha = np.full((h, w), 70, np.uint8)
    kind = rng.integers(3)
    if kind == 0:
        for x in range(2, w, 12):
            alpha[6:, x:x + 8] = 255
            img[:, x:x + 2] *= 0.75
        alpha[18:24] = alpha[54:60] = 255
    elif kind == 1:
        for x in range(0, w, 8):
            alpha[:, x:x + 3] = 255
        alpha[2:7] = alpha[62:67] = 255
    else:
        for k in range(-h, w, 9):
            cv2.line(alpha, (k, 0), (k + h, h), 255, 1)
            cv2.line(alpha, (k + h, 0), (k, h), 255, 1)
        alpha[:4] = 255
    for x in range(0, w, 96):
        alpha[:, x:x + 6] = 255
        img[:, x:x + 6] *= 0.8
    return to_texture(img, alpha)


def hedge(seed: int) -> Texture:
    """A clipped hedge, 6 m x 1.4 m, with a ragged top."""
    rng = rng_of(seed, 0x4e)
    h, w = 40, 176
    img = plain((45, 95 + rng.uniform(-15, 15), 55), h, w, seed, 10.)
    img *= (1 + 0.55 * rng.standard_normal((h, w, 1)) * 0.5).astype(np.float32)
    img *= np.linspace(1.15, 0.65, h, dtype=np.float32)[:, None, None]
    alpha = np.full((h, w), 255, np.uint8)
    rag = (2 + 3 * (1 + noise_patch(seed, 1, w, 4)[0])).astype(int)
    alpha[np.arange(h)[:, None] < rag[None]] = 0
    return to_texture(img, alpha)
