# Copyright (c) mmext contributors. All rights reserved.
"""Hooks for stock runners."""
from .adaptation_guard_hook import AdaptationGuardHook
from .adaptation_state_hook import AdaptationStateHook
from .atomic_checkpoint_hook import AtomicCheckpointHook
from .channels_last_hook import ChannelsLastHook
from .checkpoint_match_hook import CheckpointMatchHook
from .depth_visualization_hook import DepthVisualizationHook
from .distill_hook import DistillHook
from .invalid_loss_hook import InvalidLossHook
from .lip_ema_hook import LipschitzEMAHook
from .mean_teacher_hook import MeanTeacherHook
from .mosa_hook import MoSAHook
from .p_norm_schedule_hook import PNormScheduleHook
from .rng_state_hook import RNGStateHook

__all__ = [
    'AdaptationGuardHook', 'AdaptationStateHook', 'AtomicCheckpointHook',
    'ChannelsLastHook', 'CheckpointMatchHook', 'DepthVisualizationHook',
    'DistillHook', 'InvalidLossHook', 'LipschitzEMAHook', 'MeanTeacherHook',
    'MoSAHook', 'PNormScheduleHook', 'RNGStateHook'
]
