# Copyright (c) mmext contributors. All rights reserved.
"""Collects what stands in a piece of street: walls, boards, bodies, shade."""
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np

from .canvas import Quads
from .street import Street
from .textures import Texture
from .vehicles import Face

_ANGLES = np.arange(10) * 2 * np.pi / 10
_CIRCLE = np.stack(
    [np.cos(_ANGLES), np.zeros_like(_ANGLES),
     np.sin(_ANGLES)], 1)


class Boards(NamedTuple):
    """Upright pictures that turn to the camera."""
    foot: np.ndarray  # (n, 3) middle of the lower edge
    size: np.ndarray  # (n, 2) width and height in metres
    textures: List[Texture]
    labels: List[int]

    def quads(self, right: np.ndarray) -> Quads:
        """As quads whose width lies along ``right`` (3, )."""
        across = self.size[:, :1] * right[None]
        down = np.zeros_like(self.foot)
        down[:, 1] = self.size[:, 1]
        return Quads(self.foot - across / 2 - down, across, down,
                     self.textures, self.labels)


class Piece(NamedTuple):
    """Everything on a piece of street."""
    solid: Quads
    screens: Quads  # partly see-through
    boards: Boards
    shade: np.ndarray  # (n, 10, 3) outlines on the ground
    lamps: np.ndarray  # (n, 4) world position and kind: 0 street, 1 head


class Builder:
    """Adds things by their place on the street.

    Args:
        street (Street): Turns (lateral, along) into world coordinates.
    """

    def __init__(self, street: Street) -> None:
        self.street = street
        self._quads: Tuple[list, ...] = ([], [], [], [], [])
        self._screens: Tuple[list, ...] = ([], [], [], [], [])
        self._boards: Tuple[list, ...] = ([], [], [], [])
        self._shade: List[np.ndarray] = []
        self._lamps: List[np.ndarray] = []

    def quad(self,
             corner,
             across,
             down,
             texture: Texture,
             label: int,
             screen: bool = False) -> None:
        """Add a parallelogram in world coordinates."""
        target = self._screens if screen else self._quads
        for part, value in zip(target, (corner, across, down, texture, label)):
            part.append(value)

    def panel(self,
              start: Tuple[float, float],
              end: Tuple[float, float],
              height: float,
              texture: Texture,
              label: int,
              base: float = 0.,
              screen: bool = False) -> None:
        """Add an upright panel between two places (lateral, along)."""
        a = self.street.place(*start, base + height)
        b = self.street.place(*end, base + height)
        self.quad(a, b - a, np.array([0, height, 0.]), texture, label, screen)

    def board(self,
              lateral: float,
              s: float,
              size: Sequence[float],
              texture: Texture,
              label: int,
              base: float = 0.) -> None:
        """Add a picture that always faces the camera."""
        values = self.street.place(lateral, s, base), size, texture, label
        for part, value in zip(self._boards, values):
            part.append(value)

    def body(self,
             lateral: float,
             s: float,
             faces: Sequence[Face],
             label: int,
             heading: float = 0.) -> None:
        """Add a vehicle; ``heading`` in radians is added to the street's."""
        origin = self.street.place(lateral, s)
        turn = self._turn(s, heading)
        for face in faces:
            self.quad(origin + turn @ face.corner, turn @ face.across,
                      turn @ face.down, face.texture, label)

    def upright(self,
                lateral: float,
                s: float,
                width: float,
                height: float,
                heading: float,
                texture: Texture,
                label: int,
                base: float = 0.) -> None:
        """Add a standing picture that keeps its own direction."""
        across = self._turn(s, heading) @ np.array([width, 0, 0.])
        origin = self.street.place(lateral, s, base + height) - across / 2
        self.quad(origin, across, np.array([0, height, 0.]), texture, label)

    def shadow(self,
               lateral: float,
               s: float,
               width: float,
               length: float,
               heading: float = 0.) -> None:
        """Add an ellipse of shade on the ground."""
        turn = self._turn(s, heading)
        outline = _CIRCLE * np.array([width / 2, 0, length / 2])
        self._shade.append(self.street.place(lateral, s) + outline @ turn.T)

    def cast(self, lateral: float, s: float, width: float,
             tall: float) -> None:
        """Add the shade that something narrow and tall throws sideways."""
        reach = 0.8 * tall * self.street.sun_side
        a, b = self.street.place(lateral,
                                 s), self.street.place(lateral + reach,
                                                       s + 0.25 * tall)
        side = np.array([0, 0, width / 2])
        outline = np.stack([a - side, b - side, b + side, a + side])
        self._shade.append(outline[[0, 0, 1, 1, 1, 2, 2, 3, 3, 3]])

    def lamp(self, lateral: float, s: float, height: float, kind: int) -> None:
        """Add a light: 0 street lamp, 1 head lamps of a vehicle."""
        self._lamps.append(
            np.append(self.street.place(lateral, s, height), kind))

    def _turn(self, s: float, heading: float) -> np.ndarray:
        yaw = np.arctan(self.street.bend_and_slope(s)[1]) + heading
        c, n = np.cos(yaw), np.sin(yaw)
        return np.array([[c, 0, n], [0, 1, 0], [-n, 0, c]])

    def build(self) -> Piece:
        """Pack what was added into arrays."""

        def rows(values, width):
            return np.array(values, np.float64).reshape(-1, width)

        def quads(parts):
            return Quads(*(rows(p, 3) for p in parts[:3]), parts[3], parts[4])

        foot, size, textures, labels = self._boards
        return Piece(
            quads(self._quads), quads(self._screens),
            Boards(rows(foot, 3), rows(size, 2), textures, labels),
            np.array(self._shade, np.float64).reshape(-1, 10, 3),
            rows(self._lamps, 4))
