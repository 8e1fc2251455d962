# Copyright (c) mmext contributors. All rights reserved.
"""Inputs that are neither images nor spikes; the rest of the preprocessor
is in tests/test_datasets/test_transforms/test_depth_transforms.py."""
import logging

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.logging import MMLogger

from mmext.models.depth.spike_preprocessor import SpikeDataPreprocessor
from mmext.utils.user_error import ConfigError


def image(channels, low=0, high=256, dtype=torch.uint8, size=(8, 12)):
    torch.manual_seed(0)
    return torch.randint(low, high, (channels, *size)).to(dtype)


@pytest.mark.stack_subset
@pytest.mark.parametrize('wrap', [
    lambda x: x[None],
    lambda x: [x],
    lambda x: [image(3), x],
    lambda x: dict(rgb=[x], spike=[image(16, high=2)]),
    lambda x: dict(source=[image(16, high=2)], target=x[None]),
])
@pytest.mark.parametrize('channels', [1, 4])
def test_a_grey_image_is_no_spike(channels, wrap):
    """Its 2 x - 1 would be -1 to 509, without a word."""
    model = SpikeDataPreprocessor(size=(4, 4))
    with pytest.raises(ConfigError, match='looks like a grey image'):
        model(dict(inputs=wrap(image(channels))))


@pytest.mark.parametrize(
    'given',
    [
        image(1, high=2),
        image(16, high=2),
        image(16, high=2).bool(),
        image(16, low=-1, high=2, dtype=torch.int8),
        # counts and voxel grids of other sensors are as they are
        image(5, low=-9, high=9, dtype=torch.float32),
    ])
def test_what_is_taken_as_spikes(given):
    found = SpikeDataPreprocessor()(dict(inputs=[given]))['inputs'][0]
    expected = given.float()
    if given.dtype in (torch.uint8, torch.bool):
        expected = 2 * expected - 1
    assert torch.equal(found, expected)


def warnings_of(inputs, caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    caplog.clear()
    try:
        with caplog.at_level(logging.WARNING, logger.name):
            model = SpikeDataPreprocessor()
            for one in inputs:
                model(dict(inputs=[one]))
    finally:
        logger.removeHandler(caplog.handler)
    return [
        r.getMessage() for r in caplog.records
        if 'divides by 255' in r.getMessage()
    ]


def test_an_image_that_was_scaled_before_is_told_once(caplog):
    scaled = image(3).float() / 255
    assert len(warnings_of([scaled, scaled], caplog)) == 1
    assert len(warnings_of([image(3), scaled - 0.5], caplog)) == 1
    assert not warnings_of(
        [image(3), image(3).float(),
         image(3, high=1)], caplog)
