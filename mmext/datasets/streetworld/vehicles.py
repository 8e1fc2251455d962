# Copyright (c) mmext contributors. All rights reserved.
"""Cars, trucks, buses and trams as a few textured faces.

A body is a list of `Face`: a parallelogram in the vehicle's own frame
(x right, y down, z forward; the origin lies on the ground in the middle).
"""
from functools import lru_cache
from typing import List, NamedTuple, Tuple

import cv2
import numpy as np

from .classes import BUS, TRAIN, TRUCK
from .textures import Texture, noise_patch, rng_of

_SCALE = 40  # texels a metre
_LINE = cv2.LINE_AA

PAINTS = ((200, 200, 202), (35, 35, 38), (110, 112, 115), (60, 45, 140),
          (140, 70, 30), (225, 225, 225), (50, 50, 55), (90, 60, 40),
          (40, 40, 190), (150, 150, 150), (70, 110, 60), (60, 170, 210))

#            length width height belt  hood: end, height; cabin start, end
_CARS = {
    'sedan': (4.6, 1.8, 1.45, 0.92, 1.25, 0.88, 2.0, 3.55, 4.2),
    'hatch': (4.0, 1.75, 1.5, 0.95, 1.05, 0.92, 1.75, 3.6, 3.95),
    'estate': (4.7, 1.85, 1.55, 0.98, 1.25, 0.95, 2.0, 4.3, 4.65),
    'suv': (4.5, 1.9, 1.75, 1.1, 1.15, 1.05, 1.8, 4.1, 4.45),
    'van': (4.9, 1.95, 2.05, 1.15, 0.7, 1.15, 1.5, 4.85, 4.9),
}


class Face(NamedTuple):
    """One side: corner, edge along the texture's width and height."""
    corner: Tuple[float, float, float]
    across: Tuple[float, float, float]
    down: Tuple[float, float, float]
    texture: Texture


def _canvas(h: float, w: float, colour=None) -> np.ndarray:
    img = np.zeros((max(2, int(h * _SCALE)), max(2, int(w * _SCALE)), 4),
                   np.uint8)
    if colour is not None:
        img[..., :3] = np.clip(colour, 0, 255)
        img[..., 3] = 255
    return img


def _bgra(colour) -> Tuple[float, ...]:
    return tuple(float(np.clip(c, 0, 255)) for c in colour[:3]) + (255., )


def _sheet(colour, h: float, w: float, seed: int, gain: float) -> Texture:
    img = _canvas(h, w, np.asarray(colour, float) * gain)
    light = 1 + 0.06 * noise_patch(seed, *img.shape[:2])
    img[..., :3] = np.clip(img[..., :3] * light[..., None], 0, 255)
    return Texture(img)


def _glass(h: float, w: float, slant: float, rim) -> Texture:
    """A window pane whose upper corners are drawn in by ``slant`` metres."""
    img = _canvas(h, w)
    ph, pw = img.shape[:2]
    s = int(slant * _SCALE)
    quad = np.array([[s, 0], [pw - s - 1, 0], [pw - 1, ph - 1], [0, ph - 1]])
    cv2.fillConvexPoly(img, quad, _bgra(rim), _LINE)
    mid = quad.mean(0)
    inner = (mid + (quad - mid) * np.array([0.9, 0.8])).astype(np.int32)
    cv2.fillConvexPoly(img, inner, (62., 52., 45., 255.), _LINE)
    shine = (mid + (quad[[0, 1, 1, 0]] - mid) * 0.75).astype(np.int32)
    shine[2:, 1] += ph // 3
    cv2.fillConvexPoly(img, shine, (120., 108., 98., 255.), _LINE)
    return Texture(img)


