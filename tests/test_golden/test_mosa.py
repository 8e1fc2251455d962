# Copyright (c) mmext contributors. All rights reserved.
"""MoSA against numbers recorded from the authors' code.

The folder is ``$MMEXT_GOLDEN/mosa``; scenario files are found by their
``meta_json``, and styles, shares, sizes and the number of modules are read
from them, so that another recording of the same format works too. Updates
are compared as after minus before, since final values alone would agree
when nothing moved.
"""
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmpretrain')

from mmengine.registry import PARAM_SCHEDULERS  # noqa: E402
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample  # noqa: E402

from mmext.engine.optimizers import BertAdamW  # noqa: E402
from mmext.models.adapters import SplitLinear  # noqa: E402
from mmext.models.adapters.functional import (deep_alignment, module_masks,
                                              partition, sparse_mask,
                                              symmetric_kl)
from mmext.registry import MODELS  # noqa: E402
from mmext.utils.config_io import load_config  # noqa: E402

REPO = Path(__file__).parents[2]
ROOT = Path(
    os.environ.get('MMEXT_GOLDEN',
                   Path(__file__).parents[2].parent / 'shared' /
                   'golden')) / 'mosa'
FILES = sorted(ROOT.glob('*.npz'))
pytestmark = pytest.mark.skipif(
    not FILES,
    reason=f'no golden numbers in {ROOT}; set MMEXT_GOLDEN to the folder '
    'that holds mosa/')

SPLIT = dict(down='up', up='down', none='both')
GRANULARITY = dict(all='element', row='row', column='column')
STORAGES = ('compact', 'replicated')
# To this a second implementation reproduced the recordings.
ROUNDING = 2e-14


class Arrays(dict):
    """The arrays of one file; remembers which of them were read."""

    def __init__(self, path):
        with np.load(path) as file:
            super().__init__(
                (k, torch.from_numpy(np.asarray(file[k])))
                for k in file.files if file[k].dtype.kind != 'U')
        self.used = set()

    def __getitem__(self, key):
        self.used.add(key)
        return super().__getitem__(key)

    @property
    def unused(self):
        return sorted(set(self) - self.used)


def metas():
    found = {}
    for path in FILES:
        with np.load(path) as file:
            if 'meta_json' in file:
                found[path.stem] = json.loads(str(file['meta_json']))
    return found


METAS = metas()
TRAJECTORIES = [name for name, meta in METAS.items() if 'T' in meta]
SCENARIOS = [name for name in METAS if name not in TRAJECTORIES]
CACHE = {}


def arrays(name):
    if name not in CACHE:
        CACHE[name] = Arrays(ROOT / f'{name}.npz')
    return CACHE[name]


def close(actual, expected, tolerance=1e-9):
    """Within 1e-9, and within a tenth of the expected values' scale.

    What is smaller than the recordings' own rounding, such as the divergence
    of two passes that drew the same modules, is compared with zero.
    """
    expected = expected.double()
    scale = float(expected.abs().max()) if expected.numel() else 0.
    limit = max(min(tolerance, 0.1 * scale), ROUNDING) if scale else tolerance
    assert tuple(actual.shape) == tuple(expected.shape)
    error = (actual.detach().double() - expected).abs().max()
    assert float(error) <= limit


# The model of a file ---------------------------------------------------------


def host_config(meta):
    if meta['kind'] == 'swin':
        last = len(meta['depths']) - 1
        width = meta['hidden'] * 2**last
        return dict(
            type='ImageClassifier',
            backbone=dict(
                type='SwinTransformer',
                arch=dict(embed_dims=meta['hidden'], depths=meta['depths'],
                          num_heads=meta['heads']),
                img_size=meta['img'], patch_size=meta['patch'],
                window_size=meta['window'], out_indices=(last, ),
                drop_path_rate=0.,
                stage_cfgs=dict(block_cfgs=dict(
                    ffn_ratio=meta.get('mlp_ratio', 4)))),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=meta['classes'],
                      in_channels=width))
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='VisionTransformer',
            arch=dict(embed_dims=meta['hidden'], num_layers=meta['layers'],
                      num_heads=meta['heads'],
                      feedforward_channels=meta['mlp']),
            img_size=meta['img'], patch_size=meta['patch']),
        head=dict(type='LinearClsHead', num_classes=meta['classes'],
                  in_channels=meta['hidden']))


