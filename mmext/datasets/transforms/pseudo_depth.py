# Copyright (c) mmext contributors. All rights reserved.
"""A rough depth of a street scene, from its labels alone."""
from dataclasses import dataclass
from typing import Optional, Tuple

import cv2
import numpy as np


@dataclass(frozen=True)
class Surfaces:
    """Which label ids are sky, ground and upright objects.

    Args:
        sky (tuple[int]): Ids at infinity.
        ground (tuple[int]): Ids that lie in the ground plane.
        objects (tuple[tuple[int]]): Ids that stand on the ground; ids in one
            inner tuple form one object where they touch (a sign and its
            pole). Ids that are named nowhere are one more such group.
        cars (tuple[int]): Ids of vehicles, for lamps and covers of snow.
            Defaults to ().
        plants (tuple[int]): Ids of vegetation. Defaults to ().
        poles (tuple[int]): Ids of poles, for street lamps. Defaults to ().
        buildings (tuple[int]): Ids of buildings. Defaults to ().
    """
    sky: Tuple[int, ...]
    ground: Tuple[int, ...]
    objects: Tuple[Tuple[int, ...], ...]
    cars: Tuple[int, ...] = ()
    plants: Tuple[int, ...] = ()
    poles: Tuple[int, ...] = ()
    buildings: Tuple[int, ...] = ()


#: The 11 classes of ``mmext.CamVidDataset``.
CAMVID_SURFACES = Surfaces(
    sky=(0, ),
    ground=(3, 4),
    objects=((1, ), (2, 6), (5, ), (7, ), (8, ), (9, 10)),
    cars=(8, ),
    plants=(5, ),
    poles=(2, ),
    buildings=(1, ))


def estimate_horizon(labels: np.ndarray,
                     surfaces: Surfaces = CAMVID_SURFACES) -> float:
    """Row of the horizon: a little above the highest rows of the ground.

    A road that runs to its vanishing point ends just below the horizon, so
    the row above which 0.3 % of the ground lies, less 1.5 % of the height,
    is taken and held within 30-52 % of the height (of a forward-looking
    camera); without ground 45 % is taken.

    Args:
        labels (ndarray): Label map ``(H, W)``, uint8.
        surfaces (Surfaces): Meaning of the ids. Defaults to CamVid's.

    Returns:
        float: Row, in pixels from the top.
    """
    height = labels.shape[0]
    rows = np.nonzero(np.isin(labels, surfaces.ground))[0]
    if rows.size < 100:
        return 0.45 * height
    row = np.quantile(rows, 0.003) - 0.015 * height
    return float(np.clip(row, 0.30 * height, 0.52 * height))


def ground_depth(shape: Tuple[int, int],
                 horizon: float,
                 focal: float,
                 camera_height: float = 1.4,
                 far: float = 250.0) -> np.ndarray:
    """Depth of the ground plane by row, z = focal * height / (row - horizon).

    Args:
        shape (tuple[int]): ``(H, W)``.
        horizon (float): Row of the horizon, pixels.
        focal (float): Focal length, pixels.
        camera_height (float): Metres above the ground. Defaults to 1.4.
        far (float): Largest depth, metres; also that of the rows above the
            horizon. Defaults to 250.

    Returns:
        ndarray: Depth in metres ``(H,)``, float32.
    """
    below = np.arange(shape[0], dtype=np.float32) - horizon
    depth = focal * camera_height / np.maximum(below, 1e-3)
    return np.minimum(depth, far).astype(np.float32)


