# Copyright (c) mmext contributors. All rights reserved.
"""Files of adapters: saving, loading, resuming, starting from others."""
import json

import pytest
import torch

pytest.importorskip('mmpretrain')

from mmext.models.adapters import (AdapterError, load_adapter, load_standard,
                                   model_from_adapter, read_adapter,
                                   save_adapter)
from mmext.utils.user_error import ConfigError
from ...tiny_classifiers import (adaptformer, batch, build, move, total_loss,
                                 vit)
from .common import equal, fresh_host, scores, snapshot, trained

STYLES = [
    adaptformer(),
    dict(type='Pfeiffer', bottleneck=4),
    dict(type='Houlsby', bottleneck=4),
    dict(type='LoRA', rank=4, targets='qkvo'),
    adaptformer(scale=None)
]


@pytest.mark.parametrize('storage', ['compact', 'replicated'])
@pytest.mark.parametrize('style', STYLES)
def test_round_trip(tmp_path, style, storage):
    """Property 25: no backbone tensor, equal scores on a fresh backbone."""
    model = build(adapter=style, split='both', storage=storage, perturb=True)
    path = tmp_path / 'task'
    before = snapshot(model)
    weights = save_adapter(model, path)
    assert equal(before, snapshot(model))
    cfg, tensors = read_adapter(path)
    assert weights.parent == path and cfg['flavour'] == 'training'
    assert cfg['split']['num_modules'] == 4
    assert not [
        k for k in tensors
        if '.mosa.' not in k and not k.startswith(('head.', 'mosa_rng.'))
    ]
    x, _ = batch(model)
    other = build(adapter=style, split='both', storage=storage)
    assert load_adapter(other, path, resume=True) == 'default'
    assert torch.equal(scores(other, x), scores(model, x))
    assert equal(before, snapshot(other))
    assert torch.equal(other.draw(), model.draw())


def test_file_pair_and_wrapping_a_host(tmp_path):
    """``*.safetensors`` with ``*.json``; the file's options build a model."""
    model = build(
        perturb=True,
        double=False,
        inactive='skip',
        num_passes=1,
        loss=dict(kl_weight=0.5),
        merge='union')
    save_adapter(model, tmp_path / 'a.safetensors')
    assert {p.name for p in tmp_path.iterdir()} == {'a.safetensors', 'a.json'}
    other = model_from_adapter(fresh_host(), tmp_path / 'a.safetensors')
    x, _ = batch(model)
    assert torch.equal(scores(other, x), scores(model, x))
    assert other.inactive == 'skip' and other.loss_cfg['kl_weight'] == 0.5
    assert other.adapter_cfgs == model.adapter_cfgs


@pytest.mark.parametrize('style,per_block', [
    (adaptformer(), 2 * 16 * 4 + 4 + 16 + 2 * 16),
    (adaptformer(fixed_mask=True), 2 * 16 * 4 + 4 + 16 + 2 * 16),
    (dict(type='Houlsby', bottleneck=4), 2 * (2 * 16 * 4 + 4 + 16)),
    (dict(type='LoRA', rank=4), 4 * 16 * 4),
])
def test_merged_flavour(tmp_path, style, per_block):
    """Property 23: exactly the values of a standard adapter; the scores of
    the model it came from, merged or not."""
    model = build(adapter=style, split='both', perturb=True)
    save_adapter(model, tmp_path / 'a', merged=True)
    x, _ = batch(model)
    expected = scores(model, x)
    model.merge()
    save_adapter(model, tmp_path / 'b', merged=True)
    cfg, tensors = read_adapter(tmp_path / 'a')
    assert equal(tensors, read_adapter(tmp_path / 'b')[1])
    values = sum(v.numel() for k, v in tensors.items() if '.mosa.' in k)
    assert values == 2 * per_block
    assert cfg['flavour'] == 'merged'
    assert cfg['split']['num_modules'] == 1
    assert cfg['trained_with']['num_modules'] == 4
    torch.manual_seed(0)
    host = fresh_host().double()
    other = model_from_adapter(host, tmp_path / 'a', check=False)
    other.double()
    load_adapter(other, tmp_path / 'a')
    torch.testing.assert_close(scores(other, x), expected, rtol=0, atol=1e-12)
    with pytest.raises(AdapterError, match='training flavour'):
        load_adapter(other, tmp_path / 'a', resume=True)
    with pytest.raises(RuntimeError, match='unmerge'):
        if 'fixed_mask' in style:
            raise RuntimeError('a fixed mask has nothing to unmerge')
        save_adapter(model, tmp_path / 'c')


def run_steps(model, optimizer, count, start=0):
    for step in range(start, start + count):
        x, samples = batch(model)
        optimizer.zero_grad()
        total_loss(model.train(), x + step, samples).backward()
        optimizer.step()


