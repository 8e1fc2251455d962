# Copyright (c) mmext contributors. All rights reserved.
"""Gradients and updates of modules: on their masks, where they were drawn."""
import pytest
import torch

pytest.importorskip('mmpretrain')

from mmengine.optim import OptimWrapper

from mmext.models.adapters.functional import module_masks
from ...tiny_classifiers import batch, build, total_loss
from .common import STORAGES, snapshot, trained


def modules_of(layer, values):
    """Gradients or changes of a layer's weight, one tensor per module."""
    if layer.storage == 'replicated':
        return [
            torch.zeros_like(layer.weights[0]) if v is None else v
            for v in values
        ]
    value, = values
    return list(
        torch.where(module_masks(layer.owner, layer.num_modules), value, 0.))


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
    model = build(
        split='both', storage=storage, perturb=True, batch_passes=batched)
    x, samples = batch(model)
    model.train().set_indices(torch.tensor([[0, 1, 2, 3], [0, 2, 1, 3]]))
    total_loss(model, x, samples).backward()
    only_drawn(model,
               lambda layer: [p.grad for p in layer.parameters_of('weight')])
    layer = next(iter(model.split_layers().values()))
    assert any(p.grad is not None and p.grad.any()
               for p in layer.parameters_of('weight'))


def changed(model, before, layer):
    names = {id(p): n for n, p in model.named_parameters()}
    return [
        p.detach() - before[names[id(p)]]
        for p in layer.parameters_of('weight')
    ]


@pytest.mark.parametrize('storage', STORAGES)
def test_one_step_moves_owned_elements_only(storage):
    """Property 17: without weight decay, exactly."""
    model = build(split='both', storage=storage, perturb=True)
    x, samples = batch(model)
    optimizer = torch.optim.AdamW(
        trained(model).values(), lr=0.1, weight_decay=0.)
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
    optimizer = torch.optim.AdamW(
        trained(model).values(), lr=0.1, weight_decay=0.5)
    model.train().set_indices(torch.tensor([[0, 0, 0, 0], [1, 0, 1, 0]]))
    total_loss(model, x, samples).backward()
    optimizer.step()
    factor = 1 - 0.1 * 0.5 if storage == 'replicated' else 1.
    for k in range(2):
        torch.testing.assert_close(
            layer.modules_weight(k).detach()[~masks[k]],
            before[k][~masks[k]] * factor,
            rtol=0,
            atol=1e-15)


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('inactive', ['skip', 'zero_grad'])
def test_undrawn_modules(storage, inactive):
    """Property 19: ``skip`` leaves weights, moments and (replicated) the
    step counter; ``zero_grad`` moves them by their momentum."""
    model = build(
        split='both',
        storage=storage,
        inactive=inactive,
        perturb=True,
        num_modules=3)
    x, samples = batch(model)
    optimizer = torch.optim.AdamW(trained(model).values(), lr=0.1)
    model.guard(optimizer)
    layer = next(iter(model.split_layers().values()))
    parts = layer.parameters_of('weight')
    mask = module_masks(layer.owner, 3)[0]

    biases = layer.parameters_of('bias')

    def state_of_zero():
        of_bias = [
            biases[0], *(optimizer.state[biases[0]][key]
                         for key in ('exp_avg', 'exp_avg_sq'))
        ]
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
        steps = [
            int(optimizer.state[p]['step']) if optimizer.state.get(p) else 0
            for p in parts
        ]
        assert steps == ([1, 1, 0] if inactive == 'skip' else [2, 1, 0])


@pytest.mark.parametrize('kind', ['SGD', 'Adam'])
def test_decay_creates_no_momentum_of_undrawn_modules(kind):
    """Property 19 in the first step, which creates the moments."""
    model = build(split='down', inactive='skip', perturb=True, num_modules=2)
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


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('wrapper', ['clip', 'amp', 'accumulate'])
def test_clipping_amp_accumulation(storage, wrapper):
    """Property 22: gradients and updates stay on the drawn masks."""
    model = build(
        split='both',
        storage=storage,
        perturb=True,
        double=wrapper != 'amp',
        inactive='skip')
    x, samples = batch(model)
    optimizer = torch.optim.AdamW(
        trained(model).values(), lr=0.1, weight_decay=0.)
    model.guard(optimizer)
    count = 2 if wrapper == 'accumulate' else 1
    wrapped = OptimWrapper(
        optimizer,
        accumulative_counts=count,
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
    assert any(
        (p.detach() != before[n]).any() for n, p in trained(model).items())


def test_infinite_gradients_do_not_leak():
    """Trap E14: selection, since inf * 0 would be NaN."""
    model = build(split='up', num_modules=2)
    layer = next(iter(model.split_layers().values()))
    layer.train()
    layer.index = torch.tensor([0])
    out = layer(torch.full((1, layer.in_features), 1e300, dtype=torch.float64))
    (out * 1e300).sum().backward()
    assert not torch.isnan(layer.weight.grad).any()
    assert not layer.weight.grad[layer.owner == 1].any()
