# Copyright (c) mmext contributors. All rights reserved.
"""What stands still in a town: houses, trees, posts, parked vehicles."""
from functools import lru_cache
from typing import Tuple

import numpy as np

from . import sprites, textures, vehicles
from .builder import Builder, Piece
from .classes import (BICYCLE, BUILDING, CAR, FENCE, MOTORCYCLE, POLE,
                      TRAFFIC_SIGN, VEGETATION, WALL)
from .street import CHUNK, Street
from .textures import Texture, rng_of

CAR_KINDS = ('sedan', 'hatch', 'estate', 'suv', 'van', 'hatch', 'sedan')
_STYLES = {
    'centre': ('shop', 'shop', 'office'),
    'residential': ('house', ),
    'park': ('house', ),
    'industrial': ('hall', ),
    'crossing': ('shop', 'office'),
}
_SPLITS = ((24., ), (12., 12.), (9., 15.), (15., 9.), (8., 8., 8.))
CROSS_START, CROSS_END = 5.5, 20.8  # the corner houses' faces


@lru_cache(maxsize=96)
def _design(town: int, index: int, style: str) -> Tuple[Texture, float]:
    """One of a town's facades and its height in metres."""
    rng = rng_of(town, index, 0xde)
    if style == 'house':
        floors, width = int(rng.integers(1, 3)), 10.
    elif style == 'hall':
        floors, width = 2, 24.
    else:
        floors, width = int(rng.integers(2, 6)), float(rng.choice([9, 14]))
    height = floors * 3.1 + rng.uniform(0.5, 1.5) + 2.5 * (style == 'shop')
    return textures.facade(town * 64 + index, width, height, style), height


@lru_cache(maxsize=64)
def _gable(seed: int) -> Texture:
    tri = textures.side_wall(seed).level(0, 0).copy()
    h, w = tri.shape[:2]
    x = np.abs(np.arange(w) - w / 2)[None] / (w / 2)
    tri[x > (np.arange(h)[:, None] + 1) / h] = 0
    return Texture(tri)


side_wall = lru_cache(maxsize=64)(textures.side_wall)
roof = lru_cache(maxsize=32)(textures.roof)
wall = lru_cache(maxsize=32)(textures.wall)
fence = lru_cache(maxsize=32)(textures.fence)
hedge = lru_cache(maxsize=32)(textures.hedge)


