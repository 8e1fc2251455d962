# Copyright (c) mmext contributors. All rights reserved.
import cv2
import numpy as np
import pytest

from mmext.datasets.transforms.pseudo_depth import (estimate_horizon,
                                                    guided_filter,
                                                    pseudo_depth)
from mmext.datasets.transforms.weather import (WEATHER, add_weather,
                                               weather_seed)

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, CAR = 0, 1, 2, 3, 4, 5, 8
HORIZON = 30


def street():
    """A road to the horizon, a building whose foot slants, a car, a pole."""
    labels = np.full((72, 96), SKY, np.uint8)
    labels[HORIZON + 2:] = ROAD
    for x in range(40):  # the foot comes nearer to the left
        labels[10:60 - x // 2, x] = BUILDING
    labels[45:56, 10:22] = CAR
    labels[8:50, 70:72] = POLE
    labels[14:26, 80:92] = TREE
    rng = np.random.default_rng(0)
    colours = np.array([[235, 230, 225], [60, 80, 120], [90, 90, 90],
                        [85, 85, 85], [120, 120, 120], [50, 90, 60]] +
                       [[40, 40, 90]] * 6)
    image = colours[labels] + rng.normal(0, 12, (72, 96, 3))
    return image.clip(0, 255).astype(np.uint8), labels


def test_the_horizon_lies_just_above_the_ground():
    _, labels = street()
    assert HORIZON - 2 <= estimate_horizon(labels) <= HORIZON + 2
    assert estimate_horizon(np.zeros((100, 50), np.uint8)) == 45


def test_upright_objects_have_the_depth_of_their_contact_line():
    _, labels = street()
    depth = pseudo_depth(labels, horizon=HORIZON, focal=96, camera_height=1.4)
    plane = 96 * 1.4 / (np.arange(72) - HORIZON + 1e-9)

    assert np.allclose(depth[60:, 90], plane[60:], rtol=1e-3)
    assert np.allclose(depth[8:50, 70], plane[49], rtol=1e-3)  # pole
    assert np.allclose(depth[45:55, 15], plane[55], rtol=0.1)  # car
    # along the building: one depth a column, farther to the right
    column = depth[12:30, 30]
    assert np.allclose(column, plane[44], rtol=0.1)
    assert np.ptp(column) < 1e-4
    assert (np.diff(depth[12, 24:40]) >= -1e-4).all()
    # behind the car the foot is hidden: between its neighbours' depths
    assert depth[12, 5] < depth[12, 16] < depth[12, 30]
    assert (depth[labels == SKY] == 2000).all()
    # nothing is behind the ground at its own row
    behind = (depth > plane[:, None] + 1e-3) & (labels != SKY)
    assert not behind[HORIZON + 1:].any()


def test_unlabelled_pixels_get_a_depth():
    _, labels = street()
    labels[40:50, 60:66] = 255
    labels[:5] = 255
    depth = pseudo_depth(labels)
    assert np.isfinite(depth).all() and (depth > 0).all()
    assert (pseudo_depth(np.full((20, 20), 255, np.uint8)) > 0).all()


def test_the_guided_filter_keeps_constants_and_edges():
    guide = np.zeros((40, 40), np.float32)
    guide[:, 20:] = 1
    assert np.allclose(guided_filter(guide, np.full_like(guide, 0.3)), 0.3)
    assert np.abs(guided_filter(guide, guide) - guide).max() < 0.05


@pytest.mark.parametrize('domain', WEATHER)
def test_weather_depends_on_the_seed_only(domain):
    image, labels = street()
    copies = image.copy(), labels.copy()
    seed = weather_seed('f00030.jpg', domain)
    one = add_weather(image, labels, domain, 2, seed)
    assert one.dtype == np.uint8 and one.shape == image.shape
    assert np.array_equal(one, add_weather(image, labels, domain, 2, seed))
    other = add_weather(image, labels, domain, 2,
                        weather_seed('f00060.jpg', domain))
    assert not np.array_equal(one, other)
    assert np.array_equal(image, copies[0])
    assert np.array_equal(labels, copies[1])
    assert weather_seed('f00030.jpg', domain, 1) != seed


def grey(image):
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(float)


def severities(domain):
    image, labels = street()
    seed = weather_seed('f00030.jpg', domain)
    return image, labels, [
        add_weather(image, labels, domain, severity, seed)
        for severity in (1, 2, 3)
    ]


def decreasing(values):
    return all(a > b for a, b in zip(values, values[1:]))


@pytest.mark.parametrize('domain', WEATHER)
def test_severities_leave_less_of_the_clear_frame(domain):
    image, _, frames = severities(domain)
    change = [np.abs(grey(frame) - grey(image)).mean() for frame in frames]
    assert change[0] > 5 and decreasing(change[::-1])


def test_fog_takes_detail_with_distance():
    image, labels, foggy = severities('fog')
    frames = [image] + foggy
    wall = [grey(frame)[28:40, 4:20] for frame in frames]
    assert decreasing([np.diff(part, axis=0).std() for part in wall])
    # the near road keeps more of itself than the far building
    change = np.abs(grey(foggy[1]) - grey(image))
    assert change[66:, 50:].mean() < change[12:30, 32:40].mean()


def test_night_takes_light():
    image, labels, dark = severities('night')
    light = [grey(frame).mean() for frame in [image] + dark]
    assert decreasing(light)
    assert grey(dark[0])[labels == SKY].mean() < 40


def test_rain_darkens_and_the_ground_mirrors_the_sky():
    image, labels, wet = severities('rain')
    clear = grey(image).mean()
    assert all(grey(frame).mean() < 0.9 * clear for frame in wet)
    ground = grey(wet[2])
    assert ground[34:38, 42:66].mean() > ground[66:, 42:66].mean() + 5


def test_snow_covers_the_ground():
    image, labels, white = severities('snow')
    ground = [grey(frame)[labels == ROAD].mean() for frame in [image] + white]
    assert decreasing(ground[::-1])


def test_mistakes_are_explained():
    image, labels = street()
    with pytest.raises(ValueError, match='fog.*snow'):
        add_weather(image, labels, 'hail')
    with pytest.raises(ValueError, match='severity of 1, 2 or 3'):
        add_weather(image, labels, 'fog', 4)
    with pytest.raises(ValueError, match='one size'):
        add_weather(image, labels[:-1], 'fog')
