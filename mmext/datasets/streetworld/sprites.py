# Copyright (c) mmext contributors. All rights reserved.
"""Cut-out pictures: trees, people, two-wheelers, signs, lights and poles.

Each function draws from a seed and is cached, so a sprite is shared by all
towns that ask for the same seed. The caller decides size and class.
"""
from functools import lru_cache
from typing import Tuple

import cv2
import numpy as np

from .textures import Texture, noise_patch, rng_of

_LINE = cv2.LINE_AA


def _blank(h: int, w: int) -> np.ndarray:
    return np.zeros((h, w, 4), np.uint8)


def _bgra(colour) -> Tuple[float, ...]:
    return tuple(float(np.clip(c, 0, 255)) for c in colour[:3]) + (255., )


def _filled(img: np.ndarray) -> Texture:
    """Close the holes that smooth lettering leaves in alpha."""
    mask = np.ascontiguousarray(img[..., 3])
    outline, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL,
                                  cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(mask, outline, -1, 255, -1)
    img[..., 3] = mask
    return Texture(img)


def _shade(img: np.ndarray, seed: int, grain: float = 0.12) -> np.ndarray:
    """Multiply the colours by noise and a light from the upper left."""
    h, w = img.shape[:2]
    gain = 1 + grain * noise_patch(seed, h, w, 3)
    gain *= np.linspace(1.1, 0.85, w, dtype=np.float32)[None]
    img[..., :3] = np.clip(img[..., :3] * gain[..., None], 0, 255)
    return img


