# Copyright (c) mmext contributors. All rights reserved.
"""Adaptation methods for mmseg segmentors, and what other tasks share."""
from .base_adaptation import PROMPT, BaseAdaptation, StepResult, set_trainable
from .cotta import CoTTA
from .dense_task import DenseTask, SegmentationTask
from .frame import Frame, View
from .mosa_mit import (EncoderDecoderHost, MoSAMiTLayer, MoSASegSwinBlock,
                       MoSASegViTLayer)
from .segformer_nvidia_head import (NVIDIAMixVisionTransformer,
                                    NVIDIASegformerHead)
from .source_only import BNStats, SourceOnly
from .svdp import SVDP
from .tent import Tent
from .vdp import VDP

__all__ = [
    'BNStats', 'BaseAdaptation', 'CoTTA', 'DenseTask', 'EncoderDecoderHost',
    'Frame', 'MoSAMiTLayer', 'MoSASegSwinBlock', 'MoSASegViTLayer',
    'NVIDIAMixVisionTransformer', 'NVIDIASegformerHead', 'PROMPT', 'SVDP',
    'SegmentationTask', 'SourceOnly', 'StepResult', 'Tent', 'VDP', 'View',
    'set_trainable'
]