def _wheel(img: np.ndarray, x: float, radius: float) -> None:
    h = img.shape[0]
    c = (int(x * _SCALE), int(h - radius * _SCALE))
    r = int(radius * _SCALE)
    cv2.circle(img, c, int(r * 1.15), (18., 18., 18., 255.), -1, _LINE)
    cv2.circle(img, c, r, (30., 30., 32., 255.), -1, _LINE)
    cv2.circle(img, c, int(r * 0.6), (150., 150., 152., 255.), -1, _LINE)
    cv2.circle(img, c, int(r * 0.2), (60., 60., 60., 255.), -1, _LINE)


def _car_side(kind: str, paint, seed: int) -> Texture:
    """The side view; the front is at the right."""
    length, _, height, belt, hood, hh, c0, c1, tail = _CARS[kind]
    img = _canvas(height, length)
    ph = img.shape[0]

    def pts(*xy):
        return np.array([[(length - x) * _SCALE, ph - y * _SCALE]
                         for x, y in xy]).astype(np.int32)

    body = pts((0.05, 0.3), (0, 0.65), (0.1, hh - 0.12), (hood, hh),
               (hood, belt), (tail, belt), (length - 0.02, belt - 0.06),
               (length, 0.5), (length - 0.1, 0.3))
    cv2.fillPoly(img, [body], _bgra(paint), _LINE)
    low = pts((0.05, 0.3), (0.02, 0.5), (length, 0.5), (length - 0.1, 0.3))
    cv2.fillPoly(img, [low], _bgra(np.asarray(paint) * 0.6), _LINE)
    cabin = pts((hood, belt), (c0, height), (c1, height), (tail, belt))
    cv2.fillPoly(img, [cabin], _bgra(np.asarray(paint) * 0.9), _LINE)
    mid = cabin.mean(0)
    pane = (mid + (cabin - mid) * np.array([0.88, 0.72])).astype(np.int32)
    cv2.fillPoly(img, [pane], (60., 52., 46., 255.), _LINE)
    for x in ((c0 + c1) / 2, c1 - 0.35):
        cv2.line(img, *pts((x, belt), (x, height - 0.06)),
                 _bgra(np.asarray(paint) * 0.8), 4)
    for x in (hood + 0.35, (c0 + c1) / 2, tail - 0.4):
        cv2.line(img, *pts((x, 0.35), (x, belt)),
                 _bgra(np.asarray(paint) * 0.7), 1)
    cv2.line(img, *pts((0.2, 0.72), (length - 0.1, 0.75)),
             _bgra(np.asarray(paint) * 1.2), 2)
    for x in (0.85, length - 0.85):
        _wheel(img, length - x, 0.33)
    return Texture(img)


def _car_end(kind: str, paint, front: bool, full: bool) -> Texture:
    """Front or rear; ``full`` adds the cabin above, for far cars."""
    length, width, height, belt, _, hh, _, _, _ = _CARS[kind]
    top = height if full else (hh - 0.1 if front else belt - 0.05)
    img = _canvas(top, width)
    ph, pw = img.shape[:2]
    glow = np.zeros((ph, pw, 3), np.uint8)

    def box(x0, y0, x1, y1, colour, glows=False):
        a = (int(x0 * _SCALE), int(ph - y1 * _SCALE))
        b = (int(x1 * _SCALE), int(ph - y0 * _SCALE))
        cv2.rectangle(img, a, b, _bgra(colour), -1)
        if glows:
            cv2.rectangle(glow, a, b, tuple(map(float, colour)), -1)

    box(0.08, 0., 0.3, 0.45, (22, 22, 22))
    box(width - 0.3, 0., width - 0.08, 0.45, (22, 22, 22))
    box(0, 0.28, width, min(belt, top), paint)
    if full:
        roof = np.array([[0.06, belt], [0.24, height], [width - 0.24, height],
                         [width - 0.06, belt]])
        roof[:, 0] *= _SCALE
        roof[:, 1] = ph - roof[:, 1] * _SCALE
        cv2.fillConvexPoly(img, roof.astype(np.int32), _bgra(paint), _LINE)
        mid = roof.mean(0)
        pane = mid + (roof - mid) * np.array([0.88, 0.75])
        cv2.fillConvexPoly(img, pane.astype(np.int32), (70., 60., 52., 255.),
                           _LINE)
    dark = np.asarray(paint) * 0.55
    box(0, 0.28, width, 0.45, dark)
    box(width / 2 - 0.26, 0.45, width / 2 + 0.26, 0.57, (215, 220, 220))
    if front:
        box(width / 2 - 0.5, 0.58, width / 2 + 0.5, 0.72, (30, 30, 30))
        lamp = (225, 235, 240)
        y0 = 0.58
    else:
        lamp = (30, 30, 200)
        y0 = 0.62
    box(0.05, y0, 0.38, y0 + 0.17, lamp, True)
    box(width - 0.38, y0, width - 0.05, y0 + 0.17, lamp, True)
    return Texture(img, glow)


