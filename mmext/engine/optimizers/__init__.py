# Copyright (c) mmext contributors. All rights reserved.
"""Optimizers and their wrappers."""
from .cpu_amp_wrapper import CPUAmpOptimWrapper

__all__ = ['CPUAmpOptimWrapper']
