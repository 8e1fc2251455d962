# Copyright (c) mmext contributors. All rights reserved.
"""Playback and interval."""
import numpy as np
import pytest

from mmext.spike import (interval, interval_all, playback, playback_all,
                         to_uint8)
from mmext.utils.user_error import ConfigError


def cube(ticks=30, rate=0.3, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((ticks, 4, 8)) < rate).astype(np.uint8)


@pytest.mark.parametrize('half', [1, 4, 14])
def test_all_ticks_equal_single_ticks(half):
    spikes = cube()
    every = playback_all(spikes, half)
    assert len(every) == 30 - 2 * half
    for i, picture in enumerate(every):
        np.testing.assert_array_equal(picture,
                                      playback(spikes, i + half, half))
    every = interval_all(spikes, half)
    assert len(every) == 30 - 2 * half
    for i, picture in enumerate(every):
        np.testing.assert_array_equal(picture,
                                      interval(spikes, i + half, half))


def test_interval_counts_ticks_between_spikes():
    spikes = np.zeros((20, 1, 4), np.uint8)
    spikes[[5, 12], :, 0] = 1  # around the key
    spikes[[8, 13], :, 1] = 1  # the first at the key
    spikes[5, :, 2] = 1  # none after
    spikes[[0, 9], :, 3] = 1  # the first tick of all
    ticks = 1 / interval(spikes, 8, 9)[0]
    assert ticks == pytest.approx([7, 5, 18, 9])
    assert 1 / interval(spikes, 8, 9, compat=True)[0, 3] == pytest.approx(18)
    # Too far away is missing.
    assert 1 / interval(spikes, 8, 3)[0, 0] == pytest.approx(6)


def test_grey_levels():
    rate = np.array([0, 0.5, 1], np.float32)
    assert to_uint8(rate).tolist() == [0, 128, 255]
    assert to_uint8(rate, truncate=True).tolist() == [0, 127, 255]


@pytest.mark.parametrize('call, message', [
    (lambda s: playback(s, 3, 4), 'smaller half window'),
    (lambda s: playback(s, 27, 4), 'smaller half window'),
    (lambda s: playback(s, 30, 1), 'key tick'),
    (lambda s: playback_all(s, 15), 'at least 31'),
    (lambda s: interval(s, 3, 0), 'half window'),
    (lambda s: interval_all(s, 16), 'at least 32'),
    (lambda s: playback(s[0], 1, 1), 'T, H, W'),
])
def test_unusable_windows(call, message):
    with pytest.raises(ConfigError, match=message):
        call(cube())
