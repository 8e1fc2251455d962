# Copyright (c) mmext contributors. All rights reserved.
"""Depth from RGB and spikes: networks, heads, the estimator."""
from .cross_domain import CrossDomainAdapter
from .cross_modality import CrossModalityDistiller
from .depth_estimator import BiCrossDepthEstimator
from .depth_task import DepthTask
from .dpt_decoder import (DPTDecoder, DPTReassemble, FeatureFusion,
                          ReassembleLevel, ResidualConvUnit)
from .dpt_depth_head import DPTDepthHead, DPTUncertaintyHead, affine_inverse
from .dpt_hybrid import DPTHybrid, resize_pos_embed
from .map_geometry import paste_crop, resize_prediction
from .spike_encoders import SpikeSE, SpikeUNet, SpikeUSENet
from .spike_preprocessor import SpikeDataPreprocessor

__all__ = [
    'BiCrossDepthEstimator', 'CrossDomainAdapter', 'CrossModalityDistiller',
    'DPTDecoder', 'DPTDepthHead', 'DepthTask', 'DPTHybrid', 'DPTReassemble',
    'DPTUncertaintyHead', 'FeatureFusion', 'ReassembleLevel',
    'ResidualConvUnit', 'SpikeDataPreprocessor', 'SpikeSE', 'SpikeUNet',
    'SpikeUSENet', 'affine_inverse', 'paste_crop', 'resize_pos_embed',
    'resize_prediction'
]
