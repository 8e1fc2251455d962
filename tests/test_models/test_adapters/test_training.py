# Copyright (c) mmext contributors. All rights reserved.
"""Training: what it leaves alone, on any device, as a standard adapter."""
import copy
import functools

import pytest
import torch
import torch.nn as nn

pytest.importorskip('mmpretrain')

from ...tiny_classifiers import adaptformer, batch, build, swin, total_loss
from .common import STORAGES, trained


@pytest.mark.parametrize('stages', [0, 1])
def test_stages_that_the_host_freezes(stages):
    """``frozen_stages`` of a Swin freezes its own weights, no adapters."""
    model = build(swin(frozen_stages=stages))
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    model.train()
    assert {
        name: p.requires_grad
        for name, p in model.named_parameters()
    } == before
    x, samples = batch(model, size=32)
    total_loss(model, x, samples).backward()
    assert all(p.grad is not None for p in trained(model).values())


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
    frozen = {n: p for n, p in model.named_parameters() if not p.requires_grad}
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


@pytest.mark.parametrize(
    'device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('inactive', ['skip', 'zero_grad'])
def test_devices_agree(storage, device, inactive):
    """Property 5: masks, and trap E8: draws, of a CPU and of a GPU; a step
    on either device moves the same elements by the same amounts."""
    found = []
    for place in ('cpu', device):
        model = build(
            split='both',
            storage=storage,
            inactive=inactive,
            perturb=True,
            loss=dict(deep_weight=0.1)).to(place)
        owners = {
            k: v
            for k, v in model.named_buffers() if k.endswith('owner')
        }
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
        found.append((owners, torch.stack(tables), losses, model.state_dict()))
    first, second = found
    for key, value in first[0].items():
        assert torch.equal(second[0][key].cpu(), value), key
    assert torch.equal(first[1], second[1])
    assert first[2] == pytest.approx(second[2], rel=0, abs=1e-9)
    for key, value in first[3].items():
        torch.testing.assert_close(
            second[3][key].cpu(), value, rtol=0, atol=1e-9)


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
        adapters = [
            p for n, p in m.named_parameters()
            if ('.plain.' if m is other else '.mosa.') in n
        ]
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
