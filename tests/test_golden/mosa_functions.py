# Copyright (c) mmext contributors. All rights reserved.
"""Masks, losses, the optimizer and the schedule against recorded ones."""
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import PARAM_SCHEDULERS

from mmext.engine.optimizers import BertAdamW
from mmext.models.adapters.functional import (deep_alignment, module_masks,
                                              partition, sparse_mask,
                                              symmetric_kl)
from mmext.utils.config_io import load_config
from .mosa_files import arrays, close, needs

REPO = Path(__file__).parents[2]
GRANULARITY = dict(all='element', row='row', column='column')


@needs('masks.npz')
def test_masks():
    """Property 3: the partition and the baseline's mask, bit for bit."""
    data = arrays('masks')
    count = 0
    for key in data:
        kind, tag, *rest = key.split('/')
        if kind == 'mask':
            n, mode = int(rest[0][1:]), rest[1]
            owner = partition(data[f'score/{tag}'], n, GRANULARITY[mode])
            assert torch.equal(module_masks(owner, n), data[key].bool()), key
            count += 1
        elif kind == 'prune':
            mask = sparse_mask(data[f'score/{tag}'], int(rest[0][1:]))
            assert torch.equal(mask, data[key].bool()), key
            count += 1
    assert count


@needs('masks.npz')
def test_defects_are_not_copied():
    """Property 4: a partition where the authors' code yields none."""
    data = arrays('masks')
    cases = {k.split('/')[1] for k in data if k.startswith('defect/')}
    for case in cases:
        n = int(re.search(r'N(\d+)', case)[1])
        owner = partition(data[f'defect/{case}/score'], n)
        sizes = torch.bincount(owner.flatten().long(), minlength=n)
        assert int(sizes.sum()) == owner.numel()
        assert int(sizes.max() - sizes.min()) <= 1
        theirs = f'defect/{case}/mask'
        if theirs in data:
            assert not torch.equal(
                module_masks(owner, n), data[theirs].bool()), case
        holders = f'defect/{case}/cover_count'
        if holders in data:
            assert bool((data[holders] != 1).any()), case


@needs('losses_optim.npz')
def test_losses():
    """Property 14: consistency, cross entropy and deep term."""
    data = arrays('losses_optim')
    z1, z2 = (data[f'kl/logits{i}'].double().requires_grad_() for i in (1, 2))
    value = symmetric_kl(z1, z2)
    close(value, data['kl/value'])
    for actual, i in zip(torch.autograd.grad(value, (z1, z2)), (1, 2)):
        close(actual, data[f'kl/grad_logits{i}'])
    single = symmetric_kl(data['kl/logits1'], data['kl/logits2'])
    # float32 rounds by the size of the value.
    close(single, data['kl/value_official_fp32'],
          1e-6 * max(1., float(data['kl/value'])))
    value = F.cross_entropy(z1, data['ce/targets'])
    close(value, data['ce/value'])
    close(torch.autograd.grad(value, z1)[0], data['ce/grad_logits1'])
    h1, h2 = (
        data[f'deepreg/hidden{i}'].double().requires_grad_() for i in (1, 2))
    value = 0.01 * deep_alignment(list(h1[:6]), list(h2[:6]), len(h1))
    close(value, data['deepreg/value'])
    for actual, i in zip(torch.autograd.grad(value, (h1, h2)), (1, 2)):
        close(actual, data[f'deepreg/grad_hidden{i}'])


@needs('losses_optim.npz')
@pytest.mark.parametrize('run', [
    'trajectory_zero_filled', 'trajectory_none',
    'trajectory_no_decay_all_active'
])
def test_optimizer(run):
    """Properties 18 and 20: the authors' AdamW, step by step."""
    data = arrays('losses_optim')
    assert not data['adamw/grads'][:, data['adamw/mask'] == 0].any()
    all_active = run.endswith('all_active')
    param = torch.nn.Parameter(data['adamw/param0'].double().clone())
    optimizer = BertAdamW([param],
                          lr=0.05,
                          weight_decay=0. if all_active else 0.01)
    before, started = data['adamw/param0'].double(), False
    for t, grad in enumerate(data['adamw/grads'].double()):
        active = all_active or bool(data['adamw/active'][t])
        started = started or active
        if active:
            param.grad = grad
        elif run.endswith('zero_filled') and started:
            param.grad = torch.zeros_like(param)
        else:
            param.grad = None
        optimizer.step()
        now = data[f'adamw/{run}'][t]
        close(param.detach() - before, now - before)


def schedule(warmup, total):
    """The recipes' translation of a warm-up and a cosine, in epochs."""
    cosine = dict(
        type='CosineAnnealingLR',
        T_max=total - warmup,
        eta_min=0,
        by_epoch=True,
        begin=warmup,
        end=total)
    linear = dict(
        type='LinearLR',
        start_factor=1e-8,
        by_epoch=True,
        begin=0,
        end=warmup + 1)
    return [linear, cosine] if warmup else [cosine]


@needs('losses_optim.npz')
@pytest.mark.stack_subset
def test_schedule():
    """Property 33: the multiplier of each epoch, to 1e-7; the shipped
    schedule is the same translation."""
    shipped = load_config(
        str(REPO / 'configs/_base_/schedules/peft_adamw_100e.py'))
    assert shipped.train_cfg.max_epochs == 100
    assert [dict(s) for s in shipped.param_scheduler] == schedule(10, 100)
    checked = 0
    data = arrays('losses_optim')
    for key in data:
        if not key.startswith('lr_multiplier/'):
            continue
        expected = data[key]
        warmup, total = (
            int(part.strip('warmuptotal'))
            for part in key.split('/')[1].split('_'))
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 1.)
        schedulers = [
            PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=optimizer))
            for s in schedule(warmup, total)
        ]
        assert len(expected) == total
        for value in expected:
            assert abs(optimizer.param_groups[0]['lr'] - float(value)) < 1e-7
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
        checked += 1
    assert checked
