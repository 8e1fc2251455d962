# Copyright (c) mmext contributors. All rights reserved.
"""Gradients, updates and what training must leave alone."""
import copy
import functools
from functools import partial

import pytest
import torch
import torch.nn as nn
import torch.utils.checkpoint

pytest.importorskip('mmpretrain')

from mmengine.optim import OptimWrapper  # noqa: E402
from mmengine.runner.activation_checkpointing import \
    turn_on_activation_checkpointing  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402

from mmext.models.adapters.functional import deep_alignment  # noqa: E402
from mmext.models.adapters.functional import module_masks  # noqa: E402
from mmext.utils.user_error import ConfigError  # noqa: E402
from ...tiny_classifiers import (adaptformer, batch, build, swin,  # noqa: E402
                                 total_loss, vit)

STORAGES = ('compact', 'replicated')


def trained(model):
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def modules_of(layer, values):
    """Gradients or changes of a layer's weight, one tensor per module."""
    if layer.storage == 'replicated':
        return [torch.zeros_like(layer.weights[0]) if v is None else v
                for v in values]
    value, = values
    return list(torch.where(module_masks(layer.owner, layer.num_modules),
                            value, 0.))


def snapshot(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def only_drawn(model, values):
    """Whether ``values`` (by layer) vanish off masks and off the draws."""
    for draw, drawn in zip(model.drawing.draws, model.drawing.drawn):
        if draw.num_modules == 1:
            continue
        layer = draw.layer
        masks = module_masks(layer.owner, layer.num_modules)
        for k, value in enumerate(modules_of(layer, values(layer))):
            allowed = masks[k] if k in drawn else torch.zeros_like(masks[k])
            assert not value[~allowed].any()


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('batched', [True, False])
def test_gradients_stay_on_drawn_masks(storage, batched):
    """Property 16: exactly zero elsewhere."""
    model = build(split='both', storage=storage, perturb=True,
                  batch_passes=batched)
    x, samples = batch(model)
    model.train().set_indices(torch.tensor([[0, 1, 2, 3], [0, 2, 1, 3]]))
    total_loss(model, x, samples).backward()
    only_drawn(model, lambda layer: [
        p.grad for p in layer.parameters_of('weight')])
    layer = next(iter(model.split_layers().values()))
    assert any(p.grad is not None and p.grad.any()
               for p in layer.parameters_of('weight'))


def changed(model, before, layer):
    names = {id(p): n for n, p in model.named_parameters()}
    return [p.detach() - before[names[id(p)]]
            for p in layer.parameters_of('weight')]


@pytest.mark.parametrize('storage', STORAGES)
def test_one_step_moves_owned_elements_only(storage):
    """Property 17: without weight decay, exactly."""
    model = build(split='both', storage=storage, perturb=True)
    x, samples = batch(model)
    optimizer = torch.optim.AdamW(trained(model).values(), lr=0.1,
                                  weight_decay=0.)
    before = snapshot(model)
    model.train().set_indices(torch.tensor([[0, 1, 2, 3], [0, 2, 1, 3]]))
    total_loss(model, x, samples).backward()
    optimizer.step()
    only_drawn(model, lambda layer: changed(model, before, layer))


@pytest.mark.parametrize('storage', STORAGES)
def test_weight_decay_off_the_mask(storage):
    """Property 18: replicated modules shrink by 1 - lr * wd off their
    masks; compact ones do not change there at all."""
    model = build(split='down', storage=storage, num_modules=2)
    x, samples = batch(model)
    layer = next(iter(model.split_layers().values()))
    masks = module_masks(layer.owner, 2)
    before = [layer.modules_weight(k).detach().clone() for k in range(2)]
    optimizer = torch.optim.AdamW(trained(model).values(), lr=0.1,
                                  weight_decay=0.5)
    model.train().set_indices(torch.tensor([[0, 0, 0, 0], [1, 0, 1, 0]]))
    total_loss(model, x, samples).backward()
    optimizer.step()
    factor = 1 - 0.1 * 0.5 if storage == 'replicated' else 1.
    for k in range(2):
        torch.testing.assert_close(
            layer.modules_weight(k).detach()[~masks[k]],
            before[k][~masks[k]] * factor, rtol=0, atol=1e-15)


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('inactive', ['skip', 'zero_grad'])
def test_undrawn_modules(storage, inactive):
    """Property 19: ``skip`` leaves weights, moments and (replicated) the
    step counter; ``zero_grad`` moves them by their momentum."""
    model = build(split='both', storage=storage, inactive=inactive,
                  perturb=True, num_modules=3)
    x, samples = batch(model)
    optimizer = torch.optim.AdamW(trained(model).values(), lr=0.1)
    model.guard(optimizer)
    layer = next(iter(model.split_layers().values()))
    parts = layer.parameters_of('weight')
    mask = module_masks(layer.owner, 3)[0]

    biases = layer.parameters_of('bias')

    def state_of_zero():
        of_bias = [biases[0], *(optimizer.state[biases[0]][key]
                                for key in ('exp_avg', 'exp_avg_sq'))]
        if storage == 'compact':  # one row for each module
            of_bias = [value[0] for value in of_bias]
        return [parts[0].detach()[mask].clone()] + [
            optimizer.state[parts[0]][key][mask].clone()
            for key in ('exp_avg', 'exp_avg_sq')
        ] + [value.detach().clone() for value in of_bias]

    def step(k):
        model.train().set_indices(torch.full((2, 4), k))
        optimizer.zero_grad()
        total_loss(model, x, samples).backward()
        optimizer.step()

    step(0)
    before = state_of_zero()
    step(1)
    after = state_of_zero()
    same = [torch.equal(a, b) for a, b in zip(before, after)]
    assert same == [inactive == 'skip'] * 6
    if storage == 'replicated':
        steps = [int(optimizer.state[p]['step']) if optimizer.state.get(p)
                 else 0 for p in parts]
        assert steps == ([1, 1, 0] if inactive == 'skip' else [2, 1, 0])


@pytest.mark.parametrize('kind', ['SGD', 'Adam'])
def test_decay_creates_no_momentum_of_undrawn_modules(kind):
    """Property 19 in the first step, which creates the moments."""
    model = build(split='down', inactive='skip', perturb=True,
                  num_modules=2)
    x, samples = batch(model)
    options = dict(momentum=0.9) if kind == 'SGD' else {}
    optimizer = getattr(torch.optim, kind)(
        trained(model).values(), lr=0.1, weight_decay=0.1, **options)
    model.guard(optimizer)
    model.train().set_indices(torch.zeros(2, 4))
    total_loss(model, x, samples).backward()
    optimizer.step()
    for layer in model.split_layers().values():
        weight, = layer.parameters_of('weight')
        for value in optimizer.state[weight].values():
            if value.shape == weight.shape:
                assert not value[layer.owner == 1].any()
                assert value[layer.owner == 0].any()


@pytest.mark.parametrize('stages', [0, 1])
def test_stages_that_the_host_freezes(stages):
    """``frozen_stages`` of a Swin freezes its own weights, no adapters."""
    model = build(swin(frozen_stages=stages))
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    model.train()
    assert {name: p.requires_grad
            for name, p in model.named_parameters()} == before
    x, samples = batch(model, size=32)
    total_loss(model, x, samples).backward()
    assert all(p.grad is not None for p in trained(model).values())


def test_losses_of_their_own():
    """Two passes would replace the loss of such a head, so they refuse."""
    arc = vit()
    arc['head'] = dict(type='ArcFaceClsHead', num_classes=5, in_channels=16)
    x, samples = batch(build(arc))
    with pytest.raises(ConfigError, match='Set num_passes=1'):
        total_loss(build(arc), x, samples)
    assert total_loss(build(arc, num_passes=1), x, samples) > 0
    labels = vit()
    labels['head'] = dict(type='MultiLabelLinearClsHead', num_classes=5,
                          in_channels=16)
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


def test_zero_gradient_follows_the_plain_optimizer():
    """Property 19: a compact tensor under ``zero_grad`` is what any
    optimizer makes of its gradients."""
    model = build(perturb=True)
    x, samples = batch(model)
    layer = next(iter(model.split_layers().values()))
    twin = nn.Parameter(layer.weight.detach().clone())
    optimizer = torch.optim.AdamW(trained(model).values(), lr=0.1)
    model.guard(optimizer)
    reference = torch.optim.AdamW([twin], lr=0.1)
    for _ in range(4):
        model.train().draw()
        optimizer.zero_grad()
        total_loss(model, x, samples).backward()
        twin.grad = layer.weight.grad.clone()
        optimizer.step()
        reference.step()
    assert torch.equal(layer.weight, twin)


def test_the_backbone_is_not_touched():
    """Property 21: no gradient, no state, no change, no decay."""
    model = build(perturb=True)
    x, samples = batch(model)
    frozen = {n: p for n, p in model.named_parameters()
              if not p.requires_grad}
    assert frozen and not any('.mosa.' in n or 'head' in n for n in frozen)
    before = {n: p.detach().clone() for n, p in frozen.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        total_loss(model.train(), x, samples).backward()
        optimizer.step()
    assert all(p.grad is None for p in frozen.values())
    assert not any(p in optimizer.state for p in frozen.values())
    assert all(torch.equal(p, before[n]) for n, p in frozen.items())


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('wrapper', ['clip', 'amp', 'accumulate'])
def test_clipping_amp_accumulation(storage, wrapper):
    """Property 22: gradients and updates stay on the drawn masks."""
    model = build(split='both', storage=storage, perturb=True,
                  double=wrapper != 'amp', inactive='skip')
    x, samples = batch(model)
    optimizer = torch.optim.AdamW(trained(model).values(), lr=0.1,
                                  weight_decay=0.)
    model.guard(optimizer)
    count = 2 if wrapper == 'accumulate' else 1
    wrapped = OptimWrapper(
        optimizer, accumulative_counts=count,
        clip_grad=dict(max_norm=0.01) if wrapper == 'clip' else None)
    before = snapshot(model)
    expected = [set() for _ in model.drawing.draws]
    for i in range(count):
        model.train().draw()
        wrapped.initialize_count_status(model, i, count)
        with torch.autocast('cpu', enabled=wrapper == 'amp'):
            loss = total_loss(model, x, samples)
        for known, new in zip(expected, model.drawing.drawn):
            known |= new
        wrapped.update_params(loss)
    model.drawing.drawn = expected
    only_drawn(model, lambda layer: changed(model, before, layer))
    assert any((p.detach() != before[n]).any()
               for n, p in trained(model).items())


def test_infinite_gradients_do_not_leak():
    """Trap E14: selection, since inf * 0 would be NaN."""
    model = build(split='up', num_modules=2)
    layer = next(iter(model.split_layers().values()))
    layer.train()
    layer.index = torch.tensor([0])
    out = layer(torch.full((1, layer.in_features), 1e300,
                           dtype=torch.float64))
    (out * 1e300).sum().backward()
    assert not torch.isnan(layer.weight.grad).any()
    assert not layer.weight.grad[layer.owner == 1].any()


@pytest.mark.parametrize('blocks, expected', [(1, 1), (2, 2), (6, 3)])
def test_blocks_that_are_aligned(monkeypatch, blocks, expected):
    """``loss.deep_blocks``: the first of them, or all there are."""
    seen = []

    def spy(first, second, total):
        seen.append((len(first), len(second), total))
        return first[0].sum() * 0

    monkeypatch.setattr('mmext.models.adapters.two_pass.deep_alignment', spy)
    model = build(vit(layers=3), loss=dict(
        deep_weight=0.1, deep_blocks=blocks))
    x, samples = batch(model)
    total_loss(model.train(), x, samples)
    assert seen == [(expected, expected, 3)]


def checkpoint_blocks(model, reentrant):
    """What mmengine's ``activation_checkpointing`` option does."""
    if reentrant:
        turn_on_activation_checkpointing(
            model,
            [f'backbone.layers.{i}'
             for i, _ in enumerate(model.backbone.layers)])
        return
    for layer in model.backbone.layers:
        layer.forward = partial(
            torch.utils.checkpoint.checkpoint, layer.forward,
            use_reentrant=False)


@pytest.mark.parametrize('batched', [True, False])
@pytest.mark.parametrize('reentrant', [True, False])
@pytest.mark.parametrize('deep', [0., 0.1])
@pytest.mark.parametrize('adapter', [
    adaptformer(), dict(type='LoRA', rank=2, targets='qkvo')])
def test_activation_checkpointing(batched, reentrant, deep, adapter):
    """Property 22: the recomputed forward uses the modules of its pass; the
    frozen stem before the first block does not cut the gradients off."""
    grads = []
    for recompute in (False, True):
        model = build(vit(layers=3), adapter, split='both', perturb=True,
                      batch_passes=batched, loss=dict(deep_weight=deep))
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
        model = build(swin(with_cp=with_cp, drop_path_rate=0.), split='both',
                      perturb=True, batch_passes=batched)
        x, samples = batch(model, size=32)
        model.train().draw()
        total_loss(model, x, samples).backward()
        grads.append({n: p.grad for n, p in trained(model).items()})
    for name, value in grads[0].items():
        torch.testing.assert_close(grads[1][name], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize('host, size, depth', [
    (vit(), 16, 2), (swin(drop_path_rate=0.), 32, 4)], ids=['vit', 'swin'])
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
        model = build(host, split='both', storage=storage, perturb=True,
                      batch_passes=batched,
                      loss=dict(aux_ce_weight=0.5, deep_weight=0.1,
                                deep_blocks=3))
        x, samples = batch(model, size=size)
        model.train().draw()
        losses = model(x, samples, mode='loss')
        model.parse_losses(losses)[0].backward()
        results.append((losses, {n: p.grad for n, p in
                                 trained(model).items()}))
    if depth == 4:  # the last of three is in the second, narrower stage
        assert aligned[0] == [(4, 64, 16), (4, 64, 16), (4, 16, 32)]
    assert aligned[0] == aligned[1]
    assert results[0][0]['loss_deep'].item() > 0
    assert results[0][0].keys() == results[1][0].keys() == {
        'loss', 'loss_kl', 'loss_aux', 'loss_deep'}
    for first, second in zip(*results):
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, rtol=0,
                                       atol=1e-12)


@pytest.mark.parametrize('device', [
    'cpu',
    pytest.param('cuda', marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(),
                           reason='needs a GPU, and --gpu')])])
