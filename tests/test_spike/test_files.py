# Copyright (c) mmext contributors. All rights reserved.
"""Recordings of spikes; properties H29, H30 and H32 of section h."""
import io
import re
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmext.spike import (Light, SpikeCamera, SpikeWriter, open_spikes,
                         pack_frames, repair_big_endian, to_signed,
                         unpack_frames, write_spikes)
from mmext.utils.user_error import (BadFileError, ConfigError,
                                    MissingFileError, UserError)

FUZZ = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture])


def cube(ticks=5, height=6, width=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, (ticks, height, width), dtype=np.uint8)


def scene(size=(64, 128), ticks=64):
    """Spikes of a smooth picture, which a check can judge."""
    rng = np.random.default_rng(1)
    # A random walk is as rough at all scales as pictures are.
    light = np.cumsum(np.cumsum(rng.normal(size=size), 0), 1)
    light = (light - light.min()) / (light.max() - light.min())
    return SpikeCamera(gain=0.9).expose([Light(light, ticks)])


@pytest.mark.stack_subset
@FUZZ
@given(
    ticks=st.integers(1, 9),
    height=st.integers(1, 12),
    width=st.integers(1, 20),
    flip=st.booleans(),
    order=st.sampled_from(['little', 'big']),
    extra=st.integers(0, 200))
def test_h29_dat_round_trip(tmp_path, ticks, height, width, flip, order,
                            extra):
    """Any (T, H, W) of whole bytes; a remainder is ignored, with a word."""
    path = tmp_path / 'a.dat'
    spikes = cube(ticks, height, width)
    options = dict(bitorder=order, flipud=flip)
    if height * width % 8:
        with pytest.raises(ConfigError, match='multiple of 8'):
            write_spikes(path, spikes, **options)
        return
    write_spikes(path, spikes, **options)
    assert path.stat().st_size == spikes.size // 8
    found = open_spikes(path, (height, width), **options)
    assert found.shape == spikes.shape
    np.testing.assert_array_equal(found.read(), spikes)
    np.testing.assert_array_equal(found.read(ticks - 1, 1), spikes[-1:])
    size = height * width // 8
    rest = extra % size
    if rest:
        data = path.read_bytes()
        path.write_bytes(data + bytes(rest))
        with pytest.warns(UserWarning, match=f'{rest} bytes are left'):
            found = open_spikes(path, (height, width), **options)
        np.testing.assert_array_equal(found.read(), spikes)
        path.write_bytes(data[:size * (ticks - 1) + rest])
        if ticks > 1:
            with pytest.warns(UserWarning, match='truncated'):
                found = open_spikes(path, (height, width), **options)
            np.testing.assert_array_equal(found.read(), spikes[:-1])


@pytest.mark.parametrize('suffix', ['.dat', '.npy', '.npz'])
@pytest.mark.parametrize('flip', [None, True, False])
def test_every_kind_round_trips_in_pieces(tmp_path, suffix, flip):
    spikes = cube(9)
    path = tmp_path / f'folder/a{suffix}'
    with SpikeWriter(path, flipud=flip) as writer:
        writer.write(spikes[:4])
        assert not path.exists()
        writer.write(spikes[4:])
    found = open_spikes(path, (6, 8), ticks=9, flipud=flip)
    np.testing.assert_array_equal(found.read(), spikes)
    np.testing.assert_array_equal(found.read(2, 3), spikes[2:5])
    with pytest.raises(BadFileError, match='9 ticks'):
        found.read(8, 2)
    with pytest.raises(BadFileError, match='oversized'):
        open_spikes(path, (6, 8), ticks=8, flipud=flip)
    with pytest.raises(BadFileError, match='truncated'):
        open_spikes(path, (6, 8), ticks=10, flipud=flip)
    if suffix != '.dat':
        with pytest.raises(BadFileError, match='Expected 8 x 6'):
            open_spikes(path, (8, 6))


def test_nothing_is_left_of_a_failed_recording(tmp_path):
    with pytest.raises(RuntimeError, match='stop'):
        with SpikeWriter(tmp_path / 'a.dat') as writer:
            writer.write(cube())
            raise RuntimeError('stop')
    with pytest.raises(ConfigError, match='some spikes'):
        with SpikeWriter(tmp_path / 'b.npy'):
            pass
    with pytest.raises(ConfigError, match='pieces'):
        with SpikeWriter(tmp_path / 'c.npz') as writer:
            writer.write(cube())
            writer.write(cube(width=16))
    assert not list(tmp_path.iterdir())


