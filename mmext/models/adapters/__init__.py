# Copyright (c) mmext contributors. All rights reserved.
"""Parameter-efficient tuning with (mixtures of sparse) adapters, host-free."""
from .attention_low_rank import AdaptedAttention, AttentionLoRA
from .blocks import (AdaptedBlock, AdaptedSwinBlock, Host, find_host,
                     register_host)
from .bottleneck import AdaptFormer, Bottleneck, Houlsby, Pfeiffer
from .checkpoint import (AdapterError, load_adapter, model_from_adapter,
                         read_adapter, save_adapter)
from .low_rank import LoRA, LowRankPart, ReadsInput
from .mosa_model import MoSAModel
from .slots import AdapterSlot, attach, detach, register_adapted, slots
from .split_linear import SplitLinear
from .split_options import MaskedLinear, SplitOptions
from .tuning import ScaleShift
from .update_guard import UpdateGuard
from .warm_start import load_standard

__all__ = [
    'AdaptFormer', 'AdaptedAttention', 'AdaptedBlock', 'AdaptedSwinBlock',
    'AdapterError', 'AdapterSlot', 'AttentionLoRA', 'Bottleneck', 'Host',
    'Houlsby', 'LoRA', 'LowRankPart', 'MaskedLinear', 'MoSAModel', 'Pfeiffer',
    'ReadsInput', 'ScaleShift', 'SplitLinear', 'SplitOptions', 'UpdateGuard',
    'attach', 'detach', 'find_host', 'load_adapter', 'load_standard',
    'model_from_adapter', 'read_adapter', 'register_adapted', 'register_host',
    'save_adapter', 'slots'
]