@lru_cache(maxsize=64)
def tree(seed: int) -> Texture:
    """A tree with trunk (1 : 1.25, trunk foot at the bottom middle)."""
    rng = rng_of(seed, 0x7e)
    h, w = 240, 192
    img = _blank(h, w)
    bark = np.array([50, 65, 80]) * rng.uniform(0.7, 1.2)
    cv2.line(img, (w // 2, h), (w // 2, h // 2), _bgra(bark), 9)
    for side in (-1, 1):
        cv2.line(img, (w // 2, int(h * 0.66)),
                 (w // 2 + side * 34, int(h * 0.42)), _bgra(bark * 0.9), 5)
    leaf = np.array(
        [rng.uniform(25, 55),
         rng.uniform(85, 120),
         rng.uniform(45, 85)])
    if rng.random() < 0.15:
        leaf = np.array([30, 95, 150])
    slim = rng.uniform(0.6, 1)
    blobs = []
    for _ in range(170):
        r, a = np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        blobs.append((w / 2 + 0.42 * w * slim * r * np.cos(a),
                      0.36 * h + 0.33 * h * r * np.sin(a), rng.uniform(7, 17)))
    blobs.sort(key=lambda b: -b[1])
    for x, y, r in blobs:
        light = 0.62 + 0.75 * (1 - y / (0.7 * h)) - 0.2 * (x / w - 0.5)
        tone = leaf * light * rng.uniform(0.8, 1.2)
        cv2.ellipse(img, (int(x), int(y)), (int(r), int(r * 0.8)),
                    rng.uniform(0, 180), 0, 360, _bgra(tone), -1)
    grain = rng.standard_normal((h // 2, w // 2)).astype(np.float32)
    grain = cv2.resize(grain, (w, h), interpolation=cv2.INTER_NEAREST)
    img[..., :3] = np.clip(img[..., :3] * (1 + 0.16 * grain[..., None]), 0,
                           255)
    holes = cv2.resize(rng.random((h // 6, w // 6)).astype(np.float32), (w, h))
    crown = np.arange(h)[:, None] < 0.62 * h
    img[(holes > 0.93) & crown] = 0
    return Texture(img)


@lru_cache(maxsize=32)
def bush(seed: int) -> Texture:
    """A bush (1 : 0.8)."""
    rng = rng_of(seed, 0xb5)
    h, w = 80, 100
    img = _blank(h, w)
    leaf = np.array([40, rng.uniform(80, 120), rng.uniform(45, 80)])
    for _ in range(110):
        x, y = rng.normal(w / 2, w / 5.5), h - abs(rng.normal(0, h / 2.8))
        tone = leaf * (0.7 + 0.6 * (1 - y / h)) * rng.uniform(0.75, 1.25)
        cv2.circle(img, (int(x), int(y)), int(rng.integers(3, 9)), _bgra(tone),
                   -1)
    return Texture(img)


_SKIN = ((150, 185, 225), (110, 150, 200), (70, 100, 150), (45, 65, 100))
_CLOTH = ((30, 30, 35), (60, 50, 45), (150, 60, 40), (40, 40, 170),
          (200, 200, 205), (90, 120, 60), (50, 110, 190), (120, 90, 130),
          (110, 80, 40), (70, 70, 75), (180, 150, 90), (40, 150, 210))


def _outfit(rng: np.random.Generator):
    top = np.array(_CLOTH[rng.integers(len(_CLOTH))]) * rng.uniform(0.7, 1.2)
    legs = np.array(_CLOTH[rng.integers(len(_CLOTH))]) * rng.uniform(0.5, .8)
    skin = np.array(_SKIN[rng.integers(len(_SKIN))])
    hair = np.array([(25, 30, 35), (40, 70, 110), (110, 150, 180),
                     (60, 60, 65)][rng.integers(4)])
    return top, legs, skin, hair


PERSON_PHASES = 8


@lru_cache(maxsize=512)
def person(seed: int, phase: int) -> Texture:
    """A walking person (1 : 2.2, feet at the bottom edge).

    Args:
        seed (int): Clothes, hair, bag.
        phase (int): Step, 0 to ``PERSON_PHASES - 1``.

    Returns:
        Texture: Walks to the right.
    """
    rng = rng_of(seed, 0x9e)
    h, w = 176, 80
    img = _blank(h, w)
    top, legs, skin, hair = _outfit(rng)
    skirt, bag, coat = rng.random(3) < (0.2, 0.4, 0.3)
    swing = np.sin(2 * np.pi * phase / PERSON_PHASES)
    c, hip, neck = w // 2, 92, 34

    def limb(x0, y0, x1, y1, colour, size):
        cv2.line(img, (int(x0), int(y0)), (int(x1), int(y1)), _bgra(colour),
                 size, _LINE)

    for side, tone in ((-1, 0.75), (1, 1.0)):
        knee = c + side * swing * 10
        foot = c + side * swing * 21
        lift = max(0., -side * swing) * 6
        limb(c + side * 4, hip, knee + side * 3, 132, legs * tone, 14)
        limb(knee + side * 3, 132, foot + side * 3, 170 - lift, legs * tone,
             11)
        limb(foot + side * 3, 171 - lift, foot + side * 3 + 9, 172 - lift,
             np.array([30, 30, 30]), 7)
    limb(c - 15, 46, c - 15 + swing * 17, 92, top * 0.7, 9)
    body = np.array([[c - 17, 42], [c + 17, 42], [c + 14, hip + 6],
                     [c - 14, hip + 6]])
    cv2.fillConvexPoly(img, body, _bgra(top), _LINE)
    cv2.ellipse(img, (c, 44), (18, 9), 0, 0, 360, _bgra(top), -1, _LINE)
    if coat or skirt:
        low = 128 if coat else 118
        hem = np.array([[c - 15, hip - 6], [c + 15, hip - 6], [c + 19, low],
                        [c - 19, low]])
        cv2.fillConvexPoly(img, hem, _bgra(top * 0.9 if coat else legs), _LINE)
    limb(c + 15, 48, c + 15 - swing * 17, 92, top * 0.85, 9)
    cv2.circle(img, (int(c + 15 - swing * 17), 95), 5, _bgra(skin), -1)
    limb(c, neck, c, 42, skin, 9)
    cv2.ellipse(img, (c + 1, 21), (11, 14), 0, 0, 360, _bgra(skin), -1, _LINE)
    cv2.ellipse(img, (c - 2, 17), (12, 12), 0, 120, 360, _bgra(hair), -1,
                _LINE)
    if bag:
        cv2.rectangle(img, (c - 26, 48), (c - 13, 84),
                      _bgra(rng.uniform(20, 180, 3)), -1)
    return Texture(_shade(img, seed))


@lru_cache(maxsize=64)
def rider_side(seed: int) -> Texture:
    """A rider from the side (1 : 1, seat height at 0.45 of the height)."""
    rng = rng_of(seed, 0xd1)
    img = _blank(160, 160)
    top, legs, skin, hair = _outfit(rng)
    pts = [((68, 84), (96, 108), legs, 14), ((96, 108), (84, 140), legs, 11),
           ((68, 84), (92, 36), top, 24), ((92, 40), (116, 74), top * .8, 10)]
    for a, b, colour, size in pts:
        cv2.line(img, a, b, _bgra(colour), size, _LINE)
    cv2.circle(img, (116, 74), 5, _bgra(skin), -1)
    cv2.circle(img, (100, 16), 11, _bgra(skin), -1, _LINE)
    helmet = rng.uniform(20, 240, 3) if rng.random() < 0.6 else hair
    cv2.ellipse(img, (99, 13), (13, 11), 0, 150, 370, _bgra(helmet), -1, _LINE)
    return Texture(_shade(img, seed))


@lru_cache(maxsize=64)
def rider_back(seed: int) -> Texture:
    """A rider from behind or in front (1 : 2)."""
    rng = rng_of(seed, 0xd1)
    img = _blank(160, 80)
    top, legs, skin, hair = _outfit(rng)
    for side in (-1, 1):
        cv2.line(img, (40 + side * 9, 84), (40 + side * 15, 112), _bgra(legs),
                 13, _LINE)
        cv2.line(img, (40 + side * 15, 112), (40 + side * 12, 142),
                 _bgra(legs * 0.8), 10, _LINE)
        cv2.line(img, (40 + side * 17, 40), (40 + side * 24, 76),
                 _bgra(top * 0.8), 10, _LINE)
    body = np.array([[20, 38], [60, 38], [53, 92], [27, 92]])
    cv2.fillConvexPoly(img, body, _bgra(top), _LINE)
    cv2.circle(img, (40, 18), 12, _bgra(skin), -1, _LINE)
    helmet = rng.uniform(20, 240, 3) if rng.random() < 0.6 else hair
    cv2.ellipse(img, (40, 15), (13, 13), 0, 150, 390, _bgra(helmet), -1, _LINE)
    return Texture(_shade(img, seed))


@lru_cache(maxsize=32)
def bicycle(seed: int, side: bool) -> Texture:
    """A bicycle from the side (1.7 : 1) or from behind (0.6 : 1)."""
    rng = rng_of(seed, 0xb1)
    frame = rng.uniform(20, 230, 3)
    dark = (35., 35., 38., 255.)
    if not side:
        img = _blank(100, 60)
        cv2.line(img, (30, 40), (30, 97), dark, 8, _LINE)
        cv2.line(img, (8, 24), (52, 24), dark, 5, _LINE)
        cv2.line(img, (30, 20), (30, 50), _bgra(frame), 6, _LINE)
        cv2.line(img, (20, 80), (40, 80), (60, 60, 60, 255), 5, _LINE)
        return Texture(img)
    img = _blank(100, 170)
    for x in (36, 132):
        cv2.circle(img, (x, 66), 30, dark, 6, _LINE)
        cv2.circle(img, (x, 66), 24, (120., 122., 125., 255.), 2, _LINE)
        for k in range(6):
            a = np.pi * k / 6
            dx, dy = 26 * np.cos(a), 26 * np.sin(a)
            cv2.line(img, (int(x - dx), int(66 - dy)),
                     (int(x + dx), int(66 + dy)), (90., 92., 95., 255.), 2)
    for a, b in (((36, 66), (76, 66)), ((36, 66), (66, 28)),
                 ((66, 28), (76, 66)), ((66, 28), (116, 26)),
                 ((76, 66), (118, 30)), ((112, 14), (132, 66))):
        cv2.line(img, a, b, _bgra(frame), 7, _LINE)
    cv2.line(img, (54, 20), (76, 20), dark, 7, _LINE)
    cv2.line(img, (104, 10), (122, 14), dark, 5, _LINE)
    return Texture(img)


@lru_cache(maxsize=32)
def motorcycle(seed: int, side: bool) -> Texture:
    """A motorcycle from the side (1.7 : 1) or from behind (0.7 : 1)."""
    rng = rng_of(seed, 0x30)
    body = np.array([(30, 30, 190), (40, 40, 40), (170, 60, 30), (60, 140, 60),
                     (200, 200, 200)][rng.integers(5)])
    dark = (28., 28., 30., 255.)
    if not side:
        img = _blank(100, 70)
        glow = np.zeros((100, 70, 3), np.uint8)
        cv2.line(img, (35, 55), (35, 96), dark, 14, _LINE)
        cv2.ellipse(img, (35, 46), (19, 24), 0, 0, 360, _bgra(body), -1)
        cv2.line(img, (6, 22), (64, 22), dark, 6, _LINE)
        cv2.circle(img, (35, 44), 7, (40., 40., 230., 255.), -1)
        cv2.circle(glow, (35, 44), 7, (30, 30, 230), -1)
        cv2.rectangle(img, (26, 58), (44, 68), (220., 220., 220., 255.), -1)
        return Texture(img, glow)
    img = _blank(100, 170)
    for x in (32, 138):
        cv2.circle(img, (x, 70), 22, dark, 13, _LINE)
        cv2.circle(img, (x, 70), 9, (140., 140., 145., 255.), -1)
    hull = np.array([[30, 44], [70, 50], [84, 38], [118, 36], [128, 50],
                     [108, 80], [64, 82]])
    cv2.fillPoly(img, [hull], _bgra(body), _LINE)
    cv2.ellipse(img, (84, 70), (22, 14), 0, 0, 360, (90., 90., 95., 255.), -1)
    cv2.line(img, (30, 42), (80, 42), dark, 10, _LINE)
    cv2.line(img, (138, 70), (116, 22), (150., 150., 155., 255.), 7, _LINE)
    cv2.line(img, (102, 20), (122, 20), dark, 6, _LINE)
    cv2.line(img, (20, 84), (76, 84), (160., 160., 165., 255.), 6)
    return Texture(img)


SIGNS = 10


@lru_cache(maxsize=32)
def sign(kind: int) -> Texture:
    """A square picture of one of ``SIGNS`` traffic signs."""
    img = _blank(96, 96)
    white, red = (235., 235., 235., 255.), (35., 30., 200., 255.)
    blue, black = (170., 80., 20., 255.), (20., 20., 20., 255.)
    yellow = (30., 190., 235., 255.)
    circle = ((48, 48), 46)
    if kind in (0, 1, 2):
        cv2.circle(img, *circle, red, -1, _LINE)
        if kind == 2:
            cv2.rectangle(img, (16, 40), (80, 56), white, -1)
        else:
            cv2.circle(img, (48, 48), 34, white, -1, _LINE)
            if kind == 0:
                cv2.putText(img, '30', (18, 62), cv2.FONT_HERSHEY_SIMPLEX, 1.5,
                            black, 6, _LINE)
    elif kind in (3, 4):
        tri = np.array([[48, 4], [94, 90], [2, 90]])
        if kind == 4:
            tri = 96 - tri
        cv2.fillConvexPoly(img, tri, red, _LINE)
        mid = tri.mean(0)
        inner = (mid + (tri - mid) * 0.6).astype(np.int32)
        cv2.fillConvexPoly(img, inner, white, _LINE)
        if kind == 3:
            cv2.line(img, (48, 44), (48, 66), black, 7)
    elif kind == 5:
        a = np.pi / 8 + np.arange(8) * np.pi / 4
        pts = np.stack([48 + 47 * np.cos(a), 48 + 47 * np.sin(a)], 1)
        cv2.fillConvexPoly(img, pts.astype(np.int32), red, _LINE)
        cv2.putText(img, 'STOP', (11, 58), cv2.FONT_HERSHEY_SIMPLEX, 0.95,
                    white, 4, _LINE)
    elif kind == 6:
        pts = np.array([[48, 2], [94, 48], [48, 94], [2, 48]])
        cv2.fillConvexPoly(img, pts, white, _LINE)
        inner = (48 + (pts - 48) * 0.72).astype(np.int32)
        cv2.fillConvexPoly(img, inner, yellow, _LINE)
    elif kind in (7, 8):
        img[2:94, 2:94] = white
        img[6:90, 6:90] = blue
        if kind == 7:
            tri = np.array([[48, 20], [80, 76], [16, 76]])
            cv2.fillConvexPoly(img, tri, white, _LINE)
        else:
            cv2.putText(img, 'P', (24, 78), cv2.FONT_HERSHEY_SIMPLEX, 2.6,
                        white, 10, _LINE)
    else:
        cv2.circle(img, *circle, blue, -1, _LINE)
        cv2.arrowedLine(img, (48, 80), (48, 16), white, 9, _LINE, 0, 0.35)
    return _filled(img)


@lru_cache(maxsize=8)
def direction_board(kind: int) -> Texture:
    """A large board with place names (2 : 1)."""
    img = np.full((80, 160, 4), 255, np.uint8)
    tone = [(150, 80, 20), (40, 180, 225), (90, 120, 20)][kind % 3]
    img[4:76, 4:156, :3] = tone
    rng = rng_of(kind, 0xb0)
    for y in (14, 36, 58):
        x1 = int(rng.integers(70, 140))
        cv2.rectangle(img, (16, y), (x1, y + 9), (240., 240., 240., 255.), -1)
    return Texture(img)


@lru_cache(maxsize=4)
def traffic_light(state: int) -> Texture:
    """The head (0.4 : 1); state 0 red, 1 amber, 2 green, 3 from behind."""
    img = np.full((96, 40, 4), (28, 30, 30, 255), np.uint8)
    glow = np.zeros((96, 40, 3), np.uint8)
    img[:3, :, :3] = img[-3:, :, :3] = img[:, :3, :3] = img[:, -3:, :3] = 70
    lamps = ((40, 40, 235), (40, 190, 245), (110, 220, 60))
    for k, lamp in enumerate(lamps):
        on = k == state
        tone = np.array(lamp) * (1 if on else 0.2)
        if state != 3:
            cv2.circle(img, (20, 18 + 30 * k), 12, _bgra(tone), -1, _LINE)
            if on:
                cv2.circle(glow, (20, 18 + 30 * k), 13, lamp, -1)
    return Texture(img, glow)


@lru_cache(maxsize=8)
def pole(seed: int) -> Texture:
    """A round post, lit from one side."""
    tone = np.array([(110, 112, 112), (75, 78, 75), (140, 142, 145),
                     (60, 75, 60)][seed % 4])
    light = 0.55 + 0.6 * np.cos(np.linspace(-1.7, 1.1, 8))
    img = np.full((64, 8, 4), 255, np.uint8)
    img[..., :3] = np.clip(light[None, :, None] * tone, 0, 255)
    return Texture(img)


@lru_cache(maxsize=4)
def lamp_arm(seed: int) -> Texture:
    """The arm and head of a street lamp (2 : 1), arm to the left."""
    img = _blank(80, 160)
    glow = np.zeros((80, 160, 3), np.uint8)
    tone = (95., 98., 98., 255.)
    cv2.ellipse(img, (110, 80), (46, 62), 0, 200, 360, tone, 9, _LINE)
    cv2.ellipse(img, (46, 34), (40, 12), 0, 0, 360, tone, -1, _LINE)
    cv2.ellipse(img, (44, 40), (30, 9), 0, 0, 360, (215., 225., 225., 255.),
                -1, _LINE)
    cv2.ellipse(glow, (44, 40), (34, 11), 0, 0, 360, (170, 225, 255), -1)
    return Texture(img, glow)
