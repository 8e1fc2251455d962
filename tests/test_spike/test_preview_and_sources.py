# Copyright (c) mmext contributors. All rights reserved.
"""Pictures and videos of spikes, and where frames come from."""
import cv2
import numpy as np
import pytest

from mmext.spike import (SpikeCamera, folder_frames, grey, list_pictures,
                         preview, raster, read_picture, streetworld_frames,
                         strip, to_signed, video_frames, write_picture,
                         write_video)
from mmext.utils.user_error import BadFileError, ConfigError, MissingFileError


def pictures(count=6, size=(32, 48)):
    ramp = np.linspace(0, 255, size[1]).astype(np.uint8)
    return [
        np.roll(np.tile(ramp, (size[0], 1)), 3 * k, 1) for k in range(count)
    ]


def test_previews_show_the_scene():
    # A low gain gives long intervals, which count light finely.
    spikes = SpikeCamera(gain=0.2).expose_frames(
        pictures(1), ticks_per_frame=128)
    for method in ('playback', 'interval'):
        shown = preview(spikes, method=method).astype(int) * 5
        assert np.abs(shown - pictures(1)[0]).mean() < 20
    assert set(np.unique(preview(spikes, 3, 'spikes'))) == {0, 255}
    assert raster(spikes).shape == (128, 48)
    assert strip(spikes).shape == (32 + 18, 48 * 4, 3)
    assert preview(spikes[:1]).shape == (32, 48)
    assert preview(spikes // 2, stretch=True).max() == 0
    with pytest.raises(ConfigError, match='method'):
        preview(spikes, method='tfp')


@pytest.mark.parametrize('method', ['playback', 'interval'])
def test_preview_of_every_tick(method):
    spikes = SpikeCamera(gain=0.5).expose_frames(
        pictures(1), ticks_per_frame=64)
    for cube in (spikes, spikes[:3]):
        for key in (0, 1, len(cube) - 1):
            shown = preview(cube, key, method)
            assert shown.shape == (32, 48) and shown.max() > 100
    if method == 'playback':
        for key, part in ((0, spikes[:3]), (63, spikes[-3:])):
            np.testing.assert_array_equal(
                preview(spikes, key), preview(part, 1))
    for key in (-1, 64):
        with pytest.raises(ConfigError, match='key'):
            preview(spikes, key, method)


@pytest.mark.parametrize('dtype', [np.int8, np.float32])
def test_signed_spikes_are_shown_as_spikes(dtype):
    spikes = SpikeCamera(gain=0.5).expose_frames(
        pictures(1), ticks_per_frame=64)
    signed = to_signed(spikes, dtype)
    for method in ('playback', 'interval', 'spikes'):
        np.testing.assert_array_equal(
            preview(signed, method=method), preview(spikes, method=method))
    np.testing.assert_array_equal(raster(signed), raster(spikes))
    np.testing.assert_array_equal(preview(signed[:1]), preview(spikes[:1]))


def test_video_round_trip(tmp_path):
    path = tmp_path / 'folder/a.avi'
    assert write_video(path, iter(pictures()), 25) == 6
    found = list(video_frames(path, 1, 5, size=(16, 24)))
    assert len(found) == 4 and found[0].shape == (16, 24)
    assert found[0].dtype == np.uint8
    small = cv2.resize(pictures()[1], (24, 16), interpolation=cv2.INTER_AREA)
    assert np.abs(found[0].astype(int) - small).mean() < 8
    assert len(list(video_frames(path))) == 6
    with pytest.raises(BadFileError, match='reads 6 frames'):
        list(video_frames(path, 0, 9))
    (tmp_path / 'b.avi').write_bytes(b'no video')
    with pytest.raises(BadFileError, match='reads 0 frames'):
        list(video_frames(tmp_path / 'b.avi'))
    with pytest.raises(MissingFileError):
        list(video_frames(tmp_path / 'c.avi'))
    with pytest.raises(ConfigError, match='.mp4 or .avi'):
        write_video(tmp_path / 'a.gif', pictures(), 25)


def test_a_truncated_video_is_noticed(tmp_path, recwarn):
    path = tmp_path / 'a.avi'
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 96), np.uint8)
    write_video(path, iter(noise), 25)
    assert len(list(video_frames(path))) == 12 and not recwarn
    data = path.read_bytes()
    path.write_bytes(data[:len(data) // 2])
    with pytest.warns(UserWarning, match='Expected 12 frames.*reads') as told:
        count = len(list(video_frames(path)))
    assert 0 < count < 12 and f'reads {count}.' in str(told[0].message)
    assert len(list(video_frames(path, 0, 2))) == 2


@pytest.mark.parametrize('progressive', [0, 1])
def test_a_truncated_jpeg_is_no_picture(tmp_path, progressive):
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    options += [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    data = cv2.imencode('.jpg', noise, options)[1].tobytes()
    small = cv2.imencode('.jpg', noise[:8, :8])[1].tobytes()
    # A thumbnail has an end as well; phones write more after the picture.
    thumbnail = b'\xff\xe1' + (len(small) + 2).to_bytes(2, 'big') + small
    path = tmp_path / 'a.jpg'
    whole = data[:2] + thumbnail + data[2:]
    for content in (data, whole, whole + bytes(40), whole + b'trailer'):
        path.write_bytes(content)
        assert read_picture(path).shape == (64, 96, 3)
    for content in (data, whole):
        for cut in (2, len(data) // 3):
            path.write_bytes(content[:-cut])
            with pytest.raises(BadFileError, match='a.jpg.*truncated'):
                read_picture(path)


def test_folder_in_natural_order(tmp_path):
    for k, picture in enumerate(pictures(12)):
        write_picture(tmp_path / f'f{k}.png', picture)
    names = [p.rsplit('/', 1)[-1] for p in list_pictures(tmp_path)]
    assert names == [f'f{k}.png' for k in range(12)]
    for found, picture in zip(folder_frames(tmp_path), pictures(12)):
        np.testing.assert_array_equal(found, picture)
    light = next(folder_frames(tmp_path, gamma=2.2))
    assert light.dtype == np.float32 and light.max() <= 1
    (tmp_path / 'f12.png').write_bytes(b'no picture')
    with pytest.raises(BadFileError, match='f12.png'):
        list(folder_frames(tmp_path))
    with pytest.raises(MissingFileError, match='none in'):
        list_pictures(tmp_path / 'other')
    with pytest.raises(ConfigError, match='cannot write'):
        write_picture(tmp_path / 'a.xyz', pictures()[0])


def test_grey_is_the_usual_luminance():
    blue, green, red = (np.zeros((1, 1, 3)) for _ in range(3))
    blue[..., 0], green[..., 1], red[..., 2] = 1, 1, 1
    values = [float(grey(np.float32(x))[0, 0]) for x in (blue, green, red)]
    assert values == pytest.approx([0.114, 0.587, 0.299], abs=1e-6)


def test_streetworld_at_any_rate():
    from mmext.datasets.streetworld import Intrinsics, StreetWorld
    world = StreetWorld(3, Intrinsics(32, 64))
    times = 5 + np.arange(3) / 1000
    found = list(streetworld_frames(world, times, 'fog'))
    assert [f.t for f in found] == pytest.approx(times)
    assert found[0].depth.shape == (32, 64)
    step = np.abs(found[1].image.astype(int) - found[0].image).mean()
    assert step < 10
    spikes = SpikeCamera().expose_frames([f.image for f in found],
                                         ticks_per_frame=4)
    assert spikes.shape == (12, 32, 64)
    with pytest.raises(ConfigError, match='domain'):
        list(streetworld_frames(world, times, 'hail'))
