# Copyright (c) mmext contributors. All rights reserved.
"""Bad weather and bad light from a frame's image, depth and labels."""
from dataclasses import replace

from .renderer import Frame


def apply_weather(frame: Frame,
                  domain: str,
                  strength: float = 1.,
                  seed: int = 0) -> Frame:
    if domain == 'clear':
        return frame
    raise NotImplementedError(domain)
