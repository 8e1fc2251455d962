# Copyright (c) mmext contributors. All rights reserved.
"""Spike cameras: simulation, reconstruction, files. Needs no host toolbox."""
from .camera import PRESETS, SpikeCamera
from .light import Light, grey, light_from_frames, window_start
from .noise import SpikeNoise, sensor_noise

__all__ = [
    'Light', 'PRESETS', 'SpikeCamera', 'SpikeNoise', 'grey',
    'light_from_frames', 'sensor_noise', 'window_start'
]