def adapter_config(meta):
    if meta['kind'] == 'mosl':
        return dict(type='LoRA', rank=meta['r'], scale=meta['scalar'],
                    targets=meta['mode'], o_reads='input')
    # Swin has one style, whatever its file says.
    style = 'AdaptFormer' if meta['kind'] == 'swin' else meta['style']
    options = dict(type=style, bottleneck=meta['r'], drop_rate=0.)
    if style == 'AdaptFormer':
        options['scale'] = meta['scalar']
    return options


def build(name, storage='compact', **kwargs):
    meta, data = METAS[name], arrays(name)
    init_default_scope('mmpretrain')
    options = dict(
        adapter=adapter_config(meta), num_modules=meta['N'],
        split=SPLIT.get(meta['share'], 'both'), storage=storage,
        split_bias=not meta.get('bias_shared_mask', True),
        loss=dict(
            kl_weight=meta['reg_weight'], aux_ce_weight=meta['add_weight'],
            deep_weight=0.01 * meta['reg_weight'] * meta.get('deepreg',
                                                             False)))
    options.update(kwargs)
    model = MODELS.build(
        dict(type='mmext.MoSAModel', module=host_config(meta), **options))
    model.double()
    weights = {
        ('head.fc' + k[len('w/head'):] if k.startswith('w/head.') else
         'backbone.' + k[len('w/'):]): data[k]
        for k in data if k.startswith('w/')
    }
    result = model.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys
    missing = [k for k in result.missing_keys if '.mosa.' not in k]
    assert all('relative_position_index' in k or 'attn_mask' in k
               for k in missing)
    return model


def place_of(meta, block, part):
    """Our path of the layer that a recorded name means."""
    if meta['kind'] != 'mosl':
        return f'backbone.{block}.mosa.default.{part}'
    letter = part.split('.')[0]
    layer = 'proj' if letter == 'o' else 'qkv'
    return f'backbone.{block}.attn.{layer}.mosa.default.{part}'


def entries(data, prefix):
    """Recorded tensors below a prefix, by (block, layer, kind)."""
    for key in data:
        if key.startswith(f'{prefix}/layers.') or \
                key.startswith(f'{prefix}/stages.'):
            _, block, tail = key.split('/')
            part, kind = tail.rsplit('.', 1)
            yield (block, part, kind), data[key]


def locate(model, meta, block, part):
    return model.module.get_submodule(place_of(meta, block, part))


def put_state(model, name, prefix='adapter'):
    """Load recorded adapters and their masks."""
    meta, data = METAS[name], arrays(name)
    with torch.no_grad():
        for (block, part, kind), value in entries(data, prefix):
            layer = locate(model, meta, block, part)
            value = value.double()
            if not isinstance(layer, SplitLinear):
                getattr(layer, kind).copy_(value)
                continue
            masks = data[f'mask/{block}/{part}.{kind}'].bool()
            put_split(layer, kind, value, masks)


def put_split(layer, kind, value, masks):
    owner = layer.owner_of(kind)
    if owner is None:
        assert masks.all()
        if layer.storage == 'compact':
            layer.bias.copy_(value)
        else:
            for parameter, own in zip(layer.biases, value):
                parameter.copy_(own)
        return
    assert (masks.sum(0) == 1).all()
    owner.copy_(masks.to(torch.uint8).argmax(0))
    if layer.storage == 'replicated':
        for parameter, own in zip(layer.parameters_of(kind), value):
            parameter.copy_(own)
        return
    chosen = value.gather(0, owner.long()[None])[0]
    layer.parameters_of(kind)[0].copy_(chosen)
    # Off their masks all modules hold one common value.
    other = ((owner.long() + 1) % len(value))[None]
    setattr(layer, 'bias_init' if kind == 'bias' else 'init',
            value.gather(0, other)[0].clone())


def head_key(model, kind):
    return getattr(model.head.fc, kind)


def samples(labels):
    return [DataSample().set_gt_label(int(y)) for y in labels]


def choice(meta, table):
    """Recorded indices in the order in which our adapters take them."""
    if meta['kind'] == 'mosl':  # recorded in the order of the mode's letters
        order = sorted(
            range(len(meta['mode'])),
            key=lambda i: 'qkvo'.index(meta['mode'][i]))
        table = table.unflatten(2, (-1, 2))[:, :, order]
    return table.reshape(table.shape[0], -1)


