# Copyright (c) mmext contributors. All rights reserved.
"""Frames and started methods for tests without a runner."""
from typing import Sequence, Tuple

import torch
import torch.nn.functional as F
from mmengine.optim import build_optim_wrapper

from mmext.models.segmentation import SVDP, Frame, View
from mmext.models.teachers import GroupEMA
from ...toy_models import build_toy

BASE = (32, 48)
ORI = (64, 96)
RATIOS = (0.5, 1.0, 1.5)
REFERENCE = 2


def make_frame(seed: int = 0,
               base: Tuple[int, int] = BASE,
               ori: Tuple[int, int] = ORI,
               ratios: Sequence[float] = RATIOS,
               flips: bool = True) -> Frame:
    """Views of a random, smooth picture: ratio-major, mirrored second."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 8, 12, generator=generator)
    views = []
    for ratio in ratios:
        size = int(base[0] * ratio), int(base[1] * ratio)
        x = F.interpolate(coarse, size, mode='bicubic')
        x = x + 0.1 * torch.randn(x.shape, generator=generator)
        meta = dict(img_shape=size, ori_shape=ori)
        views.append(View(x, dict(meta, flip=False)))
        if flips:
            views.append(
                View(
                    x.flip(-1),
                    dict(meta, flip=True, flip_direction='horizontal')))
    return Frame(views, ori)


def start(method, model=None, lr=1e-3, prompt_lr=None, base=BASE,
          optimizer='Adam'):
    """What the loop does before the first frame; returns the optimizer."""
    model = build_toy() if model is None else model
    method.prepare(model, base, 0)
    source = {k: v.clone() for k, v in model.state_dict().items()}
    teacher = GroupEMA(model, **method.teacher_options()) \
        if method.needs_teacher else None
    mult = 1. if prompt_lr is None else prompt_lr / (lr or 1.)
    optim = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(type=optimizer, lr=lr),
            paramwise_cfg=dict(
                custom_keys=dict(visual_prompt=dict(lr_mult=mult)))))
    if lr == 0 and prompt_lr:
        optim.optimizer.param_groups[-1]['lr'] = prompt_lr
    method.start(model, teacher, source)
    return optim


def snapshot(model) -> dict:
    """A copy of all parameters and buffers."""
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    """Whether two snapshots are bit-equal."""
    return first.keys() == second.keys() and all(
        torch.equal(first[k], second[k]) for k in first)


def svdp(**kwargs) -> SVDP:
    """SVDP with settings that a few tiny frames can show."""
    options = dict(
        sparse_rate=0.02, reference_view=REFERENCE, decay=0.9, dpu_scale=0.5)
    return SVDP(**dict(options, **kwargs))
