# Copyright (c) mmext contributors. All rights reserved.
"""Files of adapters: saving, loading, resuming, wrong files."""
import json
import re

import pytest
import torch

pytest.importorskip('mmpretrain')

from mmext.models.adapters import (AdapterError, load_adapter,  # noqa: E402
                                   load_standard, model_from_adapter,
                                   read_adapter, save_adapter, slots)
from mmext.models.adapters.checkpoint import adapter_files  # noqa: E402
from mmext.registry import MODELS  # noqa: E402
from mmext.utils.io import atomic_save, tensors_digest  # noqa: E402
from mmext.utils.user_error import ConfigError  # noqa: E402
from mmext.utils.user_error import MissingFileError, UserError
from ...tiny_classifiers import (adaptformer, batch, build, move,  # noqa: E402
                                 swin, total_loss, vit)

STYLES = [
    adaptformer(), dict(type='Pfeiffer', bottleneck=4),
    dict(type='Houlsby', bottleneck=4),
    dict(type='LoRA', rank=4, targets='qkvo'),
    adaptformer(scale=None)
]


def scores(model, x):
    with torch.no_grad():
        return model.eval()(x)


def snapshot(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def trained(model):
    return {k: v.detach() for k, v in model.named_parameters()
            if v.requires_grad}


def equal(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(v, second[k]) for k, v in first.items())


def fresh_host(seed=0):
    """The host that ``build(seed=seed)`` wraps."""
    torch.manual_seed(seed)
    host = MODELS.build(dict(vit(), _scope_='mmpretrain'))
    host.init_weights()
    return host


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
    assert not [k for k in tensors if '.mosa.' not in k
                and not k.startswith(('head.', 'mosa_rng.'))]
    x, _ = batch(model)
    other = build(adapter=style, split='both', storage=storage)
    assert load_adapter(other, path, resume=True) == 'default'
    assert torch.equal(scores(other, x), scores(model, x))
    assert equal(before, snapshot(other))
    assert torch.equal(other.draw(), model.draw())


def test_file_pair_and_wrapping_a_host(tmp_path):
    """``*.safetensors`` with ``*.json``; the file's options build a model."""
    model = build(perturb=True, double=False, inactive='skip', num_passes=1,
                  loss=dict(kl_weight=0.5), merge='union')
    save_adapter(model, tmp_path / 'a.safetensors')
    assert {p.name for p in tmp_path.iterdir()} == {
        'a.safetensors', 'a.json'}
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
    moments = [k for k in read_adapter(tmp_path / 'idle')[1]
               if k.startswith('mosa_optimizer.')]
    assert not moments
    with pytest.raises(ConfigError, match='merged adapter'):
        save_adapter(model, tmp_path / 'm', merged=True, optimizer=optimizer)
    run_steps(model, optimizer, 3, 3)
    other = build(split='both')
    second = torch.optim.AdamW(
        [p for p in other.parameters() if p.requires_grad], lr=0.05)
    load_adapter(other, tmp_path / 'cub', 'default', resume=True,
                 optimizer=second)
    run_steps(other, second, 3, 3)
    mine = {k.replace('.mosa.cub.', '.mosa.default.'): v
            for k, v in trained(model).items()}
    assert mine and equal(mine, trained(other))
    with pytest.raises(AdapterError, match='another optimizer'):
        load_adapter(other, tmp_path / 'cub', optimizer=second)


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
    file.write_text(json.dumps(dict(json.loads(file.read_text()),
                                    **{key: value})))
    with pytest.raises(AdapterError, match=text):
        read_adapter(tmp_path / 'a')


def test_truncated_weights(tmp_path):
    weights = save_adapter(build(), tmp_path / 'a')
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(AdapterError, match='adapter_model.safetensors'):
        read_adapter(tmp_path / 'a')


def test_merged_file_of_a_single_target(tmp_path):
    """A target that is no list, with options of its own."""
    model = build(double=False, perturb=True, targets=dict(
        pattern='TransformerEncoderLayer', num_modules=2))
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
    dtypes = {v.dtype for k, v in read_adapter(tmp_path / 'a')[1].items()
              if '.mosa.' in k and v.is_floating_point()}
    assert dtypes == {torch.float32}


# Wrong files -----------------------------------------------------------------


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
        next(p for p in model.parameters() if p.requires_grad).fill_(
            float('inf'))
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
    deep = dict(type='StackedLinearClsHead', num_classes=7,
                in_channels=module['head']['in_channels'], mid_channels=[8])
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
    config.write_text(text.replace('"format_version": 1',
                                   '"format_version": 2'))
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
    for wrong, text in ((build(vit(layers=1), num_modules=1), 'is missing'),
                        (build(adapter=adaptformer(bottleneck=5),
                               num_modules=1), 'expected'),
                        (build(), 'not part of a standard adapter')):
        move(wrong)
        with pytest.raises(ValueError, match=text):
            load_standard(model, wrong.state_dict())
        assert equal(before, snapshot(model))
    with pytest.raises(ConfigError, match='head.fc.bias is .3,.*leave it out'):
        load_standard(model, head)
    assert equal(before, snapshot(model))