def test_h30_repair_equals_decoding_of_bytes():
    spikes = cube(4, 6, 16)
    data = pack_frames(spikes, 'little', flipud=True)
    naive = unpack_frames(data, (6, 16), 'big', flipud=False)
    assert (naive != spikes).any()
    np.testing.assert_array_equal(repair_big_endian(naive), spikes)
    with pytest.raises(ConfigError, match='multiple of 8'):
        repair_big_endian(cube(width=12))


def test_h30_repair_of_a_file(tmp_path):
    spikes = cube(4, 6, 16)
    naive = unpack_frames(
        pack_frames(spikes, 'little', True), (6, 16), 'big', False)
    np.save(tmp_path / 'a.npy', naive)
    found = open_spikes(tmp_path / 'a.npy', repair=True)
    np.testing.assert_array_equal(found.read(), spikes)


def test_h32_signed_values_are_exact():
    signed = to_signed(cube())
    assert signed.dtype == np.float32
    assert set(np.unique(signed)) == {-1., 1.}
    np.testing.assert_array_equal(signed > 0, cube() == 1)
    assert to_signed(cube(), np.int8).dtype == np.int8


def test_other_arrays(tmp_path):
    spikes = cube()
    np.savez(tmp_path / 'a.npz', spikes=spikes)
    found = open_spikes(tmp_path / 'a.npz')
    np.testing.assert_array_equal(found.read(), spikes)
    np.savez(tmp_path / 'a.npz', left=spikes, right=1 - spikes)
    with pytest.raises(ConfigError, match="'left', 'right'"):
        open_spikes(tmp_path / 'a.npz')
    found = open_spikes(tmp_path / 'a.npz', key='right')
    np.testing.assert_array_equal(found.read(), 1 - spikes)
    np.save(tmp_path / 'a.npy', np.asfortranarray(spikes.astype(bool)))
    found = open_spikes(tmp_path / 'a.npy')
    np.testing.assert_array_equal(found.read(1, 2), spikes[1:3])


@pytest.mark.parametrize('array, message', [
    (np.zeros((2, 3, 8), object), 'pickled'),
    (np.zeros((3, 8), np.uint8), 'T, H, W'),
    (np.zeros((2, 3, 8)), 'integers'),
    (np.zeros((0, 3, 8), np.uint8), 'T, H, W'),
])
def test_arrays_that_are_no_spikes(tmp_path, array, message):
    np.save(tmp_path / 'a.npy', array)
    np.savez(tmp_path / 'a.npz', spikes=array)
    for name in ('a.npy', 'a.npz'):
        with pytest.raises(BadFileError, match=message):
            open_spikes(tmp_path / name)


@pytest.mark.parametrize('value', [2, 255, -1])
def test_values_that_are_no_spikes(tmp_path, value):
    spikes = cube().astype(np.int16)
    spikes[3, 0, 0] = value
    np.save(tmp_path / 'a.npy', spikes)
    found = open_spikes(tmp_path / 'a.npy')
    assert found.read(0, 3).shape == (3, 6, 8)
    with pytest.raises(BadFileError, match='0 and 1'):
        found.read()


@pytest.mark.parametrize('suffix', ['.dat', '.npy', '.npz'])
def test_only_spikes_are_written(tmp_path, suffix):
    path, spikes = tmp_path / f'a{suffix}', cube()
    cases = [
        (to_signed(spikes), '-1.0 to 1.0'),
        (to_signed(spikes, np.int8), '-1 to 1'),
        (np.float32(0.5) * spikes, '0.0 to 0.5'),
        (np.linspace(0, 1, spikes.size).reshape(spikes.shape), '0.0 to 1.0'),
        (np.where(spikes, np.nan, 0.), 'nan'),
        (spikes * np.uint8(255), '0 to 255'),
        (spikes * np.uint16(256), '0 to 256'),
    ]
    for bad, found in cases:
        with pytest.raises(ConfigError, match=found) as error:
            write_spikes(path, bad)
        assert str(path) in str(error.value)
        with pytest.raises(ConfigError, match=found):
            pack_frames(bad)
        assert not path.exists()
    # Any type and order of memory that holds 0 and 1.
    for dtype in (bool, np.int8, np.int64, np.float16, np.float64):
        for same in (spikes.astype(dtype), np.asfortranarray(spikes, dtype)):
            write_spikes(path, same)
            np.testing.assert_array_equal(
                open_spikes(path, (6, 8)).read(), spikes)


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(MissingFileError, match='none at'):
        open_spikes(tmp_path / 'a.dat', (6, 8))
    with pytest.raises(ConfigError, match='.dat'):
        open_spikes(tmp_path / 'a.bin')
    write_spikes(tmp_path / 'a.dat', cube())
    with pytest.raises(ConfigError, match='no header'):
        open_spikes(tmp_path / 'a.dat')
    with pytest.raises(ConfigError, match='multiple of 8'):
        open_spikes(tmp_path / 'a.dat', (5, 5))
    for size in (64, (64., 96.), (64, 96, 1), '64,96', (0, 8), (-8, -8)):
        with pytest.raises(ConfigError, match='height and width'):
            open_spikes(tmp_path / 'a.dat', size)
    with pytest.raises(BadFileError, match='at least one tick'):
        open_spikes(tmp_path / 'a.dat', (250, 400))


