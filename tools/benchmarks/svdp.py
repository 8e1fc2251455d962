# Copyright (c) mmext contributors. All rights reserved.
"""Speed of SVDP's pieces against straightforward versions of the same.

Every value is a ratio of two times measured in one run, so it does not depend
on the machine much: ``python tools/benchmarks/svdp.py --out FILE``.
"""
import argparse
from copy import deepcopy
from typing import Dict

import numpy as np
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from scipy import ndimage

import mmext  # noqa: F401
from mmext.models.prompts.functional import SplineResizer, place_prompts
from mmext.models.segmentation import SVDP, Frame, View
from mmext.models.segmentation.segmentor_ops import (mc_probabilities,
                                                     resize_logits,
                                                     view_probabilities)
from mmext.models.teachers import GroupEMA, stochastic_restore
from mmext.models.uncertainty import uncertainty_map
from mmext.utils.random import RandomSource
from rows import Rows
from timing import best

ACDC = (1080, 1920)
VIEWS = [(270, 480), (405, 720), (540, 960), (675, 1200), (810, 1440),
         (945, 1680), (1080, 1920)]
COUNT = 518


def placement() -> Dict[str, float]:
    """Resize to seven views and select, at ACDC's sizes."""
    torch.manual_seed(0)
    u = torch.nn.functional.interpolate(
        torch.rand(1, 1, 68, 120), size=ACDC, mode='bicubic')[0, 0]
    array = u.numpy()

    def ours():
        resizer = SplineResizer(u)
        return [place_prompts(resizer(size), COUNT) for size in VIEWS]

    def naive():
        return [
            np.argsort(
                ndimage.zoom(array, (s[0] / ACDC[0], s[1] / ACDC[1]),
                             order=3).ravel())[-COUNT:] for s in VIEWS
        ]

    return dict(ours=best(ours, 3), naive=best(naive, 1))


def segmentor(config: str) -> torch.nn.Module:
    """The benchmark's model, random weights."""
    init_default_scope('mmseg')
    from mmseg.registry import MODELS
    torch.manual_seed(0)
    return MODELS.build(Config.fromfile(config).model).eval()


def frame(height: int, width: int) -> Frame:
    """Six views of one random frame."""
    views = []
    for ratio in (0.75, 1., 1.25):
        size = (int(height * ratio), int(width * ratio))
        x = torch.randn(1, 3, *size)
        for flip in (False, True):
            views.append(
                View(
                    x.flip(-1) if flip else x,
                    dict(
                        img_shape=size,
                        ori_shape=(height, width),
                        flip=flip,
                        flip_direction='horizontal')))
    return Frame(views, (height, width))


def uncertainty(model: torch.nn.Module, view: View) -> Dict[str, float]:
    """Ten dropout passes: one head pass and ten classifiers, or ten heads."""
    size = view.size

    def ours():
        return uncertainty_map(
            mc_probabilities(model, view, view.x, size, 10, 0.5,
                             RandomSource(0)))

    @torch.no_grad()
    def naive():
        head = deepcopy(model.decode_head)
        head.dropout = torch.nn.Dropout(0.5).train()
        maps = []
        for _ in range(10):
            logits = head(model.extract_feat(view.x))
            maps.append(resize_logits(model, logits, view, size).softmax(1))
        return torch.stack(maps).var(0, unbiased=False).sum(1)

    return dict(ours=best(ours, 3), naive=best(naive, 1))


def restore(model: torch.nn.Module) -> Dict[str, float]:
    """Stochastic restore: drawing the chosen, or one number per scalar."""
    source = {k: v.clone() for k, v in model.state_dict().items()}
    rng = RandomSource(0)

    @torch.no_grad()
    def naive():
        for name, param in model.named_parameters():
            mask = torch.rand(param.shape) < 0.01
            param.data = torch.where(mask, source[name], param)

    return dict(
        ours=best(lambda: stochastic_restore(model, source, 0.01, rng), 3),
        naive=best(naive, 3))


def step(model: torch.nn.Module, data: Frame) -> Dict[str, float]:
    """One whole SVDP step, and the forward passes that it cannot avoid."""
    method = SVDP(reference_view=2)
    student = deepcopy(model)
    method.prepare(student, data.views[2].size, 0)
    source = {k: v.clone() for k, v in student.state_dict().items()}
    optim = build_optim_wrapper(
        student,
        dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-5)))
    method.start(student, GroupEMA(student, **method.teacher_options()),
                 source)

    def floor():
        for view in data.views:  # the teacher
            view_probabilities(model, [view], view.x, data.ori_shape)
        view = data.views[2]
        view_probabilities(model, [view], view.x, data.ori_shape)  # anchor
        with torch.no_grad():
            model.extract_feat(view.x)  # dropout passes
        logits = model.decode_head(model.extract_feat(view.x))
        resize_logits(model, logits, view, data.ori_shape).sum().backward()
        model.zero_grad()

    return dict(
        ours=best(lambda: method.step(data, optim), 3), naive=best(floor, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description='Benchmark SVDP')
    parser.add_argument('--out', required=True, help='JSON file to write')
    parser.add_argument(
        '--config',
        default='configs/_base_/models/segformer_mit-b0.py',
        help='model config')
    parser.add_argument(
        '--size', nargs=2, type=int, default=[256, 512], metavar=('H', 'W'))
    args = parser.parse_args()

    model = segmentor(args.config)
    data = frame(*args.size)
    rows = Rows(digits=3)
    parts = [('placement_speedup_over_scipy', placement(), 4.),
             ('mc_dropout_speedup_over_full_passes',
              uncertainty(model, data.views[2]), 2.),
             ('restore_speedup_over_dense_draws', restore(model), 1.)]
    for name, times, target in parts:
        rows.add(name, times['naive'] / times['ours'], 'x', target, more=True)
    times = step(model, data)
    rows.add('step_over_unavoidable_passes', times['ours'] / times['naive'],
             'x', 1.5)
    rows.add('step_seconds', times['ours'], 's')
    rows.write(args.out)


if __name__ == '__main__':
    main()
