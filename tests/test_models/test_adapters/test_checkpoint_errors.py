# Copyright (c) mmext contributors. All rights reserved.
"""Files of adapters that are refused: damaged, edited, of other models."""
import json
import re

import pytest
import torch

pytest.importorskip('mmpretrain')

from mmext.models.adapters import (AdapterError, load_adapter,
                                   model_from_adapter, read_adapter,
                                   save_adapter, slots)
from mmext.models.adapters.checkpoint import adapter_files
from mmext.utils.io import atomic_save, tensors_digest
from mmext.utils.user_error import MissingFileError, UserError
from ...tiny_classifiers import adaptformer, build, swin, vit
from .common import equal, fresh_host, snapshot


def rewrite(path, change=None, tensors=None):
    """Change the config or the tensors of an adapter, with a right digest."""
    cfg, old = read_adapter(path)
    weights, config = adapter_files(path)
    if tensors is not None:
        old = tensors(dict(old))
        atomic_save(old, weights)
        cfg['digest'] = tensors_digest(old)
    if change is not None:
        change(cfg)
    config.write_text(json.dumps(cfg))


@pytest.fixture
def saved(tmp_path):
    model = build(perturb=True, double=False)
    save_adapter(model, tmp_path / 'task')
    return tmp_path / 'task'


def refused(model, path, text, error=AdapterError, **options):
    """Loading fails with ``text``, in a message, and changes nothing."""
    before, modules = snapshot(model), [type(m) for m in model.modules()]
    names, state = model.adapter_names, model.draw_state()
    for name in (None, 'new'):
        with pytest.raises(error, match=text) as info:
            load_adapter(model, path, name=name, **options)
        assert isinstance(info.value, UserError)
    assert equal(before, snapshot(model))
    assert modules == [type(m) for m in model.modules()]
    assert names == model.adapter_names
    assert str(state) == str(model.draw_state())


@pytest.mark.parametrize('key, value, text', [
    ('flavour', 'xyz', 'expected training or merged'),
    ('backbone', {}, '"backbone" lacks'),
    ('host_keys', [[1]], 'no strings'),
    ('backbone', None, 'expected an object'),
    ('host_keys', None, 'expected a list'),
    ('optimizer', dict(numbers=dict(foo=1), groups=[]), 'STATE/PARAMETER'),
])
def test_edited_descriptions(tmp_path, key, value, text):
    save_adapter(build(), tmp_path / 'a')
    file = tmp_path / 'a/adapter_config.json'
    file.write_text(
        json.dumps(dict(json.loads(file.read_text()), **{key: value})))
    with pytest.raises(AdapterError, match=text):
        read_adapter(tmp_path / 'a')


def test_truncated_weights(tmp_path):
    weights = save_adapter(build(), tmp_path / 'a')
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(AdapterError, match='adapter_model.safetensors'):
        read_adapter(tmp_path / 'a')


def test_wrong_backbone(saved):
    refused(build(vit(layers=3), double=False), saved, 'another backbone')
    refused(build(swin(), double=False), saved, 'Model: SwinTransformer')
    other = build(double=False, seed=1)
    refused(other, saved, 'not those the adapter was trained on')
    assert load_adapter(other, saved, check=False) == 'default'
    host = fresh_host(seed=1)
    classes = [type(m) for m in host.modules()]
    with pytest.raises(AdapterError, match='not those'):
        model_from_adapter(host, saved)
    assert classes == [type(m) for m in host.modules()]
    assert not list(slots(host))


def test_missing_extra_and_misshapen_keys(saved):
    stem = 'backbone.layers.0.mosa.'

    def change(state):
        del state[f'{stem}up.owner']
        state[f'{stem}side.weight'] = torch.zeros(1)
        state[f'{stem}down.bias'] = torch.zeros(7)
        return state

    rewrite(saved, tensors=change)
    model = build(double=False)
    refused(model, saved, f'{stem}up.owner: missing')
    refused(model, saved, f'{stem}side.weight: not in the model')
    refused(model, saved, r'down.bias: file \(7,\), model \(4,\)')


def test_values_that_are_not_finite(saved):

    def spoil(state):
        state['backbone.layers.1.mosa.up.weight'][0, 0] = float('nan')
        return state

    rewrite(saved, tensors=spoil)
    refused(build(double=False), saved, 'not finite')
    model = build(double=False)
    with torch.no_grad():
        next(p for p in model.parameters()
             if p.requires_grad).fill_(float('inf'))
    with pytest.raises(AdapterError, match='nothing was written'):
        save_adapter(model, saved.parent / 'other')
    assert not (saved.parent / 'other').exists()