class Town:
    """The standing things of one town, chunk by chunk.

    Args:
        street (Street): The town's street.
    """

    def __init__(self, street: Street) -> None:
        self.street = street
        self.chunk = lru_cache(maxsize=24)(self._chunk)

    def _chunk(self, index: int) -> Piece:
        """Everything that stands in chunk ``index``."""
        b = Builder(self.street)
        kind = self.street.kind(index)
        for side in (-1, 1):
            rng = rng_of(self.street.seed, index, side + 3, 0x70)
            mine = self.street.side_kind(index, side)
            getattr(self, f'_{mine}')(b, rng, index * CHUNK, side)
            self._kerbside(b, rng, index, side, kind == 'crossing')
        if self.street.median and kind != 'crossing':
            self._median(b, index * CHUNK)
        return b.build()

    def _median(self, b: Builder, s: float) -> None:
        """The fence or low wall between the directions."""
        style = self.street.seed % 16
        for k in range(4):
            ends = (0., s + 6 * k), (0., s + 6 * k + 6)
            if self.street.median == 'fence':
                b.panel(*ends, 1.15, fence(style), FENCE, screen=True)
            else:
                b.panel(*ends, 0.9, wall(style), WALL)

    # -- quarters ---------------------------------------------------------
    def _house(self, b: Builder, rng, s0: float, s1: float, lat: float,
               side: int, style: str, deep: float, pitched: bool) -> None:
        index = int(rng.integers(7)) + 10 * len(style)
        texture, height = _design(self.street.seed, index, style)
        plain = side_wall(self.street.seed % 8 * 8 + index % 8)
        start, end = (s0, s1) if side > 0 else (s1, s0)
        b.panel((lat, start), (lat, end), height, texture, BUILDING)
        back = lat + side * deep
        b.panel((lat, s0), (back, s0), height, plain, BUILDING)
        b.panel((lat, s1), (back, s1), height, plain, BUILDING)
        if pitched:
            rise = 0.35 * deep
            eave = self.street.place(lat - side * 0.4, s0 - 0.3, height - .1)
            along = self.street.place(lat - side * 0.4, s1 + 0.3,
                                      height - .1) - eave
            ridge = np.array([side * (deep / 2 + 0.4), -rise, 0])
            tiles = roof(self.street.seed % 4 * 8 + index % 8)
            b.quad(eave + ridge, along, -ridge, tiles, BUILDING)
            for s in (s0, s1):
                b.panel((lat, s), (back, s), rise,
                        _gable(self.street.seed % 8 * 8 + index % 8), BUILDING,
                        height)

    def _centre(self, b: Builder, rng, s: float, side: int) -> None:
        lat = side * (self.street.edge + self.street.walk)
        at = s
        for width in _SPLITS[rng.integers(len(_SPLITS))]:
            style = str(rng.choice(_STYLES['centre']))
            self._house(b, rng, at, at + width, lat, side, style, 10,
                        style == 'shop' and rng.random() < 0.5)
            at += width
        if rng.random() < 0.55:
            for k in range(2):
                self._tree(b, rng, side * (self.street.edge + 0.9),
                           s + 5 + 12 * k, 0.75)

    def _border(self, b: Builder, rng, s: float, side: int,
                odds: Tuple[float, float, float]) -> None:
        """Hedge, fence or wall (by odds) along the pavement's outer edge."""
        lat = side * (self.street.edge + self.street.walk + 0.25)
        pick = rng.random()
        style = int(rng.integers(4)) + 4 * (self.street.seed % 4)
        total = np.cumsum(odds)
        for k in range(4):
            ends = (lat, s + 6 * k), (lat, s + 6 * k + 6)
            if pick < total[0]:
                b.panel(*ends, 1.35, hedge(style), VEGETATION)
            elif pick < total[1]:
                b.panel(*ends, 1.5, fence(style), FENCE, screen=True)
            elif pick < total[2]:
                b.panel(*ends, 2.3, wall(style), WALL)

    def _residential(self, b: Builder, rng, s: float, side: int) -> None:
        self._border(b, rng, s, side, (0.14, 0.44, 0.3))
        line = self.street.edge + self.street.walk
        for k in range(2):
            lat = side * (line + rng.uniform(3.5, 5.5))
            width = rng.uniform(8, 10)
            at = s + 12 * k + rng.uniform(0.5, 1.8)
            if rng.random() < 0.9:
                self._house(b, rng, at, at + width, lat, side, 'house', 9,
                            True)
            if rng.random() < 0.6:
                self._tree(b, rng, side * (line + rng.uniform(1.4, 3)),
                           at + rng.uniform(-1, width), 0.7)
            if rng.random() < 0.5:
                self._bush(b, rng, side * (line + rng.uniform(1, 3)), at)
            self._tree(b, rng, side * (line + rng.uniform(14, 20)), at + 10,
                       1.1)

    def _park(self, b: Builder, rng, s: float, side: int) -> None:
        self._border(b, rng, s, side, (0.08, 0.34, 0.36))
        line = self.street.edge + self.street.walk
        for k in range(4):
            for depth in (2.5, 9., 16.):
                if rng.random() < 0.72:
                    self._tree(b, rng,
                               side * (line + depth + rng.uniform(-1.5, 3)),
                               s + 6 * k + rng.uniform(0, 5), 1.)
        for _ in range(3):
            self._bush(b, rng, side * (line + rng.uniform(1, 12)),
                       s + rng.uniform(0, CHUNK))

    def _industrial(self, b: Builder, rng, s: float, side: int) -> None:
        self._border(b, rng, s, side, (0.0, 0.42, 0.5))
        line = self.street.edge + self.street.walk
        if rng.random() < 0.75:
            self._house(b, rng, s + 1, s + 23,
                        side * (line + rng.uniform(5, 9)), side, 'hall', 20,
                        False)
        for _ in range(2):
            self._bush(b, rng, side * (line + rng.uniform(1, 4)),
                       s + rng.uniform(0, CHUNK))
        if rng.random() < 0.5:
            self._tree(b, rng, side * (line + rng.uniform(1.5, 4)),
                       s + rng.uniform(0, CHUNK), 0.9)

    def _crossing(self, b: Builder, rng, s: float, side: int) -> None:
        street = self.street
        line = side * (street.edge + street.walk)
        for ahead, a, z, face in ((-1, s, s + CROSS_START, s + CROSS_START),
                                  (1, s + CROSS_END, s + CHUNK,
                                   s + CROSS_END)):
            near = street.side_kind(int(s // CHUNK) + ahead, side)
            if near in ('park', 'residential'):
                for k in range(3):
                    self._tree(b, rng, line + side * (3 + 5 * k),
                               face + ahead * 2, 0.9)
                continue
            index = int(rng.integers(7)) + 40
            style = 'shop' if index % 2 else 'office'
            texture, height = _design(street.seed, index, style)
            ends = [(line, a), (line, z)]
            b.panel(*(ends if side > 0 else ends[::-1]), height,
                    side_wall(index), BUILDING)
            ends = [(line, face), (line + side * 14, face)]
            b.panel(*ends, height, texture, BUILDING)
            b.panel((line + side * 14, face), (line + side * 28, face),
                    height * 0.9, texture, BUILDING)
            if ahead > 0:
                b.panel((line, z), (line + side * 12, z), height,
                        side_wall(index), BUILDING)

    # -- small things -----------------------------------------------------
    def _tree(self, b: Builder, rng, lat: float, s: float,
              scale: float) -> None:
        tall = rng.uniform(5.5, 9) * scale
        texture = sprites.tree(int(rng.integers(20)))
        b.board(lat, s, (tall * 0.8, tall), texture, VEGETATION)
        b.shadow(lat + 0.5 * tall * self.street.sun_side, s + 1, tall * 0.7,
                 tall * 0.6)

    def _bush(self, b: Builder, rng, lat: float, s: float) -> None:
        wide = rng.uniform(1.2, 2.6)
        b.board(lat, s, (wide, wide * 0.8),
                sprites.bush(int(rng.integers(12))), VEGETATION)
        b.shadow(lat, s, wide, wide * 0.6)

    def _post(self, b: Builder, lat: float, s: float, tall: float,
              thick: float) -> None:
        b.board(lat, s, (thick, tall), sprites.pole(self.street.seed), POLE)
        b.cast(lat, s, thick, min(tall, 4))

    def _kerbside(self, b: Builder, rng, index: int, side: int,
                  crossing: bool) -> None:
        street, s = self.street, index * CHUNK
        kerb = side * (street.edge + 0.5)
        if (index + (side > 0)) % 2 == 0:
            at = s + (2 if crossing else 12)
            self._post(b, kerb, at, 6.2, 0.2)
            b.upright(kerb - side * 0.9,
                      at, 2.0, 1.0, 0. if side > 0 else np.pi,
                      sprites.lamp_arm(0), POLE, 6.1)
            b.lamp(kerb - side * 1.4, at, 6.6, 0)
        for k in range(2):
            if rng.random() < 0.6:
                at = s + (2.2 + 21 * k if crossing else rng.uniform(2, 22))
                self._sign(b, rng, kerb, at, side)
        if rng.random() < 0.3:
            at = s + rng.uniform(1, 3)
            self._post(b, kerb + side * 0.3, at, 3.6, 0.16)
            b.board(kerb + side * 0.2, at - 0.12, (2.2, 1.1),
                    sprites.direction_board(int(rng.integers(3))),
                    TRAFFIC_SIGN, 2.5)
        for at in np.arange(1.5, 22, 3.) if rng.random() < 0.3 else ():
            if not (crossing and 6 < at < 20):
                self._post(b, kerb - side * 0.2, s + at, 1.0, 0.16)
        if not crossing:
            if street.parking > 1:
                self._parked(b, rng, s, side)
            for k in range(2):
                if rng.random() < 0.6:
                    at = s + 12 * k + rng.uniform(1, 6)
                    self._racks(b, rng, at, side)

    def _sign(self, b: Builder, rng, lat: float, s: float, side: int) -> None:
        self._post(b, lat, s, 2.9, 0.13)
        size = rng.uniform(0.75, 0.95)
        b.board(lat, s - 0.1, (size, size),
                sprites.sign(int(rng.integers(sprites.SIGNS))), TRAFFIC_SIGN,
                2.0)
        if rng.random() < 0.25:
            b.board(lat, s - 0.1, (size, size),
                    sprites.sign(int(rng.integers(sprites.SIGNS))),
                    TRAFFIC_SIGN, 2.0 + size)

    def _parked(self, b: Builder, rng, s: float, side: int) -> None:
        lat = side * (self.street.edge - 1.1)
        heading = 0. if side > 0 else np.pi
        k = 0
        while k < 4:
            at, pick = s + 6 * k + 3, rng.random()
            if pick < 0.09 and k < 3:
                kind = 'truck' if pick < 0.055 else 'bus'
                faces, _, length, label = vehicles.large(
                    kind, int(rng.integers(8)))
                b.body(lat, at + 3, faces, label, heading)
                b.shadow(lat, at + 3, 3.4, length + 1)
                k += 2
                continue
            if pick < 0.52:
                kind = str(rng.choice(CAR_KINDS))
                faces, _, length = vehicles.car(
                    kind, int(rng.integers(len(vehicles.PAINTS))))
                at += rng.uniform(-0.4, 0.4)
                turn = heading if rng.random() < 0.85 else heading + np.pi
                b.body(lat, at, faces, CAR, turn)
                b.shadow(lat, at, 2.5, length + 0.7)
            elif pick < 0.62:
                for j in range(2):
                    self._two_wheels(b, rng, lat, at + 1.6 * j, MOTORCYCLE,
                                     side)
            k += 1

    def _two_wheels(self, b: Builder, rng, lat: float, s: float, label: int,
                    side: int) -> None:
        draw = sprites.motorcycle if label == MOTORCYCLE else sprites.bicycle
        width = 2.1 if label == MOTORCYCLE else 1.8
        b.upright(lat, s, width, width / 1.7, side * rng.uniform(-0.9, 0.3),
                  draw(int(rng.integers(12)), True), label)
        b.shadow(lat, s, 1.6, 0.7)

    def _racks(self, b: Builder, rng, s: float, side: int) -> None:
        lat = side * (self.street.edge + rng.uniform(1.0, 1.4))
        label = MOTORCYCLE if rng.random() < 0.25 else BICYCLE
        for k in range(int(rng.integers(1, 5))):
            self._two_wheels(b, rng, lat, s + 1.1 * k, label, side)
