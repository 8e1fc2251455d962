# Copyright (c) mmext contributors. All rights reserved.
"""A depth estimator of half a million parameters, and what to feed it."""
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData

ROOT = Path(__file__).resolve().parents[1]
MODELS_DIR = ROOT / 'configs' / '_base_' / 'models'
NO_LOSS = dict(type='torch.nn.Identity')


def depth_config(name='dpt-tiny', losses=False, in_channels=3, **options):
    """The shipped config without data preprocessor, and without losses."""
    model = Config.fromfile(MODELS_DIR / f'{name}.py').model
    model.data_preprocessor = None
    model.backbone.in_channels = in_channels
    if not losses:
        model.decode_head.loss_depth = NO_LOSS
        model.uncertainty_head.loss_uncertainty = NO_LOSS
    for key, value in options.items():  # update() would merge
        model[key] = value
    return model


def depth_model(seed=0, **options):
    """The model of :func:`depth_config`, with weights of a seed."""
    init_default_scope('mmseg')
    torch.manual_seed(seed)
    return MODELS.build(depth_config(**options))


def depth_sample(height, width, **meta):
    """A data sample with ground truth between 2 and 60 m, some missing."""
    from mmseg.structures import SegDataSample
    depth = torch.rand(1, height, width) * 58 + 2
    depth[:, ::7] = 0
    sample = SegDataSample(
        metainfo=dict(dict(ori_shape=(height, width)), **meta))
    sample.gt_depth_map = PixelData(data=depth)
    return sample