@pytest.mark.parametrize('options,text', [
    (dict(num_modules=2), 'split.num_modules: file 4, model 2'),
    (dict(split='both'), "split.split: file 'up', model 'both'"),
    (dict(merge='union'), "split.merge: file 'mean', model 'union'"),
    (dict(adapter=adaptformer(bottleneck=5)), 'adapter.bottleneck: file 4'),
    (dict(targets=['layers.0']), 'targets: file None'),
])
def test_other_options(saved, options, text):
    """Another N or split is refused under the same name; under a new one
    the adapter has its own options."""
    model = build(double=False, **options)
    before = snapshot(model)
    with pytest.raises(AdapterError, match=text):
        load_adapter(model, saved)
    assert equal(before, snapshot(model))
    assert load_adapter(model, saved, name='new') == 'new'
    assert model.active_adapter == 'default'


def test_other_number_of_classes(saved):
    """Not into an adapter that is there; a new one has a head of its own."""
    module = vit()
    module['head'] = dict(module['head'], num_classes=7)
    model = build(module, double=False)
    before = snapshot(model)
    with pytest.raises(AdapterError, match='another kind or size'):
        load_adapter(model, saved, check=False)
    assert equal(before, snapshot(model))
    load_adapter(model, saved, name='new', check=False)
    classes = vit()['head']['num_classes']
    assert len(model.mosa_tasks['new']['head'].fc.bias) == classes
    assert len(model.head.fc.bias) == 7
    # a head that differs in more than the classes is not made
    deep = dict(
        type='StackedLinearClsHead',
        num_classes=7,
        in_channels=module['head']['in_channels'],
        mid_channels=[8])
    refused_head = build(dict(module, head=deep), double=False)
    before = snapshot(refused_head)
    with pytest.raises(AdapterError):
        load_adapter(refused_head, saved, name='new', check=False)
    assert equal(before, snapshot(refused_head))


def test_files_that_are_no_adapter(saved, tmp_path):
    model = build(double=False)
    weights, config = adapter_files(saved)
    refused(model, tmp_path / 'nothing', 'there is no', MissingFileError)
    pickled = tmp_path / 'a.pth'
    torch.save(model.state_dict(), pickled)
    refused(model, pickled, 'pickle')
    content = weights.read_bytes()
    weights.write_bytes(pickled.read_bytes())
    refused(model, saved, 'is a pickle')
    weights.write_bytes(content[:-3])
    refused(model, saved, 'truncated', UserError)
    atomic_save({k: v for k, v in model.state_dict().items()}, weights)
    refused(model, saved, 'digest')
    weights.write_bytes(content)
    text = config.read_text()
    config.write_text(text[:50])
    refused(model, saved, 'not JSON')
    config.write_text('{"peft_type": "LORA"}')
    refused(model, saved, 'mmext-adapter')
    config.write_text(
        text.replace('"format_version": 1', '"format_version": 2'))
    refused(model, saved, 'format version 2')
    config.write_text(text.replace('"host_keys"', '"other"'))
    refused(model, saved, 'lacks host_keys')
    with pytest.raises(AdapterError, match='pickle'):
        save_adapter(model, tmp_path / 'a.bin')


@pytest.mark.parametrize('key,value,expected', [
    ('adapter', 'AdaptFormer', 'an object'),
    ('adapter', None, 'an object'),
    ('split', 'up', 'an object'),
    ('split', ['up'], 'an object'),
    ('model', 1, 'an object'),
    ('backbone', [], 'an object'),
    ('host_keys', 'head.fc', 'a list'),
    ('rng_seed', 'one', 'a whole number'),
    ('optimizer', [], 'an object with an object "numbers"'),
    ('optimizer', dict(groups=[]), 'an object with an object "numbers"'),
    ('name', 3, 'a string'),
])
def test_entry_of_another_kind(saved, key, value, expected):
    """A config that was edited by hand is refused as such."""
    rewrite(saved, lambda cfg: cfg.update({key: value}))
    text = re.escape(f'"{key}" is {value!r}, expected {expected}')
    refused(build(double=False), saved, text + '.*fetch or save')
    with pytest.raises(AdapterError, match=text):
        model_from_adapter(fresh_host(), saved)


def test_options_of_a_file_that_cannot_be_built(saved):

    def change(cfg):
        cfg['split']['num_modules'] = 10**6

    rewrite(saved, change)
    model = build(double=False)
    before = snapshot(model)
    with pytest.raises(AdapterError, match='cannot be put into this model'):
        load_adapter(model, saved, name='new')
    assert equal(before, snapshot(model))
    assert model.adapter_names == ['default']
