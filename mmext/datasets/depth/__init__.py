# Copyright (c) mmext contributors. All rights reserved.
"""Data sets of RGB, spikes and metric depth."""
from ..transforms import depth_geometry, depth_loading  # noqa: F401
from .base import BaseDepthDataset
from .driving_stereo import DrivingStereoDataset, DrivingStereoWeatherDataset
from .indoor import NYUDepthDataset, RespikeDataset
from .kitti_depth import KITTIDepthDataset, PartialKITTIDataset
from .source_target import SourceTargetDataset, SourceTargetSampler
from .streetworld_depth import RenderStreetWorldSpikes, StreetWorldDepthDataset
from .vkitti import VKITTI2Dataset, VKITTIDataset

__all__ = [
    'BaseDepthDataset', 'DrivingStereoDataset', 'DrivingStereoWeatherDataset',
    'KITTIDepthDataset', 'NYUDepthDataset', 'PartialKITTIDataset',
    'RenderStreetWorldSpikes', 'RespikeDataset', 'SourceTargetDataset',
    'SourceTargetSampler', 'StreetWorldDepthDataset', 'VKITTI2Dataset',
    'VKITTIDataset'
]
