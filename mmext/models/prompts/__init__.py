# Copyright (c) mmext contributors. All rights reserved.
"""Visual prompts, host-free."""
from .prompted_backbone import PromptedBackbone
from .visual_prompt import DenseVisualPrompt, SparseVisualPrompt

__all__ = ['DenseVisualPrompt', 'PromptedBackbone', 'SparseVisualPrompt']
