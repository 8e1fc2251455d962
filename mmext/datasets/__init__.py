# Copyright (c) mmext contributors. All rights reserved.
"""Data sets, streams and samplers."""
from mmext.registry import import_rim
from . import joint_labels  # noqa: F401
from . import data_help, domain_sequence, samplers, subset

# One entry a data set that needs a host toolbox.
import_rim(
    __name__,
    dict(
        acdc='mmseg',
        camvid='mmseg',
        cifar10_binary='mmpretrain',
        depth='mmseg',
        elpv='mmpretrain',
        fgvc='mmpretrain',
        foggy_cityscapes='mmseg',
        rainy_cityscapes='mmseg',
        streetworld_dataset='mmseg',
        vtab='mmpretrain'))
