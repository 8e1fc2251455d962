# Copyright (c) mmext contributors. All rights reserved.
"""Optimizers and their wrappers."""
from .adamw_lp import AdamWLp, LpOptimWrapperConstructor
from .bert_adamw import BertAdamW
from .cpu_amp_wrapper import CPUAmpOptimWrapper
from .madam import Madam

__all__ = [
    'AdamWLp', 'BertAdamW', 'CPUAmpOptimWrapper', 'LpOptimWrapperConstructor',
    'Madam'
]
