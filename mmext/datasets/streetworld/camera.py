# Copyright (c) mmext contributors. All rights reserved.
"""Pinhole camera and the drive of the recording car.

World frame: x to the right of the street, y **down**, z along the street, in
metres; the ground is ``y = 0``. Camera frame: x right, y down, z forward, as
in OpenCV, so a car that drives straight has the identity as rotation.
"""
from dataclasses import dataclass
from typing import Callable, Optional, Tuple

import numpy as np


@dataclass(frozen=True)
class Intrinsics:
    r"""A pinhole camera without distortion.

    A point :math:`(x, y, z)` in the camera frame is seen at
    :math:`u = f x / z + c_x,\; v = f y / z + c_y` (pixel centres are whole
    numbers).

    Args:
        height (int): Image height in pixels. Defaults to 256.
        width (int): Image width in pixels. Defaults to 512.
        focal (float, optional): Focal length in pixels. Defaults to None,
            which means 0.9 times the width (58 degrees across).
        cx (float, optional): Principal point. Defaults to the middle.
        cy (float, optional): Principal point. Defaults to the middle.
    """
    height: int = 256
    width: int = 512
    focal: Optional[float] = None
    cx: Optional[float] = None
    cy: Optional[float] = None

    def __post_init__(self) -> None:
        if self.height < 16 or self.width < 16:
            raise ValueError('a StreetWorld frame is at least 16 x 16 '
                             f'pixels, got {self.height} x {self.width}')
        if self.focal is not None and self.focal <= 0:
            raise ValueError('focal is a length in pixels and must be '
                             f'positive, got {self.focal}')

    @property
    def f(self) -> float:
        """float: Focal length in pixels."""
        return 0.9 * self.width if self.focal is None else float(self.focal)

    @property
    def centre(self) -> Tuple[float, float]:
        """tuple[float, float]: Principal point (cx, cy) in pixels."""
        cx = (self.width - 1) / 2 if self.cx is None else float(self.cx)
        cy = (self.height - 1) / 2 if self.cy is None else float(self.cy)
        return cx, cy

    @property
    def matrix(self) -> np.ndarray:
        """np.ndarray: The 3 x 3 calibration matrix, float64."""
        cx, cy = self.centre
        return np.array([[self.f, 0, cx], [0, self.f, cy], [0, 0, 1.]])


@dataclass(frozen=True)
class Drive:
    """How the recording car moves; everything is a function of the time.

    Args:
        speed (float): Metres per second. Defaults to 10.
        height (float): Camera above the ground in metres. Defaults to 1.4.
        pitch (float): Downward tilt in degrees. Defaults to 1.
        yaw (float): Constant angle to the street in degrees, positive looks
            to the right. Defaults to 0.
        sway (float): Size of the slow yaw movement in degrees; the lateral
            drift in the lane follows it. Defaults to 2.
        start (float): Position on the street at time 0 in metres.
            Defaults to 0.
    """
    speed: float = 10.
    height: float = 1.4
    pitch: float = 1.
    yaw: float = 0.
    sway: float = 2.
    start: float = 0.

    def __post_init__(self) -> None:
        if not 0.2 <= self.height <= 4:
            raise ValueError('the camera height must be between 0.2 and 4 '
                             f'metres, got {self.height}')

    def position(self, t: float) -> float:
        """Place on the street in metres at time ``t`` in seconds."""
        return self.start + self.speed * t

    def pose(self, t: float, lane: float,
             bend: Callable[[float], Tuple[float, float]]) -> np.ndarray:
        """Camera-to-world transform at time ``t``.

        Args:
            t (float): Time in seconds.
            lane (float): Lateral position of the lane's middle in metres.
            bend (Callable): Gives the street's lateral offset in metres and
                its slope at a place on the street.

        Returns:
            np.ndarray: 4 x 4 float64 matrix that takes camera coordinates to
            world coordinates.
        """
        s = self.position(t)
        offset, slope = bend(s)
        wave = np.sin(0.11 * s) * 0.7 + np.sin(0.043 * s + 1.3) * 0.3
        drift = 0.15 * self.sway * np.sin(0.061 * s + 0.4)
        yaw = np.arctan(slope) + np.deg2rad(self.yaw + self.sway * wave)
        pitch = np.deg2rad(self.pitch + 0.15 * np.sin(1.9 * t))
        cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
        turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        tilt = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
        pose = np.eye(4)
        pose[:3, :3] = turn @ tilt
        bounce = 0.01 * np.sin(3.1 * t)
        pose[:3, 3] = offset + lane + drift, -self.height + bounce, s
        return pose