def run_step(model, meta, x, y, table):
    """Both passes with recorded indices; the losses, and the logits."""
    model.train()
    model.set_indices(choice(meta, table))
    logits = []
    handle = model.head.fc.register_forward_hook(
        lambda m, args, out: logits.append(out))
    losses = model(x.double(), samples(y), mode='loss')
    handle.remove()
    total, _ = model.parse_losses(losses)
    return losses, total, torch.cat(logits).chunk(2)


def keep_blocks(model):
    """Lists that the outputs of the transformer's blocks go to."""
    blocks = getattr(model.backbone, 'layers', [])
    hidden = [[] for _ in blocks]
    for block, outputs in zip(blocks, hidden):
        block.register_forward_hook(
            lambda m, args, out, outputs=outputs: outputs.append(out))
    return hidden


def eval_logits(model, x):
    model.eval()
    with torch.no_grad():
        return model(x.double())


# Scenario files --------------------------------------------------------------


@pytest.mark.parametrize('name', SCENARIOS)
@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('batched', [True, False])
def test_train_logits_and_losses(name, storage, batched):
    """Properties 7, 15: both passes and every term of the loss."""
    meta, data = METAS[name], arrays(name)
    model = build(name, storage, batch_passes=batched)
    put_state(model, name)
    hidden = keep_blocks(model)
    losses, total, logits = run_step(model, meta, data['x'], data['y'],
                                     data['choice'])
    for i in range(2):
        close(logits[i], data[f'train/logits{i + 1}'])
        if f'train/hidden{i + 1}' in data:
            passes = [torch.cat(outputs).chunk(2)[i] for outputs in hidden]
            close(torch.stack(passes), data[f'train/hidden{i + 1}'])
    close(losses['loss'], data['loss/ce1'])
    close(symmetric_kl(*logits), data['loss/kl_sym'])
    close(F.cross_entropy(logits[1], data['y']), data['loss/ce2'])
    terms = dict(loss_kl=('reg_weight', 'kl_sym'),
                 loss_aux=('add_weight', 'ce2'))
    if meta.get('deepreg'):
        first, second = ([torch.cat(outputs).chunk(2)[i]
                          for outputs in hidden] for i in range(2))
        value = 0.01 * deep_alignment(first[:6], second[:6], len(first))
        close(value, data['loss/deepreg'])
        terms['loss_deep'] = 'reg_weight', 'deepreg'
    for key, (weight, name) in terms.items():
        if meta[weight]:
            close(losses[key], meta[weight] * data[f'loss/{name}'])
        else:  # no such term
            assert key not in losses
    close(total, data['loss/total'])


@pytest.mark.parametrize('name', SCENARIOS)
@pytest.mark.parametrize('storage', STORAGES)
def test_every_block_uses_one_module(name, storage):
    """Property 7: ``train/logits_all_k``."""
    data = arrays(name)
    model = build(name, storage)
    put_state(model, name)
    model.train()
    for k, expected in enumerate(data['train/logits_all_k']):
        table = torch.where(model.drawing.sizes > 1, k, 0)[None]
        model.set_indices(table)
        close(model(data['x'].double()), expected)


@pytest.mark.parametrize('name', SCENARIOS)
@pytest.mark.parametrize('storage', STORAGES)
def test_eval_logits_and_merges(name, storage):
    """Properties 8, 9 and 34: every merge mode, and without adapters."""
    meta, data = METAS[name], arrays(name)
    for mode in ('mean', 'union', 'official_joint'):
        model = build(name, storage, merge=mode)
        put_state(model, name)
        close(eval_logits(model, data['x']), data[f'eval/logits_{mode}'])
        count = 0
        for (block, part, kind), value in entries(data, f'merged_{mode}'):
            layer = locate(model, meta, block, part)
            merged = layer.merged_bias() if kind == 'bias' else \
                layer.merged_weight()
            close(merged, value)
            count += 1
        split = [layer.kinds() for layer in model.split_layers().values()]
        assert count == (0 if mode == 'union' else sum(map(len, split)))
        model.merge()
        close(eval_logits(model, data['x']), data[f'eval/logits_{mode}'])
    with model.disable_adapters():
        close(eval_logits(model, data['x']), data['eval/logits_base'])


