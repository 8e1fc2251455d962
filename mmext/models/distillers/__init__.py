# Copyright (c) mmext contributors. All rights reserved.
"""Feature taps, distillation losses, masks and heads, host-free."""
from .adversarial import gradient_reversal
from .feature_tap import FeatureTap
from .hand_over import check_weights, inflate_stem, load_weights
from .heads import DomainClassifier, ProjectionHead
from .loss_modules import (ContrastiveLoss, DomainAdversarialLoss,
                           MaskedFeatureLoss, SigLoss, SSILoss,
                           UncertaintyLoss)
from .losses import (contrastive_loss, depth_mask, garg_mask,
                     masked_feature_loss, range_mask, sig_loss, ssi_loss,
                     ssi_terms, uncertainty_loss)
from .selection import pixel_filter, pseudo_label_mask
from .strong_view import SpikeStrongView

__all__ = [
    'ContrastiveLoss', 'DomainAdversarialLoss', 'DomainClassifier',
    'FeatureTap', 'MaskedFeatureLoss', 'ProjectionHead', 'SSILoss', 'SigLoss',
    'SpikeStrongView', 'UncertaintyLoss', 'check_weights', 'contrastive_loss',
    'depth_mask', 'garg_mask', 'gradient_reversal', 'inflate_stem',
    'load_weights', 'masked_feature_loss', 'pixel_filter', 'pseudo_label_mask',
    'range_mask', 'sig_loss', 'ssi_loss', 'ssi_terms', 'uncertainty_loss'
]
