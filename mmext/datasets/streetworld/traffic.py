# Copyright (c) mmext contributors. All rights reserved.
"""What moves: every place is a function of the time alone.

Traffic runs in slots. Slot ``j`` of a lane with speed ``v`` and spacing ``d``
is at ``j d + jitter_j + v t``, so a frame needs no frame before it and any
frame rate shows the same world.
"""
from functools import lru_cache
from typing import Iterator, Tuple

import numpy as np

from . import sprites, vehicles
from .builder import Builder, Piece
from .classes import (BICYCLE, CAR, MOTORCYCLE, PERSON, POLE, RIDER,
                      TRAFFIC_LIGHT)
from .street import CHUNK, SECTION, Street
from .textures import rng_of
from .town import CAR_KINDS

_LIGHT_CYCLE = ((0, 14.), (2, 12.), (1, 3.))  # state, seconds


@lru_cache(maxsize=8192)
def _draws(seed: int, lane: int, slot: int) -> np.ndarray:
    """Eight uniform numbers that belong to one slot of one lane."""
    return rng_of(seed, lane, slot, 0x7a).random(8)


class Traffic:
    """The moving part of a town.

    Args:
        street (Street): The town's street.
    """

    def __init__(self, street: Street) -> None:
        self.street = street
        rng = rng_of(street.seed, 0x7f)
        self._speeds = rng.uniform(0.8, 1.2, 8)

    def _slots(self, lane: int, speed: float, spacing: float, share: float,
               t: float, lo: float,
               hi: float) -> Iterator[Tuple[float, np.ndarray]]:
        first = int(np.floor((lo - speed * t) / spacing)) - 1
        last = int(np.ceil((hi - speed * t) / spacing)) + 1
        for j in range(first, last + 1):
            u = _draws(self.street.seed, lane, j)
            s = (j + 0.35 * u[1]) * spacing + speed * t
            if u[0] < share and lo <= s <= hi:
                yield s, u

    def at(self, t: float, s: float, reach: float, lane: float) -> Piece:
        """Everything that moves near a place.

        Args:
            t (float): Seconds.
            s (float): The camera's place on the street in metres.
            reach (float): How far ahead to look, in metres.
            lane (float): Lateral place of the camera's lane.

        Returns:
            Piece: Quads, boards, shade and lamps.
        """
        b = Builder(self.street)
        lo, hi = s - 14, s + reach
        street = self.street
        for k in range(street.lanes):
            lat, v = street.lane_at(k), self._speeds[k]
            self._lane(b, k, -lat, -10 * v, 24, 0.62, t, lo, hi, s)
            if abs(lat - lane) > 1:
                self._lane(b, 10 + k, lat, 8 * v, 26, 0.6, t, lo, hi, s)
        self._leader(b, t, s, lane)
        if street.tram:
            for side, v, share in ((1, 8.5, 0.55), (-1, -9.5, 0.6)):
                for at, u in self._slots(20 + side, v, 120, share, t, lo - 12,
                                         hi):
                    faces, _, length, label = vehicles.large(
                        'tram',
                        int(u[2] * 4) + street.seed % 3 * 4)
                    b.body(side * 1.6, at, faces, label,
                           0. if side > 0 else np.pi)
                    b.shadow(side * 1.6, at, 3.1, length)
        self._two_wheelers(b, t, lo, hi, s)
        self._walkers(b, t, lo, min(hi, s + 90))
        self._crossings(b, t, lo, hi)
        return b.build()

    # -- vehicles ---------------------------------------------------------
    def _vehicle(self, b: Builder, lat: float, s: float, u: np.ndarray,
                 forward: bool, away: float) -> None:
        heading = 0. if forward else np.pi
        pick = u[2]
        if pick < 0.1:
            self._on_wheels(b, lat, s, u, MOTORCYCLE, forward)
            return
        if pick < 0.3:
            kind = 'truck' if pick < 0.22 else 'bus'
            faces, far, length, label = vehicles.large(kind, int(u[3] * 8))
            wide = 2.5
        else:
            kind = CAR_KINDS[int(u[3] * len(CAR_KINDS))]
            faces, far, length = vehicles.car(kind,
                                              int(u[4] * len(vehicles.PAINTS)))
            label, wide = CAR, 1.8
        b.body(lat, s, far if abs(away) > 60 else faces, label, heading)
        b.shadow(lat, s, wide + 0.7, length + 0.7)
        nose = length / 2 if forward else -length / 2
        b.lamp(lat, s + nose, 0.65, 1 if not forward else 2)

    def _lane(self, b: Builder, lane: int, lat: float, v: float,
              spacing: float, share: float, t: float, lo: float, hi: float,
              s: float) -> None:
        for at, u in self._slots(lane, v, spacing, share, t, lo, hi):
            self._vehicle(b, lat + 0.5 * (u[5] - 0.5), at, u, v > 0, at - s)

    def _leader(self, b: Builder, t: float, s: float, lane: float) -> None:
        """The vehicle ahead: it is caught up with, then drives off."""
        period = 24.
        turn = int(np.floor(t / period))
        u = _draws(self.street.seed, 40, turn)
        if u[0] < 0.8:
            phase = 2 * (t / period - turn) - 1
            gap = 9 + 12 * u[1] + 4 * (u[2] < 0.3) + 100 * phase**2
            self._vehicle(b, lane, s + gap, u, True, gap)

    def _on_wheels(self, b: Builder, lat: float, s: float, u: np.ndarray,
                   label: int, forward: bool) -> None:
        """A bicycle or motorcycle with its rider, along the street."""
        seed = int(u[3] * 12)
        if label == MOTORCYCLE:
            b.board(lat, s, (0.85, 1.2), sprites.motorcycle(seed, False),
                    label)
            b.board(lat, s - 0.05, (0.82, 1.5),
                    sprites.rider_back(seed + 12 * (u[4] > 0.5)), RIDER, 0.32)
        else:
            b.board(lat, s, (0.66, 1.1), sprites.bicycle(seed, False), label)
            b.board(lat, s - 0.05 if forward else s + 0.05, (0.78, 1.5),
                    sprites.rider_back(seed + 12 * (u[4] > 0.5)), RIDER, 0.3)
        b.shadow(lat, s, 0.8, 1.7)

    def _two_wheelers(self, b: Builder, t: float, lo: float, hi: float,
                      s: float) -> None:
        lat = self.street.edge - self.street.parking - 0.45
        for lane, side, v in ((30, 1, 4.6), (31, -1, -5.0)):
            for at, u in self._slots(lane, v, 22, 0.6, t, lo, min(hi, s + 90)):
                label = MOTORCYCLE if u[5] < 0.15 else BICYCLE
                self._on_wheels(b, side * lat, at, u, label, v > 0)

    # -- people -----------------------------------------------------------
    def _person(self, b: Builder, lat: float, s: float, u: np.ndarray,
                walked: float) -> None:
        tall = 1.6 + 0.3 * u[3]
        phase = int(walked / 0.18 + 8 * u[4]) % sprites.PERSON_PHASES
        b.board(lat, s, (tall / 2.2, tall),
                sprites.person(int(u[5] * 40), phase), PERSON)
        b.shadow(lat, s, 0.8, 0.5)
        b.cast(lat, s, 0.35, tall * 0.8)

    def _walkers(self, b: Builder, t: float, lo: float, hi: float) -> None:
        street = self.street
        for lane, side, v in ((50, 1, 1.3), (51, 1, -1.2), (52, -1, 1.2),
                              (53, -1, -1.35)):
            for at, u in self._slots(lane, v, 9, 0.6, t, lo, hi):
                lat = street.edge + 0.9 + u[2] * (street.walk - 1.4)
                self._person(b, side * lat, at, u, abs(v) * t)
                if u[6] < 0.3:
                    self._person(b, side * (lat + 0.6), at + 0.2, u[::-1],
                                 abs(v) * t)

    def _crossings(self, b: Builder, t: float, lo: float, hi: float) -> None:
        """People on the zebra, cyclists across, and the traffic lights."""
        street = self.street
        first = int(np.floor(lo / CHUNK)) - 1
        for chunk in range(first, int(np.ceil(hi / CHUNK)) + 1):
            if chunk % SECTION != SECTION - 1:
                continue
            base = chunk * CHUNK
            self._lights(b, t, chunk)
            width = street.edge + 1.5
            for j in range(6):
                u = _draws(street.seed, 60 + j, chunk)
                speed = 1.1 + 0.5 * u[1]
                way = (t * speed + 40 * u[2]) % (4 * width)
                lat = way - width if way < 2 * width else 3 * width - way
                zebra = base + (5. if j % 2 else 20.) + 1.4 * u[7]
                if u[0] < 0.75:
                    self._person(b, lat, zebra, u, speed * t)
            for j in range(3):
                u = _draws(street.seed, 70 + j, chunk)
                way = (t * 3.5 + 60 * u[2]) % 60 - 30
                if u[0] < 0.7:
                    s = base + 9 + 8 * u[1]
                    label = MOTORCYCLE if u[6] < 0.4 else BICYCLE
                    draw = (
                        sprites.motorcycle
                        if label == MOTORCYCLE else sprites.bicycle)
                    b.upright(way, s, 1.85, 1.09, 0.,
                              draw(int(u[3] * 12), True), label)
                    b.upright(way - 0.05, s - 0.04, 1.45, 1.45, 0.,
                              sprites.rider_side(int(u[4] * 24)), RIDER, 0.32)
                    b.shadow(way, s, 1.8, 0.7)

    def _lights(self, b: Builder, t: float, chunk: int) -> None:
        street, base = self.street, chunk * CHUNK
        clock = (t + 29 * _draws(street.seed, 80, chunk)[0]) % 29
        for state, span in _LIGHT_CYCLE:
            if clock < span:
                break
            clock -= span
        post = sprites.pole(street.seed + 1)
        for side in (-1, 1):
            lat = side * (street.edge + 0.4)
            for s, mine in ((3.4, side > 0), (22.4, True)):
                face = sprites.traffic_light(state if mine else 3)
                b.board(lat, base + s, (0.18, 3.4), post, POLE)
                b.board(lat, base + s - 0.12, (0.46, 1.1), face, TRAFFIC_LIGHT,
                        2.3)
        lat, s = street.edge + 0.3, base + 22.4
        b.board(lat, s, (0.22, 5.7), post, POLE)
        b.quad(
            street.place(lat - 4.2, s, 5.7), np.array([4.2, 0, 0]),
            np.array([0, 0.18, 0]), sprites.pole(street.seed + 2), POLE)
        b.board(lat - 3.6, s - 0.1, (0.5, 1.25), sprites.traffic_light(state),
                TRAFFIC_LIGHT, 4.7)