@pytest.mark.parametrize('name', SCENARIOS)
def test_plain_baseline(name):
    """The authors' plain adapter with the merged weights."""
    meta, data = METAS[name], arrays(name)
    adapter = adapter_config(meta)
    if adapter['type'] == 'AdaptFormer':
        adapter['act_cfg'] = dict(type='ReLU')
    if meta['kind'] == 'swin':
        adapter['scale'] = 1.
    if meta['kind'] == 'mosl':
        adapter['o_reads'] = 'context'
    model = build(name, num_modules=1, adapter=adapter)
    with torch.no_grad():
        for prefix in ('adapter', 'merged_mean'):
            for (block, part, kind), value in entries(data, prefix):
                parameter = getattr(locate(model, meta, block, part), kind)
                if parameter.shape == value.shape:
                    parameter.copy_(value)
    close(eval_logits(model, data['x']), data['eval/logits_standard'])


def gathered(layer, kind, k=None, grad=False):
    """Values or gradients of a recorded tensor, in the recorded layout."""
    if not isinstance(layer, SplitLinear):
        value = getattr(layer, kind)
        return value.grad if grad else value.detach()
    owner, n = layer.owner_of(kind), layer.num_modules
    if layer.storage == 'replicated':
        values = [
            (torch.zeros_like(p) if p.grad is None else p.grad)
            if grad else p.detach() for p in layer.parameters_of(kind)
        ]
        return torch.stack(values)
    parameter = layer.parameters_of(kind)[0]
    value = parameter.grad if grad else parameter.detach()
    if owner is None:
        return value
    init = layer.init_of(kind)
    rest = torch.zeros_like(value) if grad or init is None else init
    return torch.where(module_masks(owner, n), value, rest)


@pytest.mark.parametrize('name', SCENARIOS)
@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('batched', [True, False])
def test_masked_gradients(name, storage, batched):
    """Properties 15 and 16: ``grad/*``."""
    meta, data = METAS[name], arrays(name)
    model = build(name, storage, batch_passes=batched)
    put_state(model, name)
    _, total, _ = run_step(model, meta, data['x'], data['y'],
                           data['choice'])
    total.backward()
    count = 0
    for (block, part, kind), value in entries(data, 'grad'):
        layer = locate(model, meta, block, part)
        close(gathered(layer, kind, grad=True), value)
        count += 1
    assert count
    for kind in ('weight', 'bias'):
        close(head_key(model, kind).grad, data[f'grad_raw/head.{kind}'])


@pytest.mark.parametrize('name', SCENARIOS)
def test_raw_gradients(name, monkeypatch):
    """Property 15: ``grad_raw/*``, the gradient before it is masked."""
    meta, data = METAS[name], arrays(name)
    used = {}
    select = SplitLinear._select

    def keep(layer, kind, index):
        value = select(layer, kind, index)
        value.retain_grad()
        used.setdefault((layer, kind), []).append((index, value))
        return value

    monkeypatch.setattr(SplitLinear, '_select', keep)
    model = build(name)
    put_state(model, name)
    _, total, _ = run_step(model, meta, data['x'], data['y'],
                           data['choice'])
    total.backward()
    for (block, part, kind), value in entries(data, 'grad_raw'):
        layer = locate(model, meta, block, part)
        if not isinstance(layer, SplitLinear):
            close(getattr(layer, kind).grad, value)
            continue
        raw = torch.zeros_like(value)
        (index, tensor), = used[layer, kind]
        raw.index_add_(0, index, tensor.grad)
        close(raw, value)
        drawn = torch.zeros(len(value), dtype=torch.uint8)
        drawn[index] = 1
        assert torch.equal(drawn, data[f'has_grad/{block}/{part}'])


def official(model, meta):
    biases, others = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (biases if 'bias' in name else others).append(parameter)
    # The format's constants, unless the file has its own.
    options = dict(lr=meta['lr'], betas=(0.9, 0.999), eps=1e-6,
                   weight_decay=0.01)
    options.update(meta.get('optimizer', {}))
    return BertAdamW(
        [dict(params=others), dict(params=biases, weight_decay=0.)],
        lr=options['lr'], betas=options['betas'], eps=options['eps'],
        weight_decay=options['weight_decay'])


