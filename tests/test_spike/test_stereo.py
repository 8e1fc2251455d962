# Copyright (c) mmext contributors. All rights reserved.
"""Views along the baseline of a stereo pair, disparity files and errors."""
import cv2
import numpy as np
import pytest

from mmext.spike import (SpikeCamera, StereoSlide, depth_from_disparity,
                         picture_errors, playback, read_disparity,
                         read_picture, write_pfm, write_picture)
from mmext.utils.user_error import BadFileError, ConfigError, MissingFileError

HEIGHT, WIDTH = 6, 40


def texture(seed=0):
    return np.random.default_rng(seed).integers(
        0, 255, (HEIGHT, WIDTH), dtype=np.uint8)


def box(near=12., far=4.):
    """A wall, and a box before it in columns 16 to 23."""
    disparity = np.full((HEIGHT, WIDTH), far, np.float32)
    disparity[:, 16:24] = near
    return disparity


@pytest.mark.stack_subset
def test_depth():
    disparity = np.array([[8., 0., -4., -5., np.nan, np.inf]])
    depth = depth_from_disparity(disparity, 100., 200., 4.)
    np.testing.assert_allclose(depth, [[20 / 12, 5, 0, 0, 0, 0]], rtol=1e-6)
    with pytest.raises(ConfigError, match='positive focal'):
        depth_from_disparity(disparity, 0., 200.)


@pytest.mark.parametrize('place', [0., 0.25, 0.5, 1., -0.25])
def test_a_wall_moves_by_its_disparity(place):
    picture = texture()
    view = StereoSlide(picture, np.full((HEIGHT, WIDTH), 4.)).view(place)
    shift = int(4 * place)
    kept = slice(max(0, -shift), WIDTH - max(0, shift))
    np.testing.assert_array_equal(view.picture[:, kept],
                                  np.roll(picture, -shift, 1)[:, kept])
    assert (view.disparity[:, kept] == 4).all()
    assert np.isnan(view.disparity).sum() == abs(shift) * HEIGHT


def test_half_a_pixel_is_between_two():
    ramp = np.tile(np.arange(WIDTH, dtype=np.uint8) * 4, (HEIGHT, 1))
    view = StereoSlide(ramp, np.full((HEIGHT, WIDTH), 1.)).view(0.5)
    np.testing.assert_array_equal(view.picture[:, 2:-3], ramp[:, 2:-3] + 2)


def test_the_box_hides_the_wall():
    picture = texture()
    view = StereoSlide(picture, box()).view(0.5)
    # The box goes 6 pixels to the left, the wall 2.
    expected = np.full(WIDTH, 4.)
    expected[10:18] = 12
    expected[18:22] = np.nan  # the wall behind the box
    expected[WIDTH - 2:] = np.nan
    np.testing.assert_array_equal(view.disparity,
                                  np.tile(expected, (HEIGHT, 1)))
    np.testing.assert_array_equal(view.picture[:, 10:18], picture[:, 16:24])
    np.testing.assert_array_equal(view.picture[:, :10], picture[:, 2:12])
    np.testing.assert_array_equal(view.picture[:, 22:-2], picture[:, 24:])
    # Filled with the edge of the wall, not with the box.
    edge = view.picture[:, 18:22]
    assert (edge == edge[:, :1]).all()


def test_the_right_picture_fills_what_the_left_one_hides():
    left, right = texture(), texture(1)
    view = StereoSlide(left, box(), right).view(0.5)
    # A point of the wall is 2 pixels further left from the right lens.
    np.testing.assert_array_equal(view.picture[:, 18:22], right[:, 16:20])
    np.testing.assert_array_equal(view.picture[:, 10:18], left[:, 16:24])
    assert np.isnan(view.disparity[:, 18:22]).all()


def test_unknown_disparity_is_filled_but_not_told():
    disparity = box()
    disparity[:, 23:26] = np.inf
    disparity[2] = np.nan
    slide = StereoSlide(texture(), disparity)
    np.testing.assert_array_equal(
        np.isfinite(slide.view(0.).disparity), np.isfinite(disparity))
    np.testing.assert_array_equal(slide.view(0.).picture, texture())
    moved = slide.view(0.5).disparity
    assert np.isnan(moved[2]).all()
    assert np.isnan(moved[0, 17:24]).all() and moved[0, 24] == 4
    # A view that has left everything behind is empty, not an error.
    assert np.isnan(slide.view(100.).disparity).all()


def test_slopes_stay_closed():
    disparity = np.tile(np.linspace(2, 20, WIDTH, dtype=np.float32), (2, 1))
    picture = texture()[:2]
    view = StereoSlide(picture, disparity).view(-0.9)
    seen = np.isfinite(view.disparity)
    first, last = np.flatnonzero(seen[0])[[0, -1]]
    assert seen[:, first:last + 1].all()
    columns = np.arange(WIDTH) + 0.9 * disparity[0]
    np.testing.assert_allclose(
        view.disparity[0, first + 1:last],
        np.interp(np.arange(first + 1, last), columns, disparity[0]),
        rtol=1e-5)


