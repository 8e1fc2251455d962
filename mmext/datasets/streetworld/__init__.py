# Copyright (c) mmext contributors. All rights reserved.
"""Procedural street scenes: numpy and OpenCV only, deterministic by seed."""
from .camera import Drive, Intrinsics
from .classes import CLASSES, DOMAINS, PALETTE
from .plan import FrameSpec, plan
from .renderer import Frame, StreetWorld
from .weather import apply_weather

__all__ = [
    'CLASSES', 'DOMAINS', 'Drive', 'Frame', 'FrameSpec', 'Intrinsics',
    'PALETTE', 'StreetWorld', 'apply_weather', 'plan'
]