@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('inactive', ['skip', 'zero_grad'])
def test_devices_agree(storage, device, inactive):
    """Property 5: masks, and trap E8: draws, of a CPU and of a GPU; a step
    on either device moves the same elements by the same amounts."""
    found = []
    for place in ('cpu', device):
        model = build(split='both', storage=storage, inactive=inactive,
                      perturb=True, loss=dict(deep_weight=0.1)).to(place)
        owners = {k: v for k, v in model.named_buffers()
                  if k.endswith('owner')}
        assert len(owners) == 4
        assert {v.device.type for v in owners.values()} == {place}
        x, samples = batch(model)
        x, samples = x.to(place), [s.to(place) for s in samples]
        optimizer = torch.optim.AdamW(trained(model).values(), lr=0.05)
        model.guard(optimizer)
        tables, losses = [], []
        for _ in range(3):
            model.train()
            tables.append(model.draw())
            for layer in model.split_layers().values():
                assert layer.index.device.type == place
            optimizer.zero_grad()
            loss = total_loss(model, x, samples)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        found.append((owners, torch.stack(tables), losses,
                      model.state_dict()))
    first, second = found
    for key, value in first[0].items():
        assert torch.equal(second[0][key].cpu(), value), key
    assert torch.equal(first[1], second[1])
    assert first[2] == pytest.approx(second[2], rel=0, abs=1e-9)
    for key, value in first[3].items():
        torch.testing.assert_close(
            second[3][key].cpu(), value, rtol=0, atol=1e-9)


