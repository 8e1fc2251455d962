# Copyright (c) mmext contributors. All rights reserved.
"""Hooks for stock runners."""
from .adaptation_state_hook import AdaptationStateHook
from .mean_teacher_hook import MeanTeacherHook

__all__ = ['AdaptationStateHook', 'MeanTeacherHook']
