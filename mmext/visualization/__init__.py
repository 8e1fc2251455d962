# Copyright (c) mmext contributors. All rights reserved.
"""Visualizers and what they draw."""
from .depth_pictures import colour, colour_depth, colour_error, depth_panel
from .depth_visualizer import DepthLocalVisualizer

__all__ = [
    'DepthLocalVisualizer', 'colour', 'colour_depth', 'colour_error',
    'depth_panel'
]
