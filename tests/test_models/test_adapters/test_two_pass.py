# Copyright (c) mmext contributors. All rights reserved.
"""Two passes: their losses, in one batch or not, recomputed or not."""
from functools import partial

import pytest
import torch
import torch.utils.checkpoint

pytest.importorskip('mmpretrain')

from mmengine.runner.activation_checkpointing import \
    turn_on_activation_checkpointing
from mmpretrain.structures import DataSample

from mmext.models.adapters.functional import deep_alignment
from mmext.utils.user_error import ConfigError
from ...tiny_classifiers import (adaptformer, batch, build, swin, total_loss,
                                 vit)
from .common import STORAGES, trained


def test_losses_of_their_own():
    """Two passes would replace the loss of such a head, so they refuse."""
    arc = vit()
    arc['head'] = dict(type='ArcFaceClsHead', num_classes=5, in_channels=16)
    x, samples = batch(build(arc))
    with pytest.raises(ConfigError, match='Set num_passes=1'):
        total_loss(build(arc), x, samples)
    assert total_loss(build(arc, num_passes=1), x, samples) > 0
    labels = vit()
    labels['head'] = dict(
        type='MultiLabelLinearClsHead', num_classes=5, in_channels=16)
    samples = [DataSample().set_gt_label([i % 5, 4]) for i in range(4)]
    assert total_loss(build(labels), x, samples) > 0


def test_divergence_is_logged_without_its_term():
    """The ablation ``kl_weight=0`` shows what it leaves out."""
    with_term = build(perturb=True)
    without = build(perturb=True, loss=dict(kl_weight=0.))
    x, samples = batch(with_term)
    losses = []
    for model in (with_term, without):
        model.set_indices(torch.zeros(2, len(model.drawing.draws)).long())
        model.drawing.table[1] = 1
        model.set_indices(model.drawing.table)
        losses.append(model.train().loss(x, samples))
    assert 'loss_kl' not in losses[1] and 'kl' not in losses[0]
    assert not losses[1]['kl'].requires_grad
    assert torch.equal(losses[1]['kl'], losses[0]['loss_kl'].detach())
    total, log = without.parse_losses(losses[1])
    assert torch.equal(total, losses[1]['loss']) and log['kl'] > 0


@pytest.mark.parametrize('blocks, expected', [(1, 1), (2, 2), (6, 3)])
def test_blocks_that_are_aligned(monkeypatch, blocks, expected):
    """``loss.deep_blocks``: the first of them, or all there are."""
    seen = []

    def spy(first, second, total):
        seen.append((len(first), len(second), total))
        return first[0].sum() * 0

    monkeypatch.setattr('mmext.models.adapters.two_pass.deep_alignment', spy)
    model = build(
        vit(layers=3), loss=dict(deep_weight=0.1, deep_blocks=blocks))
    x, samples = batch(model)
    total_loss(model.train(), x, samples)
    assert seen == [(expected, expected, 3)]


def checkpoint_blocks(model, reentrant):
    """What mmengine's ``activation_checkpointing`` option does."""
    if reentrant:
        turn_on_activation_checkpointing(model, [
            f'backbone.layers.{i}' for i, _ in enumerate(model.backbone.layers)
        ])
        return
    for layer in model.backbone.layers:
        layer.forward = partial(
            torch.utils.checkpoint.checkpoint,
            layer.forward,
            use_reentrant=False)


@pytest.mark.parametrize('batched', [True, False])
@pytest.mark.parametrize('reentrant', [True, False])
@pytest.mark.parametrize('deep', [0., 0.1])
@pytest.mark.parametrize(
    'adapter',
    [adaptformer(), dict(type='LoRA', rank=2, targets='qkvo')])
def test_activation_checkpointing(batched, reentrant, deep, adapter):
    """Property 22: the recomputed forward uses the modules of its pass; the
    frozen stem before the first block does not cut the gradients off."""
    grads = []
    for recompute in (False, True):
        model = build(
            vit(layers=3),
            adapter,
            split='both',
            perturb=True,
            batch_passes=batched,
            loss=dict(deep_weight=deep))
        x, samples = batch(model)
        if recompute:
            checkpoint_blocks(model, reentrant)
        model.train().draw()
        loss = total_loss(model, x, samples)
        loss.backward()
        grads.append({n: p.grad for n, p in trained(model).items()})
    assert sum(g is not None for g in grads[0].values()) > 8
    for name, value in grads[0].items():
        torch.testing.assert_close(grads[1][name], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize('batched', [True, False])
def test_checkpointing_of_the_host(batched):
    """Property 22: ``with_cp=True`` of Swin."""
    grads = []
    for with_cp in (False, True):
        model = build(
            swin(with_cp=with_cp, drop_path_rate=0.),
            split='both',
            perturb=True,
            batch_passes=batched)
        x, samples = batch(model, size=32)
        model.train().draw()
        total_loss(model, x, samples).backward()
        grads.append({n: p.grad for n, p in trained(model).items()})
    for name, value in grads[0].items():
        torch.testing.assert_close(grads[1][name], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    'host, size, depth', [(vit(), 16, 2), (swin(drop_path_rate=0.), 32, 4)],
    ids=['vit', 'swin'])
@pytest.mark.parametrize('storage', STORAGES)
def test_batched_equals_in_sequence(storage, host, size, depth, monkeypatch):
    """One batch of both passes, or one pass after the other: the same.

    Specification b, B20: on Swin too blocks are aligned, in their order.
    """
    results, aligned = [], []

    def spy(first, second, total):
        aligned.append([tuple(h.shape) for h in first])
        assert total == depth and len(first) == len(second)
        assert not any(torch.equal(a, b) for a, b in zip(first, second))
        return deep_alignment(first, second, total)

    monkeypatch.setattr('mmext.models.adapters.two_pass.deep_alignment', spy)
    for batched in (True, False):
        model = build(
            host,
            split='both',
            storage=storage,
            perturb=True,
            batch_passes=batched,
            loss=dict(aux_ce_weight=0.5, deep_weight=0.1, deep_blocks=3))
        x, samples = batch(model, size=size)
        model.train().draw()
        losses = model(x, samples, mode='loss')
        model.parse_losses(losses)[0].backward()
        results.append((losses, {
            n: p.grad
            for n, p in trained(model).items()
        }))
    if depth == 4:  # the last of three is in the second, narrower stage
        assert aligned[0] == [(4, 64, 16), (4, 64, 16), (4, 16, 32)]
    assert aligned[0] == aligned[1]
    assert results[0][0]['loss_deep'].item() > 0
    assert results[0][0].keys() == results[1][0].keys() == {
        'loss', 'loss_kl', 'loss_aux', 'loss_deep'
    }
    for first, second in zip(*results):
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, rtol=0, atol=1e-12)


def test_passes_have_dropout_of_their_own():
    """Trap E19: with one module the passes differ by dropout only."""
    model = build(
        num_modules=1, adapter=adaptformer(drop_rate=0.5), perturb=True)
    x, samples = batch(model)
    losses = model.train()(x, samples, mode='loss')
    assert float(losses['loss_kl'].detach()) > 0


def test_each_loss_call_draws_again():
    """Without a hook the model draws for itself, once per loss."""
    model = build(perturb=True)
    x, samples = batch(model)
    tables = []
    for _ in range(6):
        model.train()(x, samples, mode='loss')
        tables.append(model.drawing.table.clone())
    assert len({tuple(t.flatten().tolist()) for t in tables}) > 1
    assert all(len(t) == 2 for t in tables)