@lru_cache(maxsize=256)
def car(kind: str, paint_index: int) -> Tuple[List[Face], List[Face], float]:
    """A passenger car.

    Args:
        kind (str): One of 'sedan', 'hatch', 'estate', 'suv', 'van'.
        paint_index (int): Index into ``PAINTS``.

    Returns:
        tuple: The faces, the few faces for a far view, and the length.
    """
    paint = PAINTS[paint_index % len(PAINTS)]
    length, width, height, belt, hood, hh, c0, c1, tail = _CARS[kind]
    hl, hw, tuck = length / 2, width / 2, 0.2
    side = _car_side(kind, paint, paint_index)
    front = _car_end(kind, paint, True, False)
    back = _car_end(kind, paint, False, False)
    f_top, b_top = hh - 0.1, belt - 0.05

    def slab(z0, y0, z1, y1, texture, half=hw):
        # From (z0, y0) at the lower, outer end up to (z1, y1).
        return Face((-half, -y1, z1), (2 * half, 0, 0), (0, y1 - y0, z0 - z1),
                    texture)

    faces = [
        Face((-hw, -f_top, hl), (width, 0, 0), (0, f_top, 0), front),
        Face((-hw, -b_top, -hl), (width, 0, 0), (0, b_top, 0), back),
        slab(hl, f_top, hl - hood, hh, _sheet(paint, hood, width, 1, 1.15)),
        slab(hl - hood, belt, hl - c0, height,
             _glass(height - belt + 0.3, width, tuck, paint)),
        Face((-hw + tuck, -height, hl - c1), (width - 2 * tuck, 0, 0),
             (0, 0, c1 - c0), _sheet(paint, c1 - c0, width, 2, 1.2)),
        slab(hl - tail, belt, hl - c1, height,
             _glass(height - belt + 0.1, width, tuck, paint)),
        slab(-hl, b_top, hl - tail, belt, _sheet(paint, 0.3, width, 3, 1.12)),
        Face((hw, -height, -hl), (0, 0, length), (0, height, 0), side),
        Face((-hw, -height, -hl), (0, 0, length), (0, height, 0), side),
    ]
    far = [
        Face((-hw, -height, hl * 0.6), (width, 0, 0), (0, height, 0),
             _car_end(kind, paint, True, True)),
        Face((-hw, -height, -hl * 0.8), (width, 0, 0), (0, height, 0),
             _car_end(kind, paint, False, True)),
        faces[-2],
        faces[-1],
    ]
    return faces, far, length


