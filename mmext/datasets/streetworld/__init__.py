# Copyright (c) mmext contributors. All rights reserved.
"""Procedural street scenes: numpy and OpenCV only, deterministic by seed."""
from .camera import Drive, Intrinsics
from .classes import CLASSES, DOMAINS, PALETTE
from .renderer import Frame, StreetWorld

__all__ = [
    'CLASSES', 'DOMAINS', 'Drive', 'Frame', 'Intrinsics', 'PALETTE',
    'StreetWorld'
]
