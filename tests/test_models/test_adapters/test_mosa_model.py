# Copyright (c) mmext contributors. All rights reserved.
"""The wrapped model: start, masks, merge, draws."""
import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

pytest.importorskip('mmpretrain')

from mmext.models.adapters import SplitLinear
from mmext.models.adapters.functional import module_masks
from ...tiny_classifiers import adaptformer, batch, build, move, total_loss

STYLES = dict(
    adaptformer=adaptformer(),
    pfeiffer=dict(type='Pfeiffer', bottleneck=4),
    houlsby=dict(type='Houlsby', bottleneck=4),
    lora=dict(type='LoRA', rank=4, targets='qkvo'))


def plain_logits(model, x):
    with torch.no_grad(), model.disable_adapters():
        return model.eval()(x)


def logits(model, x):
    with torch.no_grad():
        return model(x)


def owners(model):
    return {
        name: value
        for name, value in model.named_buffers() if name.endswith('owner')
    }


@pytest.mark.parametrize('style', STYLES)
@pytest.mark.parametrize('split', ['up', 'down', 'both'])
def test_a_new_adapter_adds_nothing(style, split):
    """Property 6: eval mode equals the frozen backbone and head."""
    model = build(adapter=STYLES[style], split=split)
    x, _ = batch(model)
    torch.testing.assert_close(
        logits(model.eval(), x), plain_logits(model, x), rtol=0, atol=1e-12)


def test_a_new_adapter_adds_nothing_in_training():
    """Property 6: with ``split='up'`` for every choice of modules."""
    model = build(num_modules=3)
    x, _ = batch(model)
    expected = plain_logits(model, x)
    model.train()
    for k in range(3):
        model.set_indices(torch.where(model.drawing.sizes > 1, k, 0)[None])
        torch.testing.assert_close(
            logits(model, x), expected, rtol=0, atol=1e-12)


def test_masks_of_a_model():
    """Property 5: differ between tensors, repeat for a seed, survive
    training, deepcopy, save and load."""
    model = build(split='both')
    first = {k: v.clone() for k, v in owners(model).items()}
    assert len(first) == 4
    tables = [v.flatten().tolist() for v in first.values()]
    assert all(a != b for i, a in enumerate(tables) for b in tables[:i])
    again = build(split='both', seed=9)
    assert all(torch.equal(v, first[k]) for k, v in owners(again).items())
    x, samples = batch(model)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.1)
    total_loss(model.train(), x, samples).backward()
    optimizer.step()
    copied = copy.deepcopy(model)
    other = build(split='both')
    with torch.no_grad():
        for value in owners(other).values():
            value.zero_()
        for layer in other.split_layers().values():
            layer.owner.copy_(
                torch.arange(layer.owner.numel()).view_as(layer.owner) % 4)
    other.load_state_dict(model.state_dict())
    for changed in (model, copied, other):
        assert all(
            torch.equal(v, first[k]) for k, v in owners(changed).items())


def test_copies_do_not_share():
    """Trap E31: blocks, and copies of a model, have tensors of their own."""
    model = build(split='both')
    copied = copy.deepcopy(model)
    assert copied.module is not model.module
    mine = {t.data_ptr() for t in model.state_dict().values()}
    assert len(mine) == len(model.state_dict())
    assert not mine & {t.data_ptr() for t in copied.state_dict().values()}
    move(copied)
    x, _ = batch(model)
    assert not torch.equal(logits(model.eval(), x), logits(copied.eval(), x))


@pytest.mark.parametrize('storage', ['compact', 'replicated'])
@pytest.mark.parametrize('mode', ['mean', 'union', 'official_joint'])
@pytest.mark.parametrize('style', STYLES)
def test_merged_equals_a_standard_adapter(style, mode, storage):
    """Property 9: loaded with the merged weights, same activation."""
    model = build(
        adapter=STYLES[style],
        split='both',
        storage=storage,
        merge=mode,
        perturb=True,
        split_bias=True,
        num_modules=3)
    x, _ = batch(model)
    merged = logits(model.eval(), x)
    plain = build(adapter=STYLES[style], num_modules=1)
    model.merge()
    state = model.state_dict()
    plain.load_state_dict(state)
    torch.testing.assert_close(
        logits(plain.eval(), x), merged, rtol=0, atol=1e-12)
    assert state.keys() == plain.state_dict().keys()


def test_merge_and_unmerge():
    """Property 26: idempotent, bit for bit, and no training in between."""
    model = build(split='both', perturb=True)
    x, samples = batch(model)
    before = copy.deepcopy(model.state_dict())
    parameters = [id(p) for p in model.parameters()]
    model.merge()
    first = copy.deepcopy(model.state_dict())
    model.merge()
    assert model.merged
    assert all(torch.equal(v, first[k]) for k, v in model.state_dict().items())
    with pytest.raises(RuntimeError, match='unmerge'):
        model.train()(x, samples, mode='loss')
    model.unmerge()
    assert not model.merged
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in after.items())
    assert sorted(parameters) == sorted(id(p) for p in model.parameters())


def layer_pair(split):
    torch.manual_seed(0)
    down = SplitLinear(6, 5, 3, name='d') if split == 'down' else \
        nn.Linear(6, 5)
    up = SplitLinear(5, 6, 3, name='u') if split == 'up' else nn.Linear(5, 6)
    for layer in (down, up):
        if isinstance(layer, SplitLinear):
            start = torch.zeros(6, 5) if split == 'up' else torch.randn(5, 6)
            layer.load_dense(start)
        move(layer.double())
    return down, up


def outputs(down, up, x, k):
    for layer in (down, up):
        if isinstance(layer, SplitLinear):
            layer.train()
            layer.index = torch.tensor([k])
    return up(F.gelu(down(x))).detach()