def _box_side(h, w, colour, seed, kind) -> Texture:
    rng = rng_of(seed, 0x0b)
    img = _canvas(h, w, colour)
    ph, pw = img.shape[:2]
    glow = np.zeros((ph, pw, 3), np.uint8)
    gain = 1 + 0.06 * noise_patch(seed, ph, pw)
    img[..., :3] = np.clip(img[..., :3] * gain[..., None], 0, 255)
    s = _SCALE
    if kind in ('bus', 'tram'):
        y0, y1 = int(0.55 * s), int((h - 1.35) * s)
        cv2.rectangle(img, (int(0.2 * s), y0), (pw - int(0.2 * s), y1),
                      (58., 50., 44., 255.), -1)
        cv2.rectangle(glow, (int(0.2 * s), y0), (pw - int(0.2 * s), y1),
                      (150, 190, 200), -1)
        for x in np.arange(1.4, w, 1.4):
            cv2.line(img, (int(x * s), y0), (int(x * s), y1),
                     _bgra(np.asarray(colour) * 0.6), 4)
            cv2.line(glow, (int(x * s), y0), (int(x * s), y1), (0, 0, 0), 5)
        for x in (w * 0.12, w * 0.5, w * 0.86):
            a, b = (int(x * s), y0), (int((x + 1.1) * s), int((h - .35) * s))
            cv2.rectangle(img, a, b, (75., 68., 62., 255.), -1)
            cv2.rectangle(img, a, b, (30., 30., 30., 255.), 3)
        stripe = rng.uniform(30, 230, 3)
        cv2.rectangle(img, (0, int((h - 1.1) * s)), (pw, int((h - .8) * s)),
                      _bgra(stripe), -1)
    else:
        img[:, ::int(0.6 * s), :3] = np.clip(np.asarray(colour) * 0.85, 0, 255)
        logo = rng.uniform(20, 220, 3)
        cv2.ellipse(img, (pw // 2, ph // 3), (pw // 4, ph // 7), 0, 0, 360,
                    _bgra(logo), -1, _LINE)
        cv2.rectangle(img, (pw // 3, ph // 2), (2 * pw // 3, ph // 2 + 14),
                      _bgra(logo * 0.6), -1)
    if kind == 'tram':
        cv2.rectangle(img, (0, ph - int(0.3 * s)), (pw, ph),
                      (35., 35., 35., 255.), -1)
        for x in np.arange(6, w, 7.):
            img[:, int(x * s):int((x + 0.35) * s), :3] = (45, 45, 48)
    else:
        img[ph - int(0.3 * s):] = 0
        wheels = (1.0, 2.1, w - 1.2) if kind == 'truck' else (2., w - 2.6)
        for x in wheels:
            _wheel(img, x, 0.48)
    return Texture(img, glow)


def _box_end(h, w, colour, front, kind) -> Texture:
    img = _canvas(h, w, np.asarray(colour) * 0.95)
    ph, pw = img.shape[:2]
    glow = np.zeros((ph, pw, 3), np.uint8)
    s = _SCALE

    def box(x0, y0, x1, y1, c, glows=False):
        a = (int(x0 * s), int(ph - y1 * s))
        b = (int(x1 * s), int(ph - y0 * s))
        cv2.rectangle(img, a, b, _bgra(c), -1)
        if glows:
            cv2.rectangle(glow, a, b, tuple(map(float, c)), -1)

    if front or kind in ('bus', 'tram'):
        box(0.12, 1.25, w - 0.12, h - 0.55, (70, 60, 52))
        box(0.12, h - 1.2, w - 0.12, h - 0.55, (115, 102, 92))
        box(w / 2 - 0.6, h - 0.45, w / 2 + 0.6, h - 0.15, (20, 30, 30))
        box(w / 2 - 0.5, h - 0.4, w / 2 + 0.5, h - 0.2, (30, 150, 230), True)
    else:
        box(w / 2 - 0.03, 0.6, w / 2 + 0.03, h - 0.1, (50, 50, 50))
        box(0.1, 0.5, w - 0.1, 0.62, (40, 40, 45))
    lamp = (225, 235, 240) if front else (30, 30, 200)
    box(0.1, 0.55, 0.5, 0.8, lamp, True)
    box(w - 0.5, 0.55, w - 0.1, 0.8, lamp, True)
    box(w / 2 - 0.26, 0.45, w / 2 + 0.26, 0.57, (215, 220, 220))
    box(0, 0.2, w, 0.42, (32, 32, 34))
    if kind != 'tram':
        img[ph - int(0.2 * s):] = 0
        box(0.1, 0, 0.45, 0.3, (22, 22, 22))
        box(w - 0.45, 0, w - 0.1, 0.3, (22, 22, 22))
    return Texture(img, glow)


def _box(z0, z1, width, height, base, sides, front, back, top) -> List[Face]:
    hw, length = width / 2, z1 - z0
    tall = height - base
    return [
        Face((-hw, -height, z1), (width, 0, 0), (0, tall, 0), front),
        Face((-hw, -height, z0), (width, 0, 0), (0, tall, 0), back),
        Face((hw, -height, z0), (0, 0, length), (0, tall, 0), sides),
        Face((-hw, -height, z0), (0, 0, length), (0, tall, 0), sides),
        Face((-hw, -height, z0), (width, 0, 0), (0, 0, length), top),
    ]


@lru_cache(maxsize=64)
def large(kind: str, seed: int) -> Tuple[List[Face], List[Face], float, int]:
    """A truck, bus or tram.

    Args:
        kind (str): 'truck', 'bus' or 'tram'.
        seed (int): Paint and lettering.

    Returns:
        tuple: The faces, the same for a far view, length, train id.
    """
    rng = rng_of(seed, 0x1a)
    paint = np.array(PAINTS[rng.integers(len(PAINTS))], float)
    if kind == 'truck':
        load = np.array([(215, 215, 215), (60, 60, 180), (170, 90, 40),
                         (60, 130, 70), (50, 150, 220)][rng.integers(5)])
        cab = _box(1.9, 4.0, 2.3, 2.7, 0., _truck_cab(paint),
                   _box_end(2.7, 2.3, paint, True, kind),
                   _sheet(paint, 2.7, 2.3, 4, 0.6),
                   _sheet(paint, 2, 2, 5, 1.1))
        back = _box_end(3.4, 2.45, load, False, kind)
        body = _box(-4.0, 1.75, 2.45, 3.4, 0.,
                    _box_side(3.4, 5.75, load, seed, kind),
                    _sheet(load, 3.4, 2.45, 6, 0.8), back,
                    _sheet(load, 2, 2, 7, 1.05))
        return cab + body, cab + body, 8.0, TRUCK
    if kind == 'bus':
        paint = np.array([(40, 170, 225), (50, 50, 190), (190, 190, 190),
                          (150, 90, 30), (90, 160, 70)][rng.integers(5)])
        width, height, length, train_id = 2.5, 3.1, 11.5, BUS
    else:
        paint = np.array([(60, 60, 200), (70, 190, 220), (205, 205, 205),
                          (80, 140, 50)][rng.integers(4)])
        width, height, length, train_id = 2.45, 3.4, 22., TRAIN
    faces = _box(-length / 2, length / 2, width, height, 0.,
                 _box_side(height, length, paint, seed, kind),
                 _box_end(height, width, paint, True, kind),
                 _box_end(height, width, paint, False, kind),
                 _sheet(paint, 2, 2, 8, 1.05))
    return faces, faces, length, train_id


def _truck_cab(paint) -> Texture:
    img = _canvas(2.7, 2.1, paint)
    ph, pw = img.shape[:2]
    s = _SCALE
    cv2.rectangle(img, (int(0.7 * s), int(0.4 * s)), (pw - 6, int(1.25 * s)),
                  (60., 52., 46., 255.), -1)
    cv2.line(img, (int(0.6 * s), 0), (int(0.6 * s), ph - 16),
             _bgra(np.asarray(paint) * 0.7), 2)
    img[ph - int(0.3 * s):] = 0
    _wheel(img, 1.2, 0.48)
    return Texture(img)
