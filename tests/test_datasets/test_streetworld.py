# Copyright (c) mmext contributors. All rights reserved.
"""The generator: geometry, determinism, classes, weather."""
from dataclasses import replace

import numpy as np
import pytest

from mmext.datasets.streetworld import (CLASSES, DOMAINS, Drive, Intrinsics,
                                        StreetWorld, apply_weather, plan)
from mmext.datasets.streetworld.canvas import Canvas, Quads
from mmext.datasets.streetworld.classes import BUILDING, CAR, ROAD, SKY, WALL
from mmext.datasets.streetworld.textures import Texture

SMALL = Intrinsics(128, 256)


@pytest.fixture(scope='module')
def world() -> StreetWorld:
    return StreetWorld(town=45, intrinsics=SMALL)


@pytest.fixture(scope='module')
def frame(world):
    return world.render(11., night=True)


def _world_points(frame) -> np.ndarray:
    cx, cy = frame.intrinsics.centre
    v, u = np.mgrid[:frame.depth.shape[0], :frame.depth.shape[1]]
    rays = np.stack([(u - cx) / frame.intrinsics.f,
                     (v - cy) / frame.intrinsics.f,
                     np.ones_like(u)], -1)
    points = rays * frame.depth[..., None]
    return points @ frame.pose[:3, :3].T + frame.pose[:3, 3]


def test_arrays_of_a_frame(frame):
    assert frame.image.shape == (128, 256, 3)
    assert frame.image.dtype == frame.labels.dtype == np.uint8
    assert frame.depth.dtype == np.float32
    assert frame.labels.max() < 19
    assert np.array_equal(frame.rgb[..., 0], frame.image[..., 2])
    turn = frame.pose[:3, :3]
    assert np.allclose(turn @ turn.T, np.eye(3))
    assert np.linalg.det(turn) == pytest.approx(1)


def test_depth_is_zero_in_the_sky_and_only_there(frame):
    assert np.array_equal(frame.depth > 0, frame.labels != SKY)
    assert np.isfinite(frame.depth).all()
    assert frame.depth.max() <= 250.001


def test_road_lies_on_the_ground_plane(frame):
    height = _world_points(frame)[..., 1]
    road = (frame.labels == ROAD) & (frame.depth < 100)
    assert np.abs(height[road]).max() < 0.02
    above = frame.labels == BUILDING
    assert height[above].mean() < -1  # y points down


def test_same_time_same_frame_whatever_the_frame_rate(world, frame):
    # one world is driven at 10 frames a second, the other jumps
    for t in np.arange(10.6, 11., 0.1):
        world.render(float(t))
    again = world.render(11.)
    jumped = StreetWorld(town=45, intrinsics=SMALL)
    jumped.render(200.)
    for other in (again, jumped.render(11.)):
        for name in ('image', 'labels', 'depth', 'pose'):
            assert np.array_equal(getattr(frame, name), getattr(other,
                                                                name)), name


def test_towns_differ():
    images = [
        StreetWorld(town, SMALL).render(3.).image.astype(int)
        for town in (1, 2)
    ]
    assert np.abs(images[0] - images[1]).mean() > 10


def test_pose_and_depth_agree_between_frames(world, frame):
    """Still points keep their world position from frame to frame."""
    later = world.render(11.2)
    points = _world_points(frame)
    seen = (points - later.pose[:3, 3]) @ later.pose[:3, :3]
    still = np.isin(frame.labels, (BUILDING, WALL, ROAD))
    still &= (frame.depth < 40) & (seen[..., 2] > 1)
    cx, cy = SMALL.centre
    z = seen[..., 2][still]
    u = np.rint(seen[..., 0][still] / z * SMALL.f + cx).astype(int)
    v = np.rint(seen[..., 1][still] / z * SMALL.f + cy).astype(int)
    inside = (u >= 0) & (u < 256) & (v >= 0) & (v < 128)
    u, v, z = u[inside], v[inside], z[inside]
    same = later.labels[v, u] == frame.labels[still][inside]
    assert same.mean() > 0.85
    error = np.abs(later.depth[v, u] / z - 1)[same]
    assert np.median(error) < 0.02
    assert later.pose[2, 3] - frame.pose[2, 3] == pytest.approx(2, abs=1e-6)


def test_vehicles_move_and_houses_do_not():
    still = Drive(speed=0, sway=0)
    world = StreetWorld(3, SMALL, still)
    a, b = world.render(5.), world.render(6.)
    both = (a.labels == BUILDING) & (b.labels == BUILDING)
    assert np.median(np.abs(a.depth - b.depth)[both]) < 0.5
    assert not np.array_equal(a.labels == CAR, b.labels == CAR)


def test_all_classes_appear_over_a_few_towns():
    seen = np.zeros(19, int)
    for town in range(4):
        world = StreetWorld(town, SMALL)
        for t in (2., 9., 17.):
            labels = world.render(t).labels
            seen += np.bincount(labels.ravel(), minlength=19)
    missing = [CLASSES[i] for i in np.flatnonzero(seen == 0)]
    assert not missing
    assert seen[ROAD] / seen.sum() < 0.5


