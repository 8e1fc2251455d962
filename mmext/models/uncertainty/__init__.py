# Copyright (c) mmext contributors. All rights reserved.
"""Uncertainty of dense predictions, host-free."""
from .mc_dropout import (classifier_input, mc_dropout_passes, uncertainty_map,
                         variance_over)

__all__ = [
    'classifier_input', 'mc_dropout_passes', 'uncertainty_map', 'variance_over'
]
