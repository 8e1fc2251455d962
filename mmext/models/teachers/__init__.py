# Copyright (c) mmext contributors. All rights reserved.
"""Teachers and source anchors, host-free."""
from .group_ema import GroupEMA
from .source_anchor import anchor_gate, stochastic_restore

__all__ = ['GroupEMA', 'anchor_gate', 'stochastic_restore']
