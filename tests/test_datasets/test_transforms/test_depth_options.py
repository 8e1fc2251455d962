# Copyright (c) mmext contributors. All rights reserved.
"""Options of transforms with which a worker would stop, or nothing happen."""
import math

import pytest

pytest.importorskip('mmcv')

from mmext.registry import TRANSFORMS
from mmext.utils.user_error import ConfigError


@pytest.mark.parametrize('kind', ['KBCrop', 'ResizeSpike'])
@pytest.mark.parametrize('size', [5, (3.5, 4), (0, 4), (4, ), 'ab', None])
def test_sizes(kind, size):
    with pytest.raises(ConfigError, match='two positive whole numbers'):
        TRANSFORMS.build(dict(type=f'mmext.{kind}', size=size))
    assert TRANSFORMS.build(dict(type=f'mmext.{kind}',
                                 size=[3, 4])).size == (3, 4)


@pytest.mark.parametrize(
    'kind', ['SpikeStrongAug', 'RandomDepthFlip', 'RandomTimeReversal'])
@pytest.mark.parametrize('prob', [3, -1, 'a', math.nan, None, True])
def test_probabilities(kind, prob):
    with pytest.raises(ConfigError, match=f'prob of {kind}.* from 0 to 1'):
        TRANSFORMS.build(dict(type=f'mmext.{kind}', prob=prob))
    assert TRANSFORMS.build(dict(type=f'mmext.{kind}', prob=1)).prob == 1


@pytest.mark.parametrize('options, message', [
    (dict(chunks=4), "no option 'chunks'. Did you mean 'chunk'"),
    (dict(loud=4), 'no option .loud.. It takes chunk, silence'),
    (dict(chunk=1.5), 'chunk of 0 or more'),
    (dict(silence=2), 'silence'),
    (dict(erase_area=('a', 'b')), 'erase_area'),
    (dict(erase_ratio=(3, 1)), 'erase_ratio'),
    (dict(erase_ratio=2), 'erase_ratio'),
])
def test_options_of_the_strong_view(options, message):
    with pytest.raises(ConfigError, match=message):
        TRANSFORMS.build(dict(type='mmext.SpikeStrongAug', **options))
