# Copyright (c) mmext contributors. All rights reserved.
"""Data sets, streams and samplers."""
from mmext.registry import import_rim
from . import data_help, domain_sequence, samplers  # noqa: F401

# One entry a data set that needs a host toolbox.
import_rim(
    __name__,
    dict(
        acdc='mmseg',
        camvid='mmseg',
        foggy_cityscapes='mmseg',
        rainy_cityscapes='mmseg',
        streetworld_dataset='mmseg'))
