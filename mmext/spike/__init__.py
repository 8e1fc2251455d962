# Copyright (c) mmext contributors. All rights reserved.
"""Spike cameras: simulation, reconstruction, files. Needs no host toolbox."""
from .arrays import pack_frames, repair_big_endian, to_signed, unpack_frames
from .augment import strong_view
from .camera import PRESETS, SpikeCamera
from .depth_files import (read_depth_png, read_disparity, read_pfm,
                          write_depth_png, write_pfm)
from .files import SpikeRecording, SpikeWriter, open_spikes, write_spikes
from .layout import layout_findings
from .light import Light, grey, light_from_frames, window_start
from .noise import SpikeNoise, sensor_noise
from .preview import preview, raster, strip, write_picture, write_video
from .reconstruction import (interval, interval_all, picture_errors, playback,
                             playback_all, to_uint8)
from .resize import nearest_index, resize_spikes
from .sources import (folder_frames, list_pictures, read_picture,
                      streetworld_frames, video_frames)
from .stereo import StereoSlide, View, depth_from_disparity

__all__ = [
    'Light', 'PRESETS', 'SpikeCamera', 'SpikeNoise', 'SpikeRecording',
    'SpikeWriter', 'StereoSlide', 'View', 'depth_from_disparity',
    'folder_frames', 'grey', 'interval', 'interval_all', 'layout_findings',
    'light_from_frames', 'list_pictures', 'nearest_index', 'open_spikes',
    'pack_frames', 'picture_errors', 'playback', 'playback_all', 'preview',
    'raster', 'read_depth_png', 'read_disparity', 'read_pfm', 'read_picture',
    'repair_big_endian', 'resize_spikes', 'sensor_noise', 'streetworld_frames',
    'strip', 'strong_view', 'to_signed', 'to_uint8', 'unpack_frames',
    'video_frames', 'window_start', 'write_depth_png', 'write_pfm',
    'write_picture', 'write_spikes', 'write_video'
]