def test_frames_around_a_place_meet_it():
    slide = StereoSlide(texture(), np.full((HEIGHT, WIDTH), 10.))
    for step, most in ((0.001, 0.5), (0.02, 0.5), (0.2, 0.5)):
        frames, ticks, key = slide.frames_around(0.3, step, 7, most)
        assert ticks == 1 or 10 * step * ticks <= most
        assert key % ticks == 0 and key >= 7
        assert len(frames) * ticks - key > 7
        np.testing.assert_array_equal(frames[key // ticks],
                                      slide.view(0.3).picture)
    frames, ticks, key = slide.frames_around(0.3, 0., 7)
    assert (len(frames), ticks, key) == (1, 15, 7)


def test_wrong_pairs_are_explained():
    with pytest.raises(ConfigError, match='same resolution'):
        StereoSlide(texture(), box()[:, :-1])
    with pytest.raises(ConfigError, match='rectified'):
        StereoSlide(texture(), box(), texture()[:-1])
    with pytest.raises(ConfigError, match='Check the file'):
        StereoSlide(texture(), np.full((HEIGHT, WIDTH), np.inf))


def test_disparity_files(tmp_path):
    values = box()
    values[0, 0] = np.inf
    expected = np.where(np.isfinite(values), values, np.nan)
    np.save(tmp_path / 'a.npy', values.astype(np.float64))
    np.savez_compressed(tmp_path / 'a.npz', values)
    np.savez(tmp_path / 'two.npz', left=values, right=values + 1)
    write_pfm(tmp_path / 'a.pfm', values)
    stored = np.where(np.isfinite(values), values * 256, 0)
    write_picture(tmp_path / 'a.png', stored.astype(np.uint16))
    for name in ('a.npy', 'a.npz', 'a.pfm', 'a.png'):
        found = read_disparity(tmp_path / name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        read_disparity(tmp_path / 'two.npz', key='left'), expected)
    half = read_disparity(tmp_path / 'a.png', scale=512.)
    np.testing.assert_array_equal(half, expected / 2)


def test_wrong_disparity_files_are_explained(tmp_path):
    np.savez(tmp_path / 'two.npz', left=box(), right=box())
    np.save(tmp_path / 'cube.npy', np.zeros((2, 3, 4)))
    np.save(tmp_path / 'text.npy', np.array([['a']]))
    np.save(tmp_path / 'pickle.npy', np.array([[dict()]]), allow_pickle=True)
    np.save(tmp_path / 'cut.npy', box())
    cut = (tmp_path / 'cut.npy').read_bytes()[:-9]
    (tmp_path / 'cut.npy').write_bytes(cut)
    (tmp_path / 'bad.npz').write_bytes(b'PK' + cut)
    for name, kind, message in (
        ('none.npz', MissingFileError, 'none at'),
        ('a.jpg', ConfigError, 'Expected a disparity of'),
        ('two.npz', ConfigError, "'left', 'right'"),
        ('cube.npy', BadFileError, r'\(2, 3, 4\)'),
        ('text.npy', BadFileError, 'of numbers'),
        ('pickle.npy', BadFileError, 'pickled'),
        ('cut.npy', BadFileError, 'truncated'),
        ('bad.npz', BadFileError, 'Write the file again'),
    ):
        with pytest.raises(kind, match=message):
            read_disparity(tmp_path / name)


def test_pictures(tmp_path):
    colours = np.dstack([texture(seed) for seed in range(3)])
    write_picture(tmp_path / 'a.png', colours)
    np.testing.assert_array_equal(read_picture(tmp_path / 'a.png'), colours)
    (tmp_path / 'b.png').write_bytes(b'nothing')
    with pytest.raises(BadFileError, match='Cannot decode'):
        read_picture(tmp_path / 'b.png')
    with pytest.raises(MissingFileError, match='Correct the path'):
        read_picture(tmp_path / 'c.png')
    assert cv2.imread(str(tmp_path / 'a.png')).shape == colours.shape


def test_picture_errors():
    light = np.zeros((2, 4))
    picture = light.copy()
    picture[0] = 0.1
    found = picture_errors(picture, light)
    assert found == pytest.approx(dict(mae=0.05, psnr=-10 * np.log10(0.005)))
    mask = np.array([[True] * 4, [False] * 4])
    assert picture_errors(picture, light, mask)['psnr'] == pytest.approx(20)
    assert picture_errors(light, light)['psnr'] == 100
    with pytest.raises(ConfigError, match='no'):
        picture_errors(picture, light, mask & False)


@pytest.mark.parametrize('preset', ['ideal', 'spcs', 'spikingsim'])
def test_grey_behind_a_rate(preset):
    picture = np.full((4, 8), 100, np.uint8)
    picture[0, 0] = 200
    camera = SpikeCamera.from_preset(preset, start='random')
    spikes = camera.expose_frames([picture], ticks_per_frame=401)
    grey = playback(spikes, 200, 200) * camera.grey_per_rate * 255
    assert np.abs(grey - picture).max() < 255 / 401 * camera.grey_per_rate + 1
