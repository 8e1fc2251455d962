# Copyright (c) mmext contributors. All rights reserved.
"""Textured parallelograms on a picture with an inverse-depth buffer.

A surface point is :math:`p(a, b) = p_0 + a\\,\\mathbf{u} + b\\,\\mathbf{v}`
with :math:`a, b \\in [0, 1]`. Seen by a pinhole camera this is the homography
:math:`H = K\\,[\\mathbf{u}\\;\\mathbf{v}\\;p_0]`, and the inverse depth of
its plane is an affine function of the pixel:
:math:`1 / z = n^\\top K^{-1} (u, v, 1)^\\top / n^\\top p_0` with
:math:`n = \\mathbf{u} \\times \\mathbf{v}`. The nearest surface wins in every
pixel, so the order of drawing is free; near to far is the quickest, since
surfaces that are wholly hidden are then skipped.
"""
from typing import List, NamedTuple, Optional, Sequence

import cv2
import numpy as np

from .camera import Intrinsics
from .textures import Texture

NEAR = 0.4  # metres
_WARP = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
_CORNERS = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)


class Quads(NamedTuple):
    """Many parallelograms: (n, 3) arrays in world metres and lists."""
    corner: np.ndarray
    across: np.ndarray
    down: np.ndarray
    textures: List[Texture]
    labels: List[int]

    @staticmethod
    def join(parts: Sequence['Quads']) -> 'Quads':
        """All quads of several sets in one."""
        return Quads(
            *(np.concatenate([getattr(p, n) for p in parts])
              for n in ('corner', 'across', 'down')),
            sum((p.textures for p in parts), []),
            sum((p.labels for p in parts), []))


def clip_near(points: np.ndarray) -> np.ndarray:
    """Cut a polygon in the camera frame at the near plane.

    Args:
        points (np.ndarray): (n, 3) corners in order.

    Returns:
        np.ndarray: (m, 3) corners with ``z >= NEAR``; m may be 0.
    """
    out = []
    for a, b in zip(points, np.roll(points, -1, 0)):
        if a[2] >= NEAR:
            out.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            out.append(a + (b - a) * (NEAR - a[2]) / (b[2] - a[2]))
    return np.array(out).reshape(-1, 3)


