# Copyright (c) mmext contributors. All rights reserved.
"""Options that are numbers, shares and limits of depth."""
import math

import numpy as np
import pytest

from mmext.utils.arguments import check_number, is_share
from mmext.utils.depth_crops import check_depths
from mmext.utils.user_error import ConfigError

NONE = [True, 'a', '1', None, math.nan, math.inf, [1], {}]


@pytest.mark.parametrize('value, options', [
    (0, dict(low=0)),
    (0.5, dict(low=0)),
    (np.float32(2), dict(low=0)),
    (-3, dict()),
    (np.int64(2), dict(low=1, whole=True)),
    (None, dict(low=1, whole=True, optional=True)),
])
def test_numbers(value, options):
    assert check_number('x', value, **options) is value


@pytest.mark.parametrize('value, options, message', [
    *((value, dict(), 'a.x is a number, but got') for value in NONE),
    (-1, dict(low=0), 'a number of at least 0, but got -1'),
    (1.5, dict(low=0, whole=True), 'a whole number of at least 0'),
    (0, dict(low=1, whole=True, optional=True), 'of at least 1, or None'),
])
def test_what_is_no_number(value, options, message):
    with pytest.raises(ConfigError, match=message):
        check_number('a.x', value, **options)


def test_shares():
    assert all(map(is_share, (0, 1, 0.3, np.float64(1))))
    assert not any(map(is_share, (*NONE, -0.1, 1.1)))


@pytest.mark.parametrize('limits', [(1e-3, 80), (1, math.inf)])
def test_limits_of_depth(limits):
    check_depths(*limits, 'x')
    check_depths(limits[0], None, 'x', no_limit=True)


@pytest.mark.parametrize('limits', [(0, 80), (-1, 80), (2, 2), (3, 2),
                                    (math.nan, 80), (1, math.nan), ('a', 80),
                                    (1, 'eighty'), (True, 80), (1, None),
                                    (None, 80)])
def test_what_are_no_limits_of_depth(limits):
    with pytest.raises(ConfigError, match='min_depth and max_depth of x'):
        check_depths(*limits, 'x')
    if limits[1] is not None:
        with pytest.raises(ConfigError, match='also None'):
            check_depths(*limits, 'x', no_limit=True)
