# Copyright (c) mmext contributors. All rights reserved.
"""Frames of a drive through a procedural town."""
from dataclasses import dataclass
from typing import Dict, Optional

import cv2
import numpy as np

from .camera import Drive, Intrinsics
from .canvas import Canvas, Quads
from .classes import SKY
from .ground import FAR, Ground, Sky
from .street import CHUNK, Street
from .town import Town
from .traffic import Traffic

REACH = 170.  # metres ahead in which things are drawn


@dataclass
class Frame:
    """One frame and what is known about it.

    Attributes:
        image (np.ndarray): (H, W, 3) uint8, channels in the order B, G, R,
            as OpenCV reads files; :attr:`rgb` gives the other order.
        labels (np.ndarray): (H, W) uint8 Cityscapes train ids.
        depth (np.ndarray): (H, W) float32 metres along the optical axis;
            0 where the sky is.
        pose (np.ndarray): 4 x 4 camera-to-world, see
            :mod:`~mmext.datasets.streetworld.camera`.
        intrinsics (Intrinsics): The camera.
        t (float): Seconds.
        town (int): The town's seed.
        glow (np.ndarray, optional): (H, W, 3) uint8 light emitted by lamps
            and windows; only if asked for.
        lamps (np.ndarray): (n, 4) world position and kind of each lamp:
            0 street lamp, 1 head lamps towards us, 2 head lamps of a
            vehicle that drives our way.
    """
    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    pose: np.ndarray
    intrinsics: Intrinsics
    t: float
    town: int
    glow: Optional[np.ndarray]
    lamps: np.ndarray

    @property
    def rgb(self) -> np.ndarray:
        """np.ndarray: The image with its channels in the order R, G, B."""
        return np.ascontiguousarray(self.image[..., ::-1])


class StreetWorld:
    """A town that can be looked at from a driving car at any time.

    The same arguments and the same ``t`` give the same frame, whichever
    frames were rendered before.

    Args:
        town (int): Seed of the town: street plan, houses, traffic.
            Defaults to 0.
        intrinsics (Intrinsics, optional): The camera. Defaults to None,
            which means 256 x 512 pixels, 58 degrees across.
        drive (Drive, optional): How the car moves. Defaults to None, which
            means 10 m/s, camera at 1.4 m.
        soften (float): Sigma in pixels (at a width of 512) of the lens
            blur that also hides stair-steps. Defaults to 0.55.

    Examples:
        >>> from mmext.datasets.streetworld import StreetWorld
        >>> world = StreetWorld(town=3)
        >>> frame = world.render(t=12.5)
        >>> frame.image.shape, frame.labels.dtype, frame.depth.dtype
        ((256, 512, 3), dtype('uint8'), dtype('float32'))
    """

    def __init__(self,
                 town: int = 0,
                 intrinsics: Optional[Intrinsics] = None,
                 drive: Optional[Drive] = None,
                 soften: float = 0.55) -> None:
        self.seed = int(town)
        self.intrinsics = intrinsics or Intrinsics()
        self.drive = drive or Drive()
        self.soften = float(soften)
        self.street = Street.of(self.seed)
        self.town = Town(self.street)
        self.traffic = Traffic(self.street)
        self._ground: Dict[str, object] = {}

    @property
    def lane(self) -> float:
        """float: Lateral place of the lane the camera drives in."""
        return self.street.lane_at(self.street.own)

    def pose(self, t: float) -> np.ndarray:
        """Camera-to-world transform at ``t`` seconds, 4 x 4 float64."""
        return self.drive.pose(t, self.lane, self.street.bend_and_slope)

    def render(self, t: float, night: bool = False) -> Frame:
        """Draw the frame at a time.

        Args:
            t (float): Seconds, any real number.
            night (bool): Keep the emitted light as well, which the night
                and dusk domains need. Defaults to False.

        Returns:
            Frame: Image, labels, depth, pose.
        """
        if not self._ground:
            self._ground.update(
                ground=Ground(self.street), sky=Sky(self.street))
        pose = self.pose(t)
        canvas = Canvas(self.intrinsics, pose, night)
        s = pose[2, 3]
        first = int(np.floor((s - 10) / CHUNK))
        last = int(np.floor((s + REACH) / CHUNK))
        pieces = [self.town.chunk(k) for k in range(first, last + 1)]
        pieces.append(self.traffic.at(t, s, REACH, self.lane))
        ground = self._ground['ground']
        ground.draw(canvas)
        ground.shade(canvas, np.concatenate([p.shade for p in pieces]),
                     0.25 + 0.3 * self.street.sun)
        right = np.array([pose[0, 0], 0, pose[2, 0]])
        canvas.draw(
            Quads.join([p.solid for p in pieces] +
                       [p.boards.quads(right) for p in pieces]))
        self._ground['sky'].draw(canvas)
        canvas.draw(Quads.join([p.screens for p in pieces]), True)
        return self._finish(canvas, t, pieces)

    def _finish(self, canvas: Canvas, t: float, pieces) -> Frame:
        image = np.ascontiguousarray(canvas.image[..., :3])
        sigma = self.soften * self.intrinsics.width / 512
        if sigma > 0.2:
            image = cv2.GaussianBlur(image, (0, 0), sigma)
        labels = canvas.image[..., 3].copy()
        inverse = canvas.inverse
        sky = labels == SKY
        depth = 1 / np.where(sky, 1, np.maximum(inverse, 1 / FAR))
        depth[sky] = 0
        return Frame(image, labels, depth.astype(np.float32), canvas.pose,
                     self.intrinsics, float(t), self.seed, canvas.glow,
                     np.concatenate([p.lamps for p in pieces]))