class Canvas:
    """The picture under construction.

    Args:
        intrinsics (Intrinsics): The camera.
        pose (np.ndarray): Camera-to-world, 4 x 4.
        night (bool): Keep the light that surfaces emit as well.
            Defaults to False.

    Attributes:
        image (np.ndarray): (H, W, 4) uint8; B, G, R and the train id.
        inverse (np.ndarray): (H, W) float32, 1 / depth, 0 for the sky.
        glow (np.ndarray, optional): (H, W, 3) uint8 emission.
        horizon (int): First row in which all pixels see the ground.
    """

    def __init__(self,
                 intrinsics: Intrinsics,
                 pose: np.ndarray,
                 night: bool = False) -> None:
        self.intrinsics = intrinsics
        self.pose = pose
        self.height, self.width = intrinsics.height, intrinsics.width
        self.image = np.zeros((self.height, self.width, 4), np.uint8)
        self.packed = self.image.view(np.uint32)[..., 0]
        self.inverse = np.zeros((self.height, self.width), np.float32)
        self.horizon = 0
        self.glow: Optional[np.ndarray] = None
        if night:
            self.glow = np.zeros((self.height, self.width, 3), np.uint8)
        self._k = intrinsics.matrix
        self._k_inv = np.linalg.inv(self._k)
        self._u = np.arange(self.width, dtype=np.float32)
        self._v = np.arange(self.height, dtype=np.float32)[:, None]

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) in the camera frame."""
        return (points - self.pose[:3, 3]) @ self.pose[:3, :3]

    def draw(self, quads: Quads, see_through: bool = False) -> None:
        """Draw quads; the nearest surface wins in each pixel.

        Args:
            quads (Quads): What to draw.
            see_through (bool): Blend by alpha instead of cutting at one
                half; the label and depth are the quad's all over. Such
                quads come last. Defaults to False.
        """
        if not len(quads.labels):
            return
        corner = self.to_camera(quads.corner)
        turn = self.pose[:3, :3]
        across, down = quads.across @ turn, quads.down @ turn
        points = (
            corner[:, None] + _CORNERS[None, :, :1] * across[:, None] +
            _CORNERS[None, :, 1:] * down[:, None])
        z = points[..., 2]
        with np.errstate(all='ignore'):
            pix = points @ self._k.T
            pix = pix[..., :2] / pix[..., 2:]
            lo, hi = pix.min(1), pix.max(1)
            size_u = np.maximum(
                np.abs(pix[:, 1] - pix[:, 0]).max(1),
                np.abs(pix[:, 2] - pix[:, 3]).max(1))
            size_v = np.maximum(
                np.abs(pix[:, 3] - pix[:, 0]).max(1),
                np.abs(pix[:, 2] - pix[:, 1]).max(1))
        normal = np.cross(across, down)
        offset = (normal * corner).sum(1)
        nearest = z.min(1)
        crossing = nearest < NEAR
        seen = (z.max(1) > NEAR) & (np.abs(offset) > 1e-6)
        seen &= crossing | ((lo[:, 0] < self.width) & (hi[:, 0] > -1) &
                            (lo[:, 1] < self.height) & (hi[:, 1] > -1) &
                            (np.minimum(size_u, size_v) > 0.35))
        order = np.flatnonzero(seen)
        if not order.size:
            return
        order = order[np.argsort(nearest[order], kind='stable')]
        if see_through:
            order = order[::-1]
        for i in np.flatnonzero(crossing & seen):
            cut = clip_near(points[i]) @ self._k.T
            cut = cut[:, :2] / cut[:, 2:]
            lo[i], hi[i] = cut.min(0), cut.max(0)
            size_u[i] = size_v[i] = 1e6
        plane = (normal[order] @ self._k_inv / offset[order, None])
        maps = self._k @ np.stack([across, down, corner], 2)[order]
        self._paint([quads.textures[i] for i in order],
                    [quads.labels[i] for i in order], np.linalg.inv(maps),
                    plane.astype(np.float32), lo[order], hi[order],
                    np.stack([size_u, size_v], 1)[order],
                    1 / np.maximum(nearest[order], NEAR), see_through)

    def _paint(self, textures: List[Texture], labels: List[int],
               back: np.ndarray, plane: np.ndarray, low: np.ndarray,
               high: np.ndarray, size: np.ndarray, closest: np.ndarray,
               see_through: bool) -> None:
        """Draw surfaces whose maps pixel -> (a, b) are known, in order."""
        limit = np.array([self.width, self.height])
        start = np.clip(low, 0, limit).astype(np.int64)
        stop = np.clip(high + 2, 0, limit).astype(np.int64)
        full = np.array([(t.width, t.height) for t in textures]).reshape(-1, 2)
        step = np.log2(np.maximum(full / size, 1)).clip(0, 7).astype(int)
        texels = np.maximum(full >> step, 1)
        # Pixel of the cut -> texel, whose centres are whole numbers too.
        back[..., 2] += (back[..., :2] * start[:, None]).sum(-1)
        back[:, :2] = (back[:, :2] * texels[..., None] - 0.5 * back[:, 2:])
        rois = np.concatenate([start, stop], 1).tolist()
        for k, (u0, v0, u1, v1) in enumerate(rois):
            if u1 <= u0 or v1 <= v0:
                continue
            held = self.inverse[v0:v1, u0:u1]
            if held.min() >= closest[k]:
                continue
            pu, pv, p1 = plane[k]
            inv = pu * self._u[u0:u1] + (pv * self._v[v0:v1] + p1)
            mask = inv > held
            if not mask.any():
                continue
            texture, (lx, ly) = textures[k], step[k].tolist()
            tile = cv2.warpPerspective(
                texture.level(lx, ly),
                back[k], (u1 - u0, v1 - v0),
                flags=_WARP)
            if see_through:
                self._blend(tile, labels[k], mask, inv, (v0, v1, u0, u1))
                continue
            mask &= tile[..., 3] > 127
            tile[..., 3] = labels[k]
            np.copyto(
                self.packed[v0:v1, u0:u1],
                tile.view(np.uint32)[..., 0],
                where=mask)
            np.copyto(held, inv, where=mask)
            if self.glow is not None:
                light = cv2.warpPerspective(
                    texture.glow(lx, ly),
                    back[k], (u1 - u0, v1 - v0),
                    flags=_WARP) if texture.glows else 0
                np.copyto(
                    self.glow[v0:v1, u0:u1], light, where=mask[..., None])

    def _blend(self, tile, label, mask, inv, roi) -> None:
        v0, v1, u0, u1 = roi
        alpha = tile[..., 3:].astype(np.float32) / 255
        mask &= alpha[..., 0] > 0.12
        alpha *= mask[..., None]
        under = self.image[v0:v1, u0:u1]
        mixed = under[..., :3] + alpha * (
            tile[..., :3].astype(np.float32) - under[..., :3])
        under[..., :3] = mixed
        under[..., 3][mask] = label
        np.copyto(self.inverse[v0:v1, u0:u1], inv, where=mask)
        if self.glow is not None:
            self.glow[v0:v1, u0:u1] = self.glow[v0:v1, u0:u1] * (1 - alpha)