def test_truncated_and_oversized_arrays(tmp_path):
    path = tmp_path / 'a.npy'
    np.save(path, cube())
    data = path.read_bytes()
    for content, message in ((data[:-1], 'truncated'), (data + b'0',
                                                        'oversized')):
        path.write_bytes(content)
        with pytest.raises(BadFileError, match=message) as error:
            open_spikes(path)
        assert str(path) in str(error.value) and '240' in str(error.value)


def test_a_header_cannot_ask_for_memory(tmp_path):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, dict(descr='|u1', fortran_order=False, shape=(10**6, ) * 3))
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
        archive.writestr('spikes.npy', head.getvalue())
    with pytest.raises(BadFileError, match='truncated'):
        open_spikes(tmp_path / 'a.npz')


@FUZZ
@given(data=st.binary(max_size=300))
def test_any_bytes_give_a_recording_or_an_error(tmp_path, data):
    for suffix in ('.dat', '.npy', '.npz'):
        path = tmp_path / f'fuzz{suffix}'
        path.write_bytes(data)
        try:
            open_spikes(path, (2, 4)).read()
        except UserError as error:
            assert str(path) in str(error)


@FUZZ
@given(
    place=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
    cut=st.integers(0, 40),
    suffix=st.sampled_from(['.npy', '.npz']),
    packed=st.booleans())
def test_damaged_arrays_give_spikes_or_an_error(tmp_path, place, value, cut,
                                                suffix, packed):
    path = tmp_path / f'fuzz{suffix}'
    if packed or suffix == '.npy':
        write_spikes(path, cube())
    else:
        np.savez_compressed(path, spikes=cube())
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] = value
    path.write_bytes(bytes(data[:len(data) - cut]))
    try:
        spikes = open_spikes(path).read()
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert spikes.ndim == 3 and set(np.unique(spikes)) <= {0, 1}


def test_findings(tmp_path):
    spikes = scene()
    path = tmp_path / 'a.dat'
    write_spikes(path, spikes)
    assert open_spikes(path, (64, 128)).findings() == []
    reversed_ = open_spikes(path, (64, 128), bitorder='big').findings()
    assert 'bit order' in reversed_[0]
    wide = open_spikes(path, (128, 64)).findings()
    assert re.search(r'about 12[6-9] pixels long, not 64', wide[0])
    high = open_spikes(path, (32, 128)).findings()
    assert 'rows high, not 32' in high[0]
    with pytest.warns(UserWarning, match='bit order'):
        open_spikes(path, (64, 128), bitorder='big', check=True)
    write_spikes(path, np.zeros_like(spikes))
    assert 'no spike' in open_spikes(path, (64, 128)).findings()[0]
    write_spikes(path, np.ones_like(spikes))
    assert 'every pixel' in open_spikes(path, (64, 128)).findings()[0]
    # The cubes of Respike are found, too.
    naive = unpack_frames(
        pack_frames(spikes, 'little', True), (64, 128), 'big', False)
    np.save(tmp_path / 'a.npy', naive)
    told = open_spikes(tmp_path / 'a.npy').findings()[0]
    # The cure it names is one.
    assert 'repair=True' in told and 'bit order' not in told
    assert not open_spikes(tmp_path / 'a.npy', repair=True).findings()
    write_spikes(tmp_path / 'b.npz', spikes)
    assert not open_spikes(tmp_path / 'b.npz').findings()
    told = open_spikes(tmp_path / 'b.npz', repair=True).findings()[0]
    assert 'without repair=True' in told


@pytest.mark.parametrize('suffix', ['.npy', '.npz'])
def test_a_bit_order_is_for_dat_files(tmp_path, suffix):
    path = tmp_path / f'a{suffix}'
    write_spikes(path, cube(), bitorder='little')
    assert open_spikes(path, bitorder='little').shape == cube().shape
    for use in (lambda: open_spikes(path, bitorder='big'),
                lambda: write_spikes(path, cube(), bitorder='big')):
        with pytest.raises(ConfigError, match='for .dat files'):
            use()
    with pytest.raises(ConfigError, match="'middle'"):
        SpikeWriter(path, bitorder='middle')