@pytest.mark.parametrize('storage', ['compact', 'replicated'])
def test_resume_is_exact(tmp_path, storage):
    """Property 25: 2k steps are k steps, a file, and k steps."""

    def start(seed=0):
        model = build(split='both', storage=storage, seed=seed)
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=0.05)
        model.guard(optimizer)
        return model, optimizer

    model, optimizer = start()
    run_steps(model, optimizer, 3)
    save_adapter(model, tmp_path / 'a', optimizer=optimizer)
    run_steps(model, optimizer, 3, 3)
    other, second = start()
    run_steps(other, second, 1)
    load_adapter(other, tmp_path / 'a', resume=True, optimizer=second)
    run_steps(other, second, 3, 3)
    assert equal(snapshot(other), snapshot(model))
    few = torch.optim.AdamW(list(other.parameters())[:1])
    before = snapshot(other)
    with pytest.raises(AdapterError, match='another optimizer'):
        load_adapter(other, tmp_path / 'a', optimizer=few)
    assert equal(before, snapshot(other))
    config = tmp_path / 'a/adapter_config.json'
    cfg = json.loads(config.read_text())
    del cfg['optimizer']
    config.write_text(json.dumps(cfg))
    with pytest.raises(AdapterError, match='has no "optimizer"'):
        load_adapter(other, tmp_path / 'a', optimizer=second)
    assert equal(before, snapshot(other))


def test_resume_of_an_adapter_by_name(tmp_path):
    """Moments are those of the adapter that is saved, under any name."""
    model = build(split='both')
    model.add_adapter('cub')
    model.set_active('cub')
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.05)
    run_steps(model, optimizer, 3)
    save_adapter(model, tmp_path / 'cub', optimizer=optimizer)
    save_adapter(model, tmp_path / 'idle', 'default', optimizer=optimizer)
    moments = [
        k for k in read_adapter(tmp_path / 'idle')[1]
        if k.startswith('mosa_optimizer.')
    ]
    assert not moments
    with pytest.raises(ConfigError, match='merged adapter'):
        save_adapter(model, tmp_path / 'm', merged=True, optimizer=optimizer)
    run_steps(model, optimizer, 3, 3)
    other = build(split='both')
    second = torch.optim.AdamW(
        [p for p in other.parameters() if p.requires_grad], lr=0.05)
    load_adapter(
        other, tmp_path / 'cub', 'default', resume=True, optimizer=second)
    run_steps(other, second, 3, 3)
    mine = {
        k.replace('.mosa.cub.', '.mosa.default.'): v
        for k, v in trained(model).items()
    }
    assert mine and equal(mine, trained(other))
    with pytest.raises(AdapterError, match='another optimizer'):
        load_adapter(other, tmp_path / 'cub', optimizer=second)


def test_merged_file_of_a_single_target(tmp_path):
    """A target that is no list, with options of its own."""
    model = build(
        double=False,
        perturb=True,
        targets=dict(pattern='TransformerEncoderLayer', num_modules=2))
    save_adapter(model, tmp_path / 'a', merged=True)
    x, _ = batch(model)
    other = model_from_adapter(fresh_host(), tmp_path / 'a')
    torch.testing.assert_close(scores(other, x), scores(model, x))


def test_half_precision_backbone(tmp_path):
    """Adapters stay in float32 beside it, in the file as well."""
    model = build(perturb=True, double=False)
    for name, module in model.named_modules():
        if not name or 'mosa' in name.split('.') or list(module.children()):
            continue
        module.to(torch.bfloat16)
    save_adapter(model, tmp_path / 'a')
    dtypes = {
        v.dtype
        for k, v in read_adapter(tmp_path / 'a')[1].items()
        if '.mosa.' in k and v.is_floating_point()
    }
    assert dtypes == {torch.float32}


# From a standard adapter -----------------------------------------------------


@pytest.mark.parametrize('style', STYLES)
@pytest.mark.parametrize('storage', ['compact', 'replicated'])
def test_start_from_a_standard_adapter(tmp_path, style, storage):
    """Modules computed from a trained adapter give its scores, under each
    module alone as well, and train on from there."""
    standard = build(adapter=style, num_modules=1, perturb=True)
    x, samples = batch(standard)
    expected = scores(standard, x)
    save_adapter(standard, tmp_path / 'a')
    for source in (read_adapter(tmp_path / 'a')[1], standard.state_dict()):
        model = build(adapter=style, split='both', storage=storage)
        load_standard(model, source)  # with its head
        torch.testing.assert_close(
            scores(model, x), expected, rtol=0, atol=1e-12)
        with torch.no_grad():
            torch.testing.assert_close(
                model.train()(x), expected, rtol=0, atol=1e-12)
    total_loss(model, x, samples).backward()
    other = build(adapter=style, split='both', storage=storage)
    save_adapter(model, tmp_path / 'b')
    load_adapter(other, tmp_path / 'b')
    torch.testing.assert_close(scores(other, x), expected, rtol=0, atol=1e-12)


def test_a_standard_adapter_that_does_not_fit():
    model = build()
    head = dict(build(num_modules=1).state_dict())
    head['head.fc.bias'] = torch.zeros(3)
    before = snapshot(model)
    for wrong, text in ((build(vit(layers=1),
                               num_modules=1), 'is missing'), (build(
                                   adapter=adaptformer(bottleneck=5),
                                   num_modules=1), 'expected'),
                        (build(), 'not part of a standard adapter')):
        move(wrong)
        with pytest.raises(ValueError, match=text):
            load_standard(model, wrong.state_dict())
        assert equal(before, snapshot(model))
    with pytest.raises(ConfigError, match='head.fc.bias is .3,.*leave it out'):
        load_standard(model, head)
    assert equal(before, snapshot(model))
