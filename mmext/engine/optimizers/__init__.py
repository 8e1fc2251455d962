# Copyright (c) mmext contributors. All rights reserved.
"""Optimizers and their wrappers."""
from .bert_adamw import BertAdamW
from .cpu_amp_wrapper import CPUAmpOptimWrapper

__all__ = ['BertAdamW', 'CPUAmpOptimWrapper']