def pseudo_depth(labels: np.ndarray,
                 surfaces: Surfaces = CAMVID_SURFACES,
                 horizon: Optional[float] = None,
                 focal: Optional[float] = None,
                 camera_height: float = 1.4,
                 far: float = 250.0,
                 sky_depth: float = 2000.0,
                 unlabelled_far: float = 40.0) -> np.ndarray:
    """Depth from labels: a ground plane, and upright objects on it.

    Ground pixels have the depth of the plane at their row. An upright object
    (a connected component) has, in each column, the depth of the ground where
    it touches it; columns in which something hides its foot take it from
    the columns beside (linear in 1 / depth). What never touches the ground
    takes the depth of the nearest known pixel. No object is farther than the
    ground at its own row. The sky is at ``sky_depth``.

    This is not a measurement: it is good enough for fog and light that grow
    with distance.

    Args:
        labels (ndarray): Label map ``(H, W)``, uint8.
        surfaces (Surfaces): Meaning of the ids. Defaults to CamVid's.
        horizon (float, optional): Row of the horizon. Defaults to None,
            :func:`estimate_horizon`.
        focal (float, optional): Focal length in pixels. Defaults to None,
            the image's width (53 degrees wide).
        camera_height (float): Metres above the ground. Defaults to 1.4.
        far (float): Largest depth of ground and objects, m. Defaults to 250.
        sky_depth (float): Depth of the sky, metres. Defaults to 2000.
        unlabelled_far (float): Largest depth, metres, of what has no label
            or no way to the ground. Defaults to 40.

    Returns:
        ndarray: Depth in metres ``(H, W)``, float32.
    """
    if horizon is None:
        horizon = estimate_horizon(labels, surfaces)
    plane = ground_depth(labels.shape, horizon, focal or labels.shape[1],
                         camera_height, far)
    plane_map = np.repeat(plane[:, None], labels.shape[1], 1)
    ground = np.isin(labels, surfaces.ground)
    sky = np.isin(labels, surfaces.sky)
    depth = np.where(ground, plane_map, 0).astype(np.float32)
    known = ground.copy()
    masks = [np.isin(labels, group) for group in surfaces.objects]
    rest = ~(ground | sky | np.any(masks, 0))
    for mask in masks + [rest]:
        _stand(mask, ground, rest, plane, depth, known)
    _fill(depth, known, sky)
    unsure = rest | ~(known | sky)
    depth[unsure] = np.minimum(depth[unsure], unlabelled_far)
    depth = np.minimum(depth, plane_map)
    depth[sky] = sky_depth
    return depth


def _stand(mask: np.ndarray, ground: np.ndarray, loose: np.ndarray,
           plane: np.ndarray, depth: np.ndarray, known: np.ndarray) -> None:
    """Give each component of ``mask`` the depth of its contact line."""
    if not mask.any():
        return
    height = mask.shape[0]
    count, parts, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=8)
    for part in range(1, count):
        x, y, w, h, _ = stats[part]
        window = (slice(y, y + h), slice(x, x + w))
        inside = parts[window] == part
        # lowest row of the component in each column, and what is under it
        foot = y + h - 1 - np.argmax(inside[::-1], 0)
        columns = np.arange(x, x + w)
        under = np.minimum(foot + 2, height - 1)
        # unlabelled ground (grass) carries objects, too
        low = plane[foot] < 0.25 * plane[0]
        touches = ground[under, columns] | (foot >= height - 2) | \
            (loose[under, columns] & low)
        if not touches.any():
            continue
        inverse = 1.0 / plane[foot[touches]]
        line = np.interp(columns, columns[touches], inverse)
        width = min(9, w // 2 * 2 - 1)
        if width >= 3:
            pad = np.pad(line, width // 2, mode='edge')
            line = np.median(
                np.lib.stride_tricks.sliding_window_view(pad, width), 1)
        # the foot that is hidden is not above the lowest row that is seen
        line = np.maximum(line, 1.0 / plane[foot])
        values = np.repeat((1.0 / line)[None], h, 0).astype(np.float32)
        depth[window][inside] = values[inside]
        known[window][inside] = True


def _fill(depth: np.ndarray, known: np.ndarray, sky: np.ndarray) -> None:
    """Unknown pixels that are not sky take the nearest known depth."""
    missing = ~(known | sky)
    if not missing.any() or not known.any():
        depth[missing] = 50.0
        return
    _, nearest = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8),
        cv2.DIST_L2,
        3,
        labelType=cv2.DIST_LABEL_PIXEL)
    source = np.zeros(nearest.max() + 1, np.float32)
    source[nearest[known]] = depth[known]
    depth[missing] = source[nearest[missing]]


def guided_filter(guide: np.ndarray,
                  value: np.ndarray,
                  radius: int = 8,
                  eps: float = 5e-3) -> np.ndarray:
    """Smooth ``value`` along the edges of a grey ``guide``.

    He, Sun and Tang, "Guided image filtering", TPAMI 2013: in each window
    the output is a * guide + b, with a and b by ridge regression.

    Args:
        guide (ndarray): Grey image in [0, 1], ``(H, W)`` float32.
        value (ndarray): What to smooth, ``(H, W)`` float32.
        radius (int): Half the window's size, pixels. Defaults to 8.
        eps (float): Ridge weight. Defaults to 5e-3.

    Returns:
        ndarray: Smoothed ``(H, W)`` float32.
    """
    size = (2 * radius + 1, 2 * radius + 1)
    mean_g, mean_v = cv2.blur(guide, size), cv2.blur(value, size)
    cov = cv2.blur(guide * value, size) - mean_g * mean_v
    var = cv2.blur(guide * guide, size) - mean_g * mean_g
    a = cov / (var + eps)
    b = mean_v - a * mean_g
    return cv2.blur(a, size) * guide + cv2.blur(b, size)
