# Copyright (c) mmext contributors. All rights reserved.
"""Adaptation methods for mmseg segmentors."""
from .base_adaptation import PROMPT, BaseAdaptation, StepResult, set_trainable
from .cotta import CoTTA
from .frame import Frame, View
from .segformer_nvidia_head import (NVIDIAMixVisionTransformer,
                                    NVIDIASegformerHead)
from .source_only import BNStats, SourceOnly
from .svdp import SVDP
from .tent import Tent
from .vdp import VDP

__all__ = [
    'BNStats', 'BaseAdaptation', 'CoTTA', 'Frame', 'SVDP', 'SourceOnly',
    'NVIDIAMixVisionTransformer', 'NVIDIASegformerHead', 'PROMPT',
    'StepResult', 'Tent', 'VDP', 'View', 'set_trainable'
]
