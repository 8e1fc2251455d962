# Copyright (c) mmext contributors. All rights reserved.
"""The spike camera; property H31 of section h of the specification."""
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmext.spike import (PRESETS, Light, SpikeCamera, SpikeNoise, interval,
                         light_from_frames, playback, window_start)
from mmext.spike.noise import Diffusion, NoiseState
from mmext.utils.user_error import ConfigError

SMALL = dict(spikingsim_full=dict(substeps=20))


def frames(count=5, seed=0):
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (count, 6, 8), dtype=np.uint8)
    pictures[:2, 0] = 255  # white, then changing
    pictures[:, 1] = 255
    pictures[:, 2] = 0
    return pictures


@pytest.mark.stack_subset
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    gain=st.sampled_from([1., 0.5, 0.37]),
    threshold=st.sampled_from([1., 2., 5.]),
    ticks=st.integers(1, 200))
def test_h31_count_of_constant_light(seed, gain, threshold, ticks):
    """floor((V_0 + T eta I) / theta), exactly, in integers."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (3, 8), dtype=np.uint8)
    start = rng.integers(0, 2**20, (3, 8)) / 2**20 * threshold
    camera = SpikeCamera(gain=gain, threshold=threshold, start=start)
    count = camera.expose([Light(picture, ticks)]).sum(0)
    for place in np.ndindex(3, 8):
        added = int(picture[place]) * Fraction(
            str(gain)) / 255 / Fraction(threshold)
        expected = Fraction(start[place] / threshold) + ticks * added
        # What one tick adds was rounded up once, to 2**-32 thresholds.
        slack = Fraction(ticks, 2**32)
        assert int(expected) <= count[place] <= int(expected + slack)


@pytest.mark.parametrize('options, share', [(dict(), 1),
                                            (dict(threshold=5.), 5),
                                            (dict(gain=0.2), 5),
                                            (dict(gain=0.1), 10)])
def test_h31_every_grey_level_fires_on_time(options, share):
    """From 0, n ticks of grey g give floor(n g / 255 / share) spikes."""
    levels = np.arange(256)
    picture = levels.astype(np.uint8).reshape(2, 128)
    ticks = np.arange(1, 511)[:, None, None]
    expected = ticks * levels.reshape(2, 128) // (255 * share)
    lights = [picture, picture / 255, (picture / 255).astype(np.float32)]
    for light in lights:
        camera = SpikeCamera(start='zero', precision='fixed', **options)
        count = camera.expose([Light(light, 510)]).cumsum(0, dtype=int)
        np.testing.assert_array_equal(count, expected)
    wide = SpikeCamera(
        start='zero', full_scale=65535., precision='fixed', **options)
    light = levels.astype(np.uint16).reshape(2, 128) * 257
    np.testing.assert_array_equal(
        wide.expose([Light(light, 510)]).cumsum(0, dtype=int), expected)


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
@pytest.mark.parametrize('white', [1, 100, 128, 180, 251, 255])
def test_floats_fire_as_grey_does_where_the_brightest_is_full(dtype, white):
    grey = np.arange(white + 1).astype(np.uint8)[None]
    counts = []
    for picture in (grey, (grey / 255).astype(dtype)):
        camera = SpikeCamera(start='zero', full_scale='max')
        spikes = camera.expose([Light(picture, 300)])
        assert spikes[:, 0, -1].all()
        assert camera.grey_per_rate == white / 255
        counts.append(spikes.cumsum(0, dtype=int))
    np.testing.assert_array_equal(counts[0], counts[1])


def test_h31_start_and_light_that_just_reach_the_threshold():
    start = np.array([[0.8, 0.6, 0.9, 0.7]])
    light = np.array([[0.2, 0.4, 0.1, 0.3]])
    spikes = SpikeCamera(start=start).expose([Light(light, 1)])
    assert spikes.all()


@pytest.mark.parametrize('precision', ['fixed', 'float64'])
def test_h31_black_never_fires_and_white_always_does(precision):
    for start in ('zero', 'random'):
        camera = SpikeCamera(start=start, precision=precision)
        spikes = camera.expose_frames(frames(), ticks_per_frame=30)
        assert not spikes[:, 2].any()
        assert spikes[:, 1].all()
        assert spikes[:30, 0].all()
        assert spikes[30:60, 0].min() == 0
    assert camera.potential.max() <= 1


@pytest.mark.parametrize('half', [3, 10, 40])
def test_h31_errors_of_playback_and_interval(half):
    light = np.linspace(0.02, 1, 64).reshape(8, 8)
    gain = 0.9
    camera = SpikeCamera(gain=gain, precision='float64', seed=half)
    spikes = camera.expose([Light(light, 2 * half + 1 + 120)])
    key = half + 60
    rate = playback(spikes, key, half)
    assert np.abs(rate - gain * light).max() <= 1 / (2 * half + 1) + 1e-6
    ticks = 1 / interval(spikes, key, 60)
    assert np.abs(ticks - 1 / (gain * light)).max() <= 1 + 1e-4


@pytest.mark.parametrize('preset', sorted(PRESETS))
def test_h31_pieces_equal_one_go_and_seeds_repeat(preset):
    options = SMALL.get(preset, {})
    whole = SpikeCamera.from_preset(
        preset, seed=3, **options).expose_frames(
            frames(), ticks_per_frame=7)
    assert whole.dtype == np.uint8 and set(np.unique(whole)) == {0, 1}
    again = SpikeCamera.from_preset(
        preset, seed=3, **options).expose_frames(
            frames(), ticks_per_frame=7)
    np.testing.assert_array_equal(whole, again)
    for ticks in (1, 4, 100):
        camera = SpikeCamera.from_preset(preset, seed=3, **options)
        light = light_from_frames(frames(), ticks_per_frame=7)
        pieces = list(camera.stream(light, ticks))
        np.testing.assert_array_equal(whole, np.concatenate(pieces))
    if preset not in ('spcs', 'spikecv_image'):
        other = SpikeCamera.from_preset(
            preset, seed=4, **options).expose_frames(
                frames(), ticks_per_frame=7)
        assert (whole != other).any()


def test_fixed_point_follows_floating_point():
    pictures = frames(9)
    args = dict(ticks_per_frame=16, tail=100)
    exact = SpikeCamera(gain=0.8).expose_frames(pictures, **args)
    floats = SpikeCamera(
        gain=0.8, precision='float64').expose_frames(pictures, **args)
    count = exact.cumsum(0, dtype=int) - floats.cumsum(0, dtype=int)
    # Light that hits the threshold exactly may fire one tick later.
    assert np.abs(count).max() <= 1
    assert (exact != floats).mean() < 0.01


@pytest.mark.parametrize('preset', ['ideal', 'spcs', 'spikingsim', 'scsim'])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_float_light_is_grey_over_255(preset, dtype):
    """The same rates, and the same grey behind them."""
    rates, cameras = [], []
    picture = np.repeat(np.uint8([[0, 100], [180, 60]]), 8, 1)
    for light in (picture, (picture / 255).astype(dtype)):
        cameras.append(SpikeCamera.from_preset(preset))
        spikes = cameras[-1].expose_frames([light, light], ticks_per_frame=100)
        rates.append(spikes.mean(0))
    # A spike more or less, as rounding has it.
    assert np.abs(rates[0] - rates[1]).max() < 1.5 / 200
    assert rates[0].max() > 0.4
    scales = [camera.grey_per_rate for camera in cameras]
    assert scales[0] == pytest.approx(scales[1], rel=1e-6)


def test_repeat_and_linear_light():
    black, white = np.zeros((1, 8)), np.ones((1, 8))
    camera = SpikeCamera(start='zero')
    held = camera.expose_frames([black, white],
                                ticks_per_frame=4,
                                interpolation='repeat')
    assert held[:, 0, 0].tolist() == [0] * 4 + [1] * 4
    camera.restart()
    ramp = camera.expose_frames([black, white], ticks_per_frame=4, lead=2)
    # 0, 1/4, 2/4, 3/4, then white.
    assert ramp[:, 0, 0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_windows_are_cut_from_one_recording():
    pictures, ticks, length = frames(6), 5, 12
    starts = [length // 2 + window_start(k, ticks, length) for k in range(6)]
    options = dict(ticks_per_frame=ticks, lead=length // 2, tail=length)
    whole = SpikeCamera().expose_frames(pictures, **options)
    windows = list(SpikeCamera().windows(
        light_from_frames(pictures, **options), starts, length))
    assert len(windows) == 6
    for start, window in zip(starts, windows):
        np.testing.assert_array_equal(window, whole[start:start + length])
    with pytest.raises(ConfigError, match='ends before'):
        list(SpikeCamera().windows(
            light_from_frames(pictures, ticks), [0, 25], length))
    assert window_start(2, 16, 128) == 32 - 64
    assert window_start(2, 16, 128, 'start') == 32
    assert window_start(2, 128, 128, interpolation='repeat') == 256


def test_output_array_is_filled():
    out = np.full((8, 6, 8), 7, np.uint8)
    light = [Light(frames()[0], 8)]
    result = SpikeCamera().expose(light, out)
    assert result is out
    np.testing.assert_array_equal(out, SpikeCamera().expose(light))
    with pytest.raises(ConfigError, match='contiguous uint8'):
        SpikeCamera().expose(light, out[:4])


@pytest.mark.parametrize('options', [
    dict(),
    dict(precision='float64'),
])
def test_saturating_light_is_refused_or_clipped(options):
    light = [Light(np.full((2, 8), 200, np.uint8), 10)]
    with pytest.raises(ConfigError, match='saturation'):
        SpikeCamera(gain=2, **options).expose(light)
    camera = SpikeCamera(gain=2, saturation='clip', start='zero', **options)
    assert camera.expose(light).all()
    # Nothing was stored up meanwhile.
    dark = [Light(np.zeros((2, 8), np.uint8), 5)]
    assert not camera.expose(dark).any()


def test_each_noise_does_what_it_says():
    grey = [Light(np.full((40, 40), 0.3), 200)]
    base = SpikeCamera(precision='float64').expose(grey).mean(0)
    assert base.std() < 0.003

    def rates(**noise):
        return SpikeCamera(noise=SpikeNoise(**noise)).expose(grey)

    dark = SpikeCamera(noise=dict(dark=(0.05, 0.))).expose(
        [Light(np.zeros((8, 8)), 200)])
    assert dark.mean() == pytest.approx(0.05, abs=0.005)
    assert rates(threshold_std=0.1).mean(0).std() > 0.02
    assert rates(capacitance_std=0.1).mean(0).std() > 0.02
    assert rates(responsivity_std=0.1).mean(0).std() > 0.02
    slow = rates(refractory=0.5).mean()
    assert slow == pytest.approx(1 / (1 / 0.3 + 0.5), rel=0.02)
    few, many = rates(photons=20.), rates(photons=1e6)
    assert few.mean() == pytest.approx(0.3, rel=0.1)
    assert few.mean(0).std() > 2 * many.mean(0).std()
    assert rates(read_std=0.2).sum() != base.sum() * 200
    spurious = SpikeCamera(noise=SpikeNoise(spurious=(20, 5))).expose(
        [Light(np.zeros((20, 20)), 200)])
    assert spurious.mean() == pytest.approx(1 / 20, rel=0.15)


def test_spikingsim_full_compares_250_times_a_tick():
    """0.00794 a sub-step to 2: full light fires every 252, half every 504."""
    preset = PRESETS['spikingsim_full']
    assert preset['substeps'] == 250
    assert preset['gain'] / preset['substeps'] == pytest.approx(0.00794)
    picture = np.repeat(np.uint8([[254, 127]]), 4, 1)
    camera = SpikeCamera.from_preset('spikingsim_full', noise=None)
    ticks = 504
    count = camera.expose([Light(picture, ticks)]).sum(0)[0]
    # the random start brings the first spike of a pixel forward
    assert set(count[:4]) <= {ticks * 250 // 252, ticks * 250 // 252 + 1}
    assert set(count[4:]) <= {ticks * 250 // 504, ticks * 250 // 504 + 1}
    # compared once a tick, with the rest dropped, it needs two ticks
    rough = SpikeCamera.from_preset('spikingsim_full', noise=None, substeps=1)
    count = rough.expose([Light(picture, ticks)]).sum(0)[0]
    assert set(count[:4]) <= {252, 253} and set(count[4:]) <= {126, 127, 168}


def test_diffusion_changes_light_at_some_sub_steps():
    """By up to half the width, at gaps that are Poisson distributed."""
    width, gap = PRESETS['spikingsim_full']['noise'].diffusion
    assert (width, gap) == (0.001, 25)
    shape = 60, 80
    state = NoiseState(
        SpikeNoise(diffusion=(width, gap)), shape, np.dtype('float64'), 0)
    changes, light, steps = Diffusion(state, shape), np.zeros(shape), []
    for step in range(250):
        before = light.copy()
        changes.add(light, step)
        steps.append(light - before)
    steps = np.stack(steps)
    moved = steps[steps != 0]
    assert np.abs(steps).max() <= width / 2
    assert moved.std() == pytest.approx(width / 12**0.5, rel=0.02)
    assert abs(moved.mean()) < width / 100
    # renewals within 249 sub-steps, of gaps with a variance of their mean
    count = (steps != 0).sum(0)
    expected = 249 / gap + (1 / gap - 1) / 2
    assert count.mean() == pytest.approx(expected, abs=0.1)
    first = (steps != 0).argmax(0)
    assert first.mean() == pytest.approx(gap, rel=0.02)
    assert first.std() == pytest.approx(gap**0.5, rel=0.1)


def test_diffusion_moves_spikes_and_keeps_the_rate():
    picture = [Light(np.full((8, 16), 200, np.uint8), 120)]

    def spikes(diffusion):
        return SpikeCamera.from_preset(
            'spikingsim_full', noise=dict(diffusion=diffusion)).expose(picture)

    plain, preset, wide = spikes(None), spikes((0.001, 25)), spikes((0.2, 25))
    np.testing.assert_array_equal(preset, spikes((0.001, 25)))
    # a sub-step more or less to the threshold
    for other, change in ((preset, 0.01), (wide, 0.1)):
        assert (other != plain).any()
        assert other.mean() == pytest.approx(plain.mean(), rel=change)
    assert (wide != plain).sum() > 2 * (preset != plain).sum()
    # it starts anew from the light in every tick, and no light drifts away
    assert spikes((0.001, 1)).mean() == pytest.approx(plain.mean(), rel=0.01)


def test_scsim_rates_stay_near_the_light():
    camera = SpikeCamera.from_preset('scsim')
    spikes = camera.expose([Light(np.full((64, 64), 128, np.uint8), 256)])
    # Dark current adds half a percent of a spike.
    assert spikes.mean() == pytest.approx(128 / 255 + 0.0047, rel=0.02)
    assert 0.02 < spikes.mean(0).std() < 0.06


@pytest.mark.parametrize('options, message', [
    (dict(reset='soft'), 'reset'),
    (dict(gain=0), 'positive gain'),
    (dict(noise=dict(photons=-1)), 'photons'),
    (dict(noise=dict(diffusion=(0.1, 25))), 'sub-steps'),
    (dict(precision='fixed', reset='zero'), 'fixed'),
    (dict(start=1.5), 'start'),
    (dict(start=np.full((2, 8), 1.)), 'start'),
])
def test_unusable_settings(options, message):
    with pytest.raises(ConfigError, match=message):
        SpikeCamera(**options).expose([Light(np.zeros((2, 8)), 1)])


@pytest.mark.parametrize('picture, message', [
    (np.full((2, 8), np.nan), 'NaN'),
    (np.full((2, 8), -0.1), 'at least 0'),
    (np.zeros((2, 8), int), 'unsigned'),
    (np.zeros((2, 8, 4), np.uint8), 'shape'),
])
def test_unusable_pictures(picture, message):
    with pytest.raises(ConfigError, match=message):
        SpikeCamera().expose_frames([picture])
    with pytest.raises(ConfigError, match='one size'):
        SpikeCamera().expose_frames([np.zeros(
            (2, 8)), np.zeros((3, 8))],
                                    ticks_per_frame=2)
    with pytest.raises(ConfigError, match='at least one frame'):
        SpikeCamera().expose_frames([])


def test_float_light_beside_uint16():
    """A picture of 16 bits, and the same divided by its white."""
    picture = np.random.default_rng(0).integers(
        0, 65536, (4, 6)).astype(np.uint16)
    rates = [
        SpikeCamera(full_scale=65535., start='zero').expose_frames(
            [one, one], ticks_per_frame=50).mean()
        for one in (picture, (picture / 65535.).astype(np.float32))
    ]
    assert rates[1] == pytest.approx(rates[0], abs=0.02) and rates[0] > 0.3