@pytest.mark.parametrize('split', ['up', 'down'])
def test_mean_merge_is_the_expectation(split):
    """Property 10: the mean of the modules' outputs if only up is split;
    not if down is split."""
    down, up = layer_pair(split)
    x = torch.randn(7, 6, dtype=torch.float64)
    mean = sum(outputs(down, up, x, k) for k in range(3)) / 3
    merged = up.eval()(F.gelu(down.eval()(x))).detach()
    error = float((merged - mean).abs().max())
    assert error < 1e-12 if split == 'up' else error > 1e-4
    if split == 'up':
        draws = torch.randint(0, 3, (4000, ))
        total = sum(
            int((draws == k).sum()) * outputs(down, up, x, k)
            for k in range(3)) / 4000
        assert float(
            (total - merged).abs().max()) < 0.1 * float(merged.abs().max())


def test_evaluation_is_deterministic():
    """Property 12: no draw in eval mode, equal results; a restored
    generator repeats a training forward."""
    model = build(perturb=True, adapter=adaptformer(drop_rate=0.1))
    x, samples = batch(model)
    model.draw()
    state = model.draw_state()
    saved = [v.clone() for v in state['rng']['generators'].values()]
    model.eval()
    assert torch.equal(logits(model, x), logits(model, x))
    after = model.draw_state()['rng']['generators'].values()
    assert all(torch.equal(a, b) for a, b in zip(after, saved))
    model.train()
    runs = []
    for _ in range(2):
        model.load_draw_state(state)
        model.draw()
        torch.manual_seed(0)
        runs.append(float(total_loss(model, x, samples).detach()))
        table = model.drawing.table
    assert runs[0] == runs[1]
    assert not torch.equal(model.draw(), table)


def test_draws_are_uniform_and_independent():
    """Property 13: chi-square over modules, blocks, projections, passes."""
    model = build(split='both', num_modules=4)
    tables = torch.stack([model.draw() for _ in range(1500)])
    flat = tables.flatten(1)
    # 3 degrees of freedom: 21.1 has a probability of 1e-4.
    for i in range(flat.size(1)):
        counts = torch.bincount(flat[:, i], minlength=4).double()
        assert float(((counts - 375)**2 / 375).sum()) < 21.1
        for j in range(i):
            pairs = torch.bincount(
                flat[:, i] * 4 + flat[:, j], minlength=16).double()
            # 15 degrees of freedom.
            expected = 1500 / 16
            assert float(((pairs - expected)**2 / expected).sum()) < 45


def test_tied_indices():
    """Property 13: one draw for both projections of an adapter."""
    model = build(split='both', tie_indices=True)
    table = torch.cat([model.draw() for _ in range(20)])
    assert torch.equal(table[:, 0], table[:, 1])
    assert torch.equal(table[:, 2], table[:, 3])
    assert not torch.equal(table[:, 0], table[:, 2])


def test_layer_order_of_draws():
    """Specification a.4 and a.9: four for Houlsby, A and B for LoRA."""
    model = build(adapter=STYLES['houlsby'])
    adapter = model.adapter_modules()['backbone.layers.0']
    assert [d.layer for d in adapter.draws()] == [
        adapter.attn.down, adapter.attn.up, adapter.ffn.down, adapter.ffn.up
    ]
    model = build(adapter=STYLES['lora'])
    first = [d.layer for d in model.drawing.draws[:8]]
    names = {module: name for name, module in model.named_modules()}
    assert [names[layer].split('default.')[1] for layer in first
            ] == ['q.A', 'q.B', 'k.A', 'k.B', 'v.A', 'v.B', 'o.A', 'o.B']


def test_wrong_indices():
    model = build()
    with pytest.raises(ValueError, match='take 4 indices'):
        model.set_indices(torch.zeros(2, 3))
    with pytest.raises(ValueError, match='0..N-1 with N=4'):
        model.set_indices(torch.full((2, 4), 4))


def test_initialisation_leaves_adapters_alone():
    """Property 30: ``init_weights`` after the insertion, as runners call
    it, and of a parent that has the model as a child."""
    model = build(perturb=True)
    before = copy.deepcopy(model.state_dict())
    model.init_weights()
    from mmengine.model import BaseModule

    class Parent(BaseModule):

        def __init__(self):
            super().__init__()
            self.student = model

    Parent().init_weights()
    assert all(
        torch.equal(v, before[k]) for k, v in model.state_dict().items())
    fresh = build()
    for layer in fresh.split_layers().values():
        assert not layer.weight.any()


def test_modules_differ_only_on_their_masks():
    """Specification a.3, on both storages."""
    for storage in ('compact', 'replicated'):
        model = build(split='down', storage=storage)
        layer = next(iter(model.split_layers().values()))
        start = layer.modules_weight(0).detach().clone()
        with torch.no_grad():
            for k, p in enumerate(layer.parameters_of('weight')):
                mask = module_masks(layer.owner, 4)[k] \
                    if storage == 'replicated' else True
                p.add_(torch.where(torch.as_tensor(mask), 1., 0.))
        for k in range(4):
            moved = layer.modules_weight(k) != start
            assert torch.equal(moved, module_masks(layer.owner, 4)[k])


def test_a_top_level_preprocessor_reaches_the_host():
    """Runners put ``data_preprocessor`` of a config beside ``module``."""
    cfg = dict(mean=[1., 2., 3.], std=[4., 5., 6.])
    model = build(data_preprocessor=cfg, double=False)
    assert model.data_preprocessor is model.module.data_preprocessor
    assert model.data_preprocessor.mean.flatten().tolist() == cfg['mean']
    with pytest.raises(ValueError, match='has its own'):
        build(model.module, data_preprocessor=cfg)
