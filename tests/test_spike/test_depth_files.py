# Copyright (c) mmext contributors. All rights reserved.
"""PFM and 16-bit PNG depth; property H30 of section h for both orders."""
import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmext.spike import (read_depth_png, read_disparity, read_pfm,
                         write_depth_png, write_pfm)
from mmext.utils.user_error import (BadFileError, ConfigError,
                                    MissingFileError, UserError)

FUZZ = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture])


def depth(shape=(5, 7)):
    return np.random.default_rng(0).uniform(1, 60, shape).astype(np.float32)


@pytest.mark.parametrize('little', [True, False])
@pytest.mark.parametrize('shape', [(5, 7), (5, 7, 3)])
def test_h30_pfm_in_both_byte_orders(tmp_path, little, shape):
    values = depth(shape)
    values.flat[0] = np.nan
    values.flat[1] = np.inf
    write_pfm(tmp_path / 'a.pfm', values, little)
    found = read_pfm(tmp_path / 'a.pfm')
    assert found.dtype == np.float32 and found.flags.writeable
    np.testing.assert_array_equal(found, values)
    # The last row comes first.
    first = np.frombuffer((tmp_path / 'a.pfm').read_bytes()[-4 * 7:], np.uint8)
    assert len(first) == 28


def test_damaged_pfm(tmp_path):
    path = tmp_path / 'a.pfm'
    write_pfm(path, depth())
    data = path.read_bytes()
    for content, message in ((data[:-3], 'truncated'), (data + b'123',
                                                        'oversized'),
                             (b'P5' + data[2:], 'no PFM'), (b'Pf\n0 4\n-1.0\n',
                                                            'pixels'),
                             (b'Pf\n999999999 999999999\n-1.0\n', 'pixels'),
                             (b'Pf\n7 5\n0.0\n', 'scale'), (b'', 'no PFM')):
        path.write_bytes(content)
        with pytest.raises(BadFileError, match=message) as error:
            read_pfm(path)
        assert str(path) in str(error.value)
    with pytest.raises(MissingFileError):
        read_pfm(tmp_path / 'b.pfm')
    with pytest.raises(ConfigError, match='shape'):
        write_pfm(path, depth((5, )))


@FUZZ
@given(data=st.binary(max_size=60), cut=st.integers(0, 100))
def test_any_bytes_give_a_pfm_or_an_error(tmp_path, data, cut):
    path = tmp_path / 'fuzz.pfm'
    write_pfm(path, depth((2, 3)))
    path.write_bytes(path.read_bytes()[:cut] + data)
    try:
        assert read_pfm(path).dtype == np.float32
    except UserError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize('scale', [256., 100., 1000.])
def test_png_round_trip(tmp_path, scale):
    values = depth()
    values[0, :4] = np.nan, np.inf, -1, 0
    values[1, 0] = 1e6
    write_depth_png(tmp_path / 'a.png', values, scale)
    found = read_depth_png(tmp_path / 'a.png', scale)
    assert found.dtype == np.float32
    assert (found[0, :4] == 0).all()
    assert found[1, 0] == pytest.approx(65535 / scale)
    np.testing.assert_allclose(found[2:], values[2:], atol=0.5 / scale)


def test_png_of_other_kinds(tmp_path):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), np.full((5, 7), 40, np.uint8))
    with pytest.raises(BadFileError, match='8 bits'):
        read_depth_png(path, 256)
    cv2.imwrite(str(path), np.full((5, 7, 3), 4000, np.uint16))
    with pytest.raises(BadFileError, match='colour type 2'):
        read_depth_png(path, 256)
    cv2.imwrite(str(path), np.full((5, 7), 200, np.uint16))
    with pytest.raises(BadFileError, match='above 255'):
        read_depth_png(path, 256)
    cv2.imwrite(str(path), np.zeros((5, 7), np.uint16))
    assert not read_depth_png(path, 256).any()
    write_depth_png(path, depth((40, 50)), 256)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(BadFileError, match='decode'):
        read_depth_png(path, 256)
    with pytest.raises(MissingFileError):
        read_depth_png(tmp_path / 'b.png', 256)


@FUZZ
@given(
    place=st.integers(0, 400), data=st.binary(max_size=8), cut=st.booleans())
def test_damaged_png_gives_depth_or_an_error(tmp_path, place, data, cut):
    path = tmp_path / 'fuzz.png'
    write_depth_png(path, depth((8, 8)), 256)
    good = path.read_bytes()
    rest = b'' if cut else good[place + len(data):]
    path.write_bytes(good[:place] + data + rest)
    try:
        assert read_depth_png(path, 256).ndim == 2
    except UserError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize('scale', [0, -1, np.nan, np.inf, '256', None])
def test_a_scale_is_a_positive_number(tmp_path, scale):
    path = tmp_path / 'a.png'
    write_depth_png(path, depth(), np.float32(256))
    for call in (lambda: read_depth_png(path, scale),
                 lambda: read_disparity(path, scale),
                 lambda: write_depth_png(tmp_path / 'b.png', depth(), scale)):
        with pytest.raises(ConfigError, match='positive number'):
            call()
    assert not (tmp_path / 'b.png').exists()
