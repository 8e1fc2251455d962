# Copyright (c) mmext contributors. All rights reserved.
"""Certified l_inf networks of l_p-distance neurons, host-free."""
from . import loss_modules  # noqa: F401
from .attacks import pgd_attack
from .averaging import recalibrate_mean_shift
from .bound_heads import BoundMLP, DistanceHead
from .bounds import Bounds, CertificationError
from .boxes import eps_box, input_box, normalised_eps
from .certificates import (certified, head_margin_bounds, interval_residual,
                           lipschitz_residual, radius_from_margin,
                           rounding_slack)
from .certifier import Certifier, Residual, require_certifiable
from .ensemble_certifier import EnsembleCertifier
from .functional import (inf_distance_bounds, inf_distance_bounds_conv2d,
                         lp_distance, lp_distance_conv2d)
from .layers import LpDistConv2d, LpDistLinear, MeanShift, ScaledLinear
from .networks import (AlexNetFeature, ConvFeature, DistanceBody, DistanceNet,
                       LeNetFeature, MLPFeature, VGGFeature, build_network)
from .p_norm import distance_modules, get_p, set_p
from .rounding import RoundingTracker
from .schedules import LpSchedule
from .sort_layers import SortDistConv2d, SortDistLinear, sorted_distance

__all__ = [
    'AlexNetFeature', 'BoundMLP', 'Bounds', 'CertificationError', 'Certifier',
    'ConvFeature', 'DistanceBody', 'DistanceHead', 'DistanceNet',
    'EnsembleCertifier', 'LeNetFeature', 'LpDistConv2d', 'LpDistLinear',
    'LpSchedule', 'MLPFeature', 'MeanShift', 'Residual', 'RoundingTracker',
    'ScaledLinear', 'SortDistConv2d', 'SortDistLinear', 'VGGFeature',
    'build_network', 'certified', 'distance_modules', 'eps_box', 'get_p',
    'head_margin_bounds', 'inf_distance_bounds', 'inf_distance_bounds_conv2d',
    'input_box', 'interval_residual', 'lipschitz_residual', 'lp_distance',
    'lp_distance_conv2d', 'normalised_eps', 'pgd_attack', 'radius_from_margin',
    'recalibrate_mean_shift', 'require_certifiable', 'rounding_slack', 'set_p',
    'sorted_distance'
]
