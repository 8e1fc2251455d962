# Copyright (c) mmext contributors. All rights reserved.
"""The plan of a town's street: its cross-section, bends and quarters."""
from dataclasses import dataclass
from typing import Tuple

import numpy as np

from .textures import rng_of

CHUNK = 24.  # metres of street that are laid out together
SECTION = 5  # chunks per quarter; the last of them is a crossing
KINDS = ('centre', 'residential', 'park', 'industrial')


@dataclass(frozen=True)
class Street:
    """All lateral measures of a street, in metres from its middle.

    Traffic keeps to the right (positive lateral positions drive forward).

    Args:
        seed (int): The town.
        tram (float): Half width of the tram bed, 0 without a tram.
        lanes (int): Lanes per direction.
        lane (float): Width of a lane.
        own (int): The lane the camera drives in, 0 next to the kerb.
        parking (float): Width of the strip for parked cars, may be 0.
        edge (float): Where the kerb is.
        walk (float): Width of the pavement.
        verge (float): Width of the grass between kerb and pavement outside
            the centre, may be 0.
        lawn (bool): Whether the tram bed is grass.
        median (str): What divides the directions: '', 'fence' or 'wall'.
        sun (float): Strength of the sun, 0 (overcast) to 1.
        sun_side (float): Lateral direction of the shadows, -1 to 1.
        grass (tuple[float, float, float]): Colour of the terrain, BGR.
        asphalt (float): Grey level of the road.
        bends (tuple): Pairs of (amplitude in metres, wave number, phase).
    """
    seed: int
    tram: float
    lanes: int
    lane: float
    own: int
    parking: float
    edge: float
    walk: float
    verge: float
    lawn: bool
    median: str
    sun: float
    sun_side: float
    grass: Tuple[float, float, float]
    asphalt: float
    bends: Tuple[Tuple[float, float, float], ...]

    @classmethod
    def of(cls, seed: int) -> 'Street':
        """The street of town number ``seed``."""
        rng = rng_of(seed, 0x57)
        tram = 3.2 if rng.random() < 0.42 else 0.
        lanes = 1 if rng.random() < 0.65 else 2
        lane = float(rng.uniform(3.1, 3.5))
        parking = 2.2 if rng.random() < 0.5 else 0.4
        dry = rng.random()
        median = ('', 'fence', 'wall')[rng.choice(3, p=(0.55, 0.25, 0.2))]
        return cls(
            seed=seed,
            tram=tram,
            lanes=lanes,
            lane=lane,
            own=int(rng.integers(lanes)),
            parking=parking,
            edge=tram + lanes * lane + parking,
            walk=float(rng.uniform(2.8, 5.2)),
            verge=float(rng.choice([0., rng.uniform(1.2, 2.2)])),
            lawn=bool(rng.random() < 0.5),
            median=median if tram or lanes > 1 else '',
            sun=float(rng.uniform(0.15, 1)),
            sun_side=float(rng.uniform(-1, 1)),
            grass=(float(45 + 25 * dry), float(105 + 20 * dry),
                   float(75 + 55 * dry)),
            asphalt=float(rng.uniform(78, 122)),
            bends=((float(rng.uniform(3, 11)), 2 * np.pi / 330,
                    float(rng.uniform(0, 6.28))),
                   (float(rng.uniform(0, 2.5)), 2 * np.pi / 140,
                    float(rng.uniform(0, 6.28)))))

    def lane_at(self, index: int) -> float:
        """Middle of forward lane ``index``, 0 being next to the kerb."""
        return self.edge - self.parking - (index + 0.5) * self.lane

    def bend(self, s):
        """Lateral offset of the street's middle at place ``s``, in metres.

        Args:
            s (float | np.ndarray): Metres along the street.

        Returns:
            float | np.ndarray: Metres, in the type of ``s``.
        """
        return sum(a * np.sin(s * k + p) for a, k, p in self.bends)

    def bend_and_slope(self, s: float) -> Tuple[float, float]:
        """:meth:`bend` and its derivative."""
        slope = sum(a * k * np.cos(s * k + p) for a, k, p in self.bends)
        return float(self.bend(s)), float(slope)

    def kind(self, chunk: int) -> str:
        """The sort of quarter a chunk lies in, or 'crossing'."""
        if chunk % SECTION == SECTION - 1:
            return 'crossing'
        rng = rng_of(self.seed, chunk // SECTION, 0x5e)
        return KINDS[rng.choice(4, p=(0.4, 0.28, 0.16, 0.16))]

    def side_kind(self, chunk: int, side: int) -> str:
        """As :meth:`kind`; the two sides may differ at a park."""
        kind = self.kind(chunk)
        if kind in ('park', 'industrial'):
            rng = rng_of(self.seed, chunk // SECTION, side + 5, 0x51de)
            if rng.random() < 0.4:
                return 'residential' if kind == 'park' else 'centre'
        return kind

    def place(self, lateral, s, height=0.) -> np.ndarray:
        """World point of a place on the street.

        Args:
            lateral (float): Metres to the right of the middle.
            s (float): Metres along the street.
            height (float): Metres above the ground. Defaults to 0.

        Returns:
            np.ndarray: (3, ) world coordinates.
        """
        return np.array([lateral + float(self.bend(s)), -height, s])