def _quad(z: float, half: float, label: int):
    corner = np.array([[-half, -half, z]])
    across = np.array([[2 * half, 0, 0.]])
    down = np.array([[0, 2 * half, 0.]])
    texture = Texture(np.full((8, 8, 4), 255, np.uint8))
    return Quads(corner, across, down, [texture], [label])


@pytest.mark.parametrize('order', [(0, 1), (1, 0)])
def test_the_nearest_surface_wins_in_any_order(order):
    canvas = Canvas(Intrinsics(64, 64), np.eye(4))
    quads = [_quad(10., 20., 2), _quad(5., 1., 7)]
    for i in order:
        canvas.draw(quads[i])
    labels = canvas.image[..., 3]
    assert labels[32, 32] == 7 and labels[5, 5] == 2
    assert 1 / canvas.inverse[32, 32] == pytest.approx(5, rel=1e-5)
    assert 1 / canvas.inverse[5, 5] == pytest.approx(10, rel=1e-5)
    side = 2 * 57.6 / 5  # two metres at five metres
    assert (labels == 7).sum() == pytest.approx(side**2, rel=0.1)


def test_slanted_plane_has_its_exact_depth():
    canvas = Canvas(Intrinsics(64, 64), np.eye(4))
    base = _quad(10., 30., 3)
    canvas.draw(base._replace(across=base.across + [[0, 0, 6.]]))
    f, (cx, _) = 57.6, canvas.intrinsics.centre
    x = (np.arange(64) - cx) / f
    # x z = X and z = 10 + 6 (X + 30) / 60
    expected = 13 / (1 - 0.1 * x)
    assert np.allclose(1 / canvas.inverse[32], expected, rtol=1e-4)


def test_surface_behind_the_camera_is_not_drawn():
    canvas = Canvas(Intrinsics(64, 64), np.eye(4))
    canvas.draw(_quad(-5., 2., 3))
    assert not canvas.inverse.any()


def test_intrinsics_scale_the_picture():
    wide = StreetWorld(7, Intrinsics(96, 192, focal=80.)).render(4.)
    long = StreetWorld(7, Intrinsics(96, 192, focal=160.)).render(4.)
    assert (wide.labels == SKY).sum() != (long.labels == SKY).sum()
    # a road pixel twice as far below the middle is equally far away
    rows = [np.flatnonzero(f.labels[:, 96] == ROAD) for f in (wide, long)]
    assert wide.depth[rows[0][-1], 96] < long.depth[rows[1][-1], 96]


def test_fog_follows_its_equation(frame):
    beta = 0.02
    foggy = apply_weather(frame, 'fog', beta=beta)
    t = np.exp(-beta * frame.depth)[..., None]
    t[frame.depth == 0] = 0
    light = foggy.image[frame.depth == 0].astype(float)
    assert light.std(0).max() == 0  # nothing of the sky is left
    expected = frame.image * t + light[0] * (1 - t)
    assert np.abs(foggy.image - expected).max() < 2


@pytest.mark.parametrize('domain', DOMAINS)
def test_weather_changes_the_image_only_and_repeats(frame, domain):
    a, b = (apply_weather(frame, domain, seed=1) for _ in range(2))
    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.labels, frame.labels)
    assert np.array_equal(a.depth, frame.depth)
    difference = np.abs(a.image.astype(int) - frame.image).mean()
    assert difference == 0 if domain == 'clear' else difference > 8
    if domain != 'clear':
        other = apply_weather(frame, domain, seed=2)
        assert not np.array_equal(a.image, other.image)


def test_weather_grows_with_its_strength(frame):
    for domain in ('fog', 'night', 'rain', 'snow', 'dusk'):
        change = [
            np.abs(
                apply_weather(frame, domain, s).image.astype(int) -
                frame.image).mean() for s in (0.5, 1.5)
        ]
        assert change[0] < change[1], domain


def test_plan_keeps_splits_and_domains_apart():
    towns = [{s.town
              for s in plan(d, split, 30)} for d in DOMAINS
             for split in ('train', 'val')]
    assert sum(map(len, towns)) == len(set().union(*towns))
    assert plan('fog', 'val', 5) == plan('fog', 'val', 9)[:5]


@pytest.mark.parametrize('call, message', [
    (lambda f: apply_weather(f, 'hail'), 'choose from clear, fog'),
    (lambda f: apply_weather(f, 'fog', 0), 'strength must be positive'),
    (lambda f: apply_weather(replace(f, glow=None), 'night'), 'night=True'),
    (lambda f: Intrinsics(4, 4), 'at least 16 x 16'),
    (lambda f: Intrinsics(focal=-1.), 'focal'),
    (lambda f: Drive(height=9.), 'between 0.2 and 4'),
    (lambda f: plan('fog', 'test'), "'train' or 'val'"),
    (lambda f: plan('fog', 'val', 0), 'at least 1'),
])
def test_wrong_arguments_say_what_is_wrong(frame, call, message):
    with pytest.raises(ValueError, match=message):
        call(frame)