def test_passes_have_dropout_of_their_own():
    """Trap E19: with one module the passes differ by dropout only."""
    model = build(num_modules=1, adapter=adaptformer(drop_rate=0.5),
                  perturb=True)
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


def test_one_module_and_one_pass_is_the_standard_adapter():
    """Property 35: the same trajectory as a plain adapter, bit for bit."""

    class Adapter(nn.Module):
        """The formula of specification a.1, written once more."""

        def __init__(self, source):
            super().__init__()
            for name in ('norm', 'down', 'up'):
                self.add_module(name, copy.deepcopy(getattr(source, name)))

        def forward(self, x):
            hidden = nn.functional.gelu(self.down(self.norm(x)))
            return self.up(hidden) * 0.1

    model = build(num_modules=1, num_passes=1, seed=3)
    other = build(num_modules=1, num_passes=1, seed=3)

    def block(layer, x):
        h = x + layer.attn(layer.ln1(x))
        identity = h + layer.plain(h)
        return layer.ffn(layer.ln2(h), identity=identity)

    for layer in other.backbone.layers:
        layer.plain = Adapter(layer.mosa['default'])
        layer.forward = functools.partial(block, layer)
    losses = []
    for m in (model, other):
        x, samples = batch(m)
        head = list(m.head.parameters())
        adapters = [p for n, p in m.named_parameters()
                    if ('.plain.' if m is other else '.mosa.') in n]
        optimizer = torch.optim.AdamW(head + adapters, lr=0.05)
        run = []
        for _ in range(4):
            optimizer.zero_grad()
            value = m.train().module.loss(x, samples)['loss']
            value.backward()
            optimizer.step()
            run.append(float(value.detach()))
        losses.append(run)
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]


def test_training_reduces_the_loss():
    """Property 35: and the merged model is about as good as a standard
    adapter with the same budget."""
    final = {}
    for n in (1, 4):
        model = build(num_modules=n, adapter=adaptformer(scale=1.))
        x, samples = batch(model, count=10)
        optimizer = torch.optim.AdamW(trained(model).values(), lr=0.02)
        model.guard(optimizer)
        losses = []
        for _ in range(40):
            optimizer.zero_grad()
            value = total_loss(model.train(), x, samples)
            value.backward()
            optimizer.step()
            losses.append(float(value.detach()))
        assert losses[-1] < 0.7 * losses[0]
        with torch.no_grad():
            predicted = model.eval()(x).argmax(1)
        truth = torch.tensor([int(s.gt_label) for s in samples])
        final[n] = float((predicted == truth).double().mean())
    assert final[4] >= final[1] - 0.2