@pytest.mark.parametrize('name', SCENARIOS)
def test_one_optimizer_step(name):
    """Property 20: ``after1/*``, the moved distance included."""
    meta, data = METAS[name], arrays(name)
    model = build(name, 'replicated', inactive='skip')
    put_state(model, name)
    optimizer = official(model, meta)
    model.guard(optimizer)
    _, total, _ = run_step(model, meta, data['x'], data['y'],
                           data['choice'])
    total.backward()
    optimizer.step()
    moved = 0
    for (block, part, kind), value in entries(data, 'after1'):
        before = data[f'adapter/{block}/{part}.{kind}'].double()
        layer = locate(model, meta, block, part)
        close(gathered(layer, kind) - before, value - before)
        moved += bool((value != before).any())
    assert moved
    for kind in ('weight', 'bias'):
        before = data[f'w/head.{kind}'].double()
        close(head_key(model, kind).detach() - before,
              data[f'after1/head.{kind}'] - before)


# Trajectories ----------------------------------------------------------------


@pytest.mark.parametrize('name', TRAJECTORIES)
@pytest.mark.parametrize('run', ['none', 'zero_filled'])
def test_trajectory(name, run):
    """Properties 19 and 20: T steps under both treatments of gradients."""
    meta, data = METAS[name], arrays(name)
    model = build(name, 'replicated',
                  inactive='skip' if run == 'none' else 'zero_grad')
    put_state(model, name)
    optimizer = official(model, meta)
    model.guard(optimizer)
    for t in range(meta['T']):
        _, total, _ = run_step(model, meta, data['x'][t], data['y'][t],
                               data['choice'][t])
        close(total, data[f'{run}/loss'][t])
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    for key in data:
        if not key.startswith(f'{run}/final/'):
            continue
        value = data[key]
        short = key[len(f'{run}/final/'):]
        if short.startswith('head.'):
            kind = short.split('.')[1]
            actual = head_key(model, kind).detach()
            before = data[f'w/{short}'].double()
        else:
            block, tail = short.split('/')
            part, kind = tail.rsplit('.', 1)
            actual = gathered(locate(model, meta, block, part), kind)
            before = data[f'adapter/{short}'].double()
        close(actual - before, value - before)
    for key in data:
        if key.startswith(f'{run}/adam_steps/'):
            _, _, block, tail = key.split('/')
            part, kind = tail.rsplit('.', 1)
            layer = locate(model, meta, block, part)
            steps = [
                int(optimizer.state[p]['step']) if optimizer.state.get(p)
                else 0 for p in layer.parameters_of(kind)
            ]
            assert steps == data[key].tolist()
    for mode in ('mean', 'official_joint', 'union'):
        for layer in model.split_layers().values():
            layer.merge_mode = mode
        close(eval_logits(model, data['x_eval']),
              data[f'{run}/eval_logits_{mode}'])


# Masks and single functions --------------------------------------------------


def needs(file):
    return pytest.mark.skipif(
        not (ROOT / file).is_file(), reason=f'no {file} in {ROOT}')


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
    z1, z2 = (data[f'kl/logits{i}'].double().requires_grad_()
              for i in (1, 2))
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
    h1, h2 = (data[f'deepreg/hidden{i}'].double().requires_grad_()
              for i in (1, 2))
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
    optimizer = BertAdamW([param], lr=0.05,
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
    cosine = dict(type='CosineAnnealingLR', T_max=total - warmup, eta_min=0,
                  by_epoch=True, begin=warmup, end=total)
    linear = dict(type='LinearLR', start_factor=1e-8, by_epoch=True, begin=0,
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
        warmup, total = (int(part.strip('warmuptotal'))
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


def test_every_array_was_read(request):
    """No file, and no array of one, is passed over by the tests above."""
    here = [i for i in request.session.items if i.module is request.module]
    functions = {
        name for name, value in vars(request.module).items()
        if name.startswith('test_') and callable(value)
    }
    chosen = request.config.getoption('keyword') or \
        {i.originalname for i in here} != functions
    shared_out = hasattr(request.config, 'workerinput')  # by pytest-xdist
    if chosen or shared_out or here[-1] is not request.node or \
            request.session.testsfailed:
        pytest.skip('needs all tests of this file, in order, passed, in one '
                    'process')
    unused = {path.stem: arrays(path.stem).unused for path in FILES}
    assert not {name: keys for name, keys in unused.items() if keys}
