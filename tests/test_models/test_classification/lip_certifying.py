# Copyright (c) mmext contributors. All rights reserved.
"""A trained tiny classifier with other options of its certificate."""
from mmext.models.classification.certify_options import CertifyOptions
from .lip_models import images, trained

EPS = [0., 0.005, 0.02, 0.05, 0.15]


def certifying(head='lip', **options):
    """The trained network with other options of ``certify``."""
    model = trained(head)[0]
    model.certify = CertifyOptions.from_cfg(
        dict(certify=dict(dict(eps=EPS), **options)))
    model.head.pixel_range = model.certify.pixel_range
    return model


def batch(count=40):
    return images(count, seed=5)
