# Copyright (c) mmext contributors. All rights reserved.
"""Data sets of RGB, spikes and metric depth."""
from ..transforms import depth_geometry, depth_loading  # noqa: F401
from .base import BaseDepthDataset
from .source_target import SourceTargetDataset, SourceTargetSampler
from .streetworld_depth import RenderStreetWorldSpikes, StreetWorldDepthDataset

__all__ = [
    'BaseDepthDataset', 'RenderStreetWorldSpikes', 'SourceTargetDataset',
    'SourceTargetSampler', 'StreetWorldDepthDataset'
]
