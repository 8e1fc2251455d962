# Copyright (c) mmext contributors. All rights reserved.
"""MoSA against numbers recorded from the authors' code.

The folder is ``$MMEXT_GOLDEN/mosa``; scenario files are found by their
``meta_json``, and styles, shares, sizes and the number of modules are read
from them, so that another recording of the same format works too. Updates
are compared as after minus before, since final values alone would agree
when nothing moved. What needs no scenario is in ``mosa_functions.py``.
:func:`test_every_array_was_read` fails if any file or array is passed over.
"""
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmpretrain')

from mmext.models.adapters import SplitLinear
from mmext.models.adapters.functional import deep_alignment, symmetric_kl
from .mosa_files import (FILES, METAS, ROOT, SCENARIOS, TRAJECTORIES, arrays,
                         close, entries)
from .mosa_functions import (test_defects_are_not_copied, test_losses,
                             test_masks, test_optimizer, test_schedule)
from .mosa_models import (adapter_config, build, eval_logits, gathered,
                          head_key, keep_blocks, locate, official, put_state,
                          run_step)

pytestmark = pytest.mark.skipif(
    not FILES,
    reason=f'no golden numbers in {ROOT}; set MMEXT_GOLDEN to the folder '
    'that holds mosa/')

STORAGES = ('compact', 'replicated')

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
    terms = dict(
        loss_kl=('reg_weight', 'kl_sym'), loss_aux=('add_weight', 'ce2'))
    if meta.get('deepreg'):
        first, second = ([
            torch.cat(outputs).chunk(2)[i] for outputs in hidden
        ] for i in range(2))
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


@pytest.mark.parametrize('name', SCENARIOS)
@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('batched', [True, False])
def test_masked_gradients(name, storage, batched):
    """Properties 15 and 16: ``grad/*``."""
    meta, data = METAS[name], arrays(name)
    model = build(name, storage, batch_passes=batched)
    put_state(model, name)
    _, total, _ = run_step(model, meta, data['x'], data['y'], data['choice'])
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
    _, total, _ = run_step(model, meta, data['x'], data['y'], data['choice'])
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


@pytest.mark.parametrize('name', SCENARIOS)
def test_one_optimizer_step(name):
    """Property 20: ``after1/*``, the moved distance included."""
    meta, data = METAS[name], arrays(name)
    model = build(name, 'replicated', inactive='skip')
    put_state(model, name)
    optimizer = official(model, meta)
    model.guard(optimizer)
    _, total, _ = run_step(model, meta, data['x'], data['y'], data['choice'])
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
        close(
            head_key(model, kind).detach() - before,
            data[f'after1/head.{kind}'] - before)


# Trajectories ----------------------------------------------------------------


@pytest.mark.parametrize('name', TRAJECTORIES)
@pytest.mark.parametrize('run', ['none', 'zero_filled'])
def test_trajectory(name, run):
    """Properties 19 and 20: T steps under both treatments of gradients."""
    meta, data = METAS[name], arrays(name)
    model = build(
        name, 'replicated', inactive='skip' if run == 'none' else 'zero_grad')
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
                int(optimizer.state[p]['step'])
                if optimizer.state.get(p) else 0
                for p in layer.parameters_of(kind)
            ]
            assert steps == data[key].tolist()
    for mode in ('mean', 'official_joint', 'union'):
        for layer in model.split_layers().values():
            layer.merge_mode = mode
        close(
            eval_logits(model, data['x_eval']),
            data[f'{run}/eval_logits_{mode}'])


def test_every_array_was_read(request):
    """No file, and no array of one, is passed over by the tests above."""
    here = [i for i in request.session.items if i.module is request.module]
    functions = {
        name
        for name, value in vars(request.module).items()
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
