# Copyright (c) mmext contributors. All rights reserved.
"""Channels-last weights in real runs."""
import os.path as osp

import pytest
import torch

pytest.importorskip('mmseg')

from mmext.utils.io import safe_load  # noqa: E402
from ..test_loops.common import (METHODS, SVDP,  # noqa: E402
                                 adaptation_config, assert_equal, interrupt,
                                 predictions, run, state)

HOOK = dict(type='mmext.ChannelsLastHook')


def config(folder, method=SVDP, hooks=(HOOK, ), **kwargs):
    cfg = adaptation_config(folder, method, count=1, **kwargs)
    cfg.custom_hooks = list(hooks)
    return cfg


def is_channels_last(weight):
    return weight.is_contiguous(memory_format=torch.channels_last) and \
        not weight.is_contiguous()


def test_strides_change_and_the_optimizer_keeps_its_parameters(tmp_path):
    runner = run(config(tmp_path))
    model = runner.model
    for network in (model, runner.train_loop.teacher_hook.teacher.module):
        assert is_channels_last(network.backbone.conv1.weight)
        assert is_channels_last(network.decode_head.conv_fuse.weight)
    stepped = [
        p for group in runner.optim_wrapper.param_groups
        for p in group['params']
    ]
    assert {id(p) for p in stepped} == {id(p) for p in model.parameters()}
    weight = model.backbone.conv1.weight
    moments = runner.optim_wrapper.optimizer.state[weight]['exp_avg']
    assert is_channels_last(moments) and moments.abs().max() > 0
    source = runner.train_loop.method.source['backbone.conv1.weight']
    assert not torch.equal(weight, source)


def test_results_agree_with_contiguous_weights(tmp_path):
    """One step, up to rounding; labels of the same pixels."""
    options = dict(type='mmext.CoTTA', reference_view=2, restore_prob=0.)
    runs = [
        run(config(tmp_path, options, hooks, domains=('fog', ), work=name,
                   save_predictions=True))
        for name, hooks in (('plain', ()), ('last', (HOOK, )))
    ]
    first, second = (predictions(runner) for runner in runs)
    for name, labels in first.items():
        assert (labels == second[name]).mean() > 0.999
    plain, last = (state(runner) for runner in runs)
    for key, value in plain.items():
        if isinstance(value, torch.Tensor) and 'exp_avg' in key:
            assert torch.allclose(value, last[key], rtol=1e-3, atol=1e-6), key


def test_resume_is_exact(tmp_path):
    """Property 37 with channels-last weights."""
    cfg = config(tmp_path, METHODS['cotta'], save_predictions=True)
    whole = run(cfg)
    part = run(interrupt(cfg, 1, 'part'))
    assert part.train_loop.iter == whole.train_loop.iter == 2
    assert_equal(state(whole), state(part))
    assert is_channels_last(part.model.backbone.conv1.weight)
    saved = safe_load(osp.join(part.work_dir, 'iter_2.pth'))
    plain = safe_load(osp.join(whole.work_dir, 'iter_2.pth'))
    assert_equal(dict(saved['state_dict']), dict(plain['state_dict']))
