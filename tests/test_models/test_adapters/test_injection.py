# Copyright (c) mmext contributors. All rights reserved.
"""Targets, what is trained, parameter counts and wrong configs."""
import pytest
import torch

pytest.importorskip('mmpretrain')

from mmext.models.adapters import detach, slots
from mmext.registry import MODELS
from mmext.utils.user_error import ConfigError
from ...tiny_classifiers import (adaptformer, batch, build, swin, total_loss,
                                 vit)
from .common import trainable


def test_targets_by_type_regex_and_suffix():
    """Per-target overrides; the first target that fits counts."""
    model = build(
        vit(layers=4),
        targets=[
            dict(pattern='layers.0', bottleneck=6),
            dict(
                pattern=r'backbone\.layers\.[12]', num_modules=2,
                split='both'),
        ])
    adapters = model.adapter_modules()
    assert list(adapters) == [f'backbone.layers.{i}' for i in range(3)]
    assert adapters['backbone.layers.0'].down.out_features == 6
    assert adapters['backbone.layers.1'].down.num_modules == 2
    everything = build(targets=['TransformerEncoderLayer'])
    assert len(everything.adapter_modules()) == 2
    x, samples = batch(model)
    total_loss(model.train(), x, samples).backward()


def test_a_target_that_matches_nothing():
    with pytest.raises(ValueError, match='backbone.layers.0') as error:
        build(targets=[dict(pattern='stages.0'), 'layers.1'])
    assert "['stages.0']" in str(error.value)
    assert 'TransformerEncoderLayer' in str(error.value)
    with pytest.raises(ValueError, match="'pattern'"):
        build(targets=[dict(type='layers.1')])


def test_a_host_without_blocks():
    resnet = dict(
        type='ImageClassifier',
        backbone=dict(type='LeNet5'),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=84))
    with pytest.raises(ValueError, match='no transformer block'):
        build(resnet)


@pytest.mark.parametrize('options,text', [
    (dict(adapter=dict(type='Adaptor')), 'AdaptFormer, Pfeiffer'),
    (dict(adapter=dict(type='Pfeiffer', scale=1.)), 'takes act_cfg'),
    (dict(adapter=adaptformer(act_cfg=dict(type='Gelu'))), 'torch.nn'),
    (dict(adapter=dict(type='LoRA', targets='qx')), "letters 'qkvo'"),
    (dict(adapter=dict(type='LoRA', targets='o', o_reads='out')),
     "'context' or 'input'"),
    (dict(split='none'), "'up', 'down', 'both'"),
    (dict(granularity='cell'), "'element', 'row', 'column'"),
    (dict(storage='dense'), "'compact', 'replicated'"),
    (dict(merge='sum'), "'mean', 'union'"),
    (dict(inactive='freeze'), "'zero_grad' or 'skip'"),
    (dict(num_passes=3), '1 or 2'),
    (dict(num_modules=0), 'positive integer'),
    (dict(num_modules=65), 'at most 64 modules'),
    (dict(num_modules=5, granularity='row'), 'each row'),
    (dict(num_modules=20, split='down', split_bias=True), 'down.bias'),
    (dict(loss=dict(kl=1.)), 'kl_weight'),
    (dict(targets=[dict(pattern='layers.0', rank=4)]), 'targets'),
    (dict(adapter=dict(type='SSF'), targets=['layers.0']), 'no targets'),
    (dict(targets=[]), 'targets is empty'),
    (dict(targets=['*.layers']), 'no regular expression.*Point|point'),
    (dict(targets=[0]), "'pattern'"),
    (dict(targets=[dict(pattern=0)]), "'pattern'"),
    (dict(train_head=['(head']), 'train_head.*no regular expression'),
    (dict(train_head='no'), "have 'no' in them. Set True or False"),
    (dict(adapter=adaptformer(bottleneck=0), num_modules=1), 'at least 1'),
    (dict(adapter=adaptformer(bottleneck='8')), 'adapter.bottleneck'),
    (dict(adapter=adaptformer(scale='0.1')), 'adapter.scale'),
    (dict(adapter=adaptformer(drop_rate=1.)), 'adapter.drop_rate'),
    (dict(adapter=adaptformer(act_cfg='GELU')), 'adapter.act_cfg'),
    (dict(adapter=dict(type='LoRA', rank=-1)), 'adapter.rank'),
    (dict(adapter=dict(type='LoRA', scale=None)), 'scale of LoRA'),
    (dict(adapter=dict(type='SSF', fixed_mask=True)), 'no effect on SSF'),
    (dict(loss=dict(kl_weight='1')), 'loss.kl_weight'),
    (dict(loss=dict(deep_blocks=0)), 'loss.deep_blocks'),
])
def test_wrong_options(options, text):
    """Every mistake says what was expected and what was given."""
    with pytest.raises(ValueError, match=text):
        build(**options)


@pytest.mark.parametrize('granularity, axis', [('row', 1), ('column', 0)])
def test_granularity_of_a_model(granularity, axis):
    """A module owns whole rows (columns) of every split layer."""
    model = build(
        adapter=adaptformer(bottleneck=8),
        num_modules=4,
        split='both',
        granularity=granularity)
    layers = model.split_layers()
    assert len(layers) == 4
    for layer in layers.values():
        shares = torch.stack([(layer.owner == k).sum(axis) for k in range(4)])
        # exactly as many of each row, or column, to every module
        assert (shares.max(0).values - shares.min(0).values).max() <= 1
    other = build(
        adapter=adaptformer(bottleneck=8), num_modules=4, split='both')
    assert any(not torch.equal(layer.owner,
                               other.split_layers()[name].owner)
               for name, layer in layers.items())


def test_an_error_leaves_the_host_alone():
    """All adapters are built before any is attached."""
    host = MODELS.build(dict(vit(), _scope_='mmpretrain'))
    before = {k: v.clone() for k, v in host.state_dict().items()}
    with pytest.raises(ValueError, match='at most 12'):
        build(
            host,
            targets=[
                dict(pattern='layers.0', num_modules=2),
                dict(
                    pattern='layers.1',
                    num_modules=13,
                    granularity='column',
                    bottleneck=12,
                    split='down')
            ])
    assert host.state_dict().keys() == before.keys()
    assert not list(slots(host))


def test_a_host_is_wrapped_once():
    """A second wrapper would replace the first one's adapters."""
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for module in (model, model.module,
                   dict(
                       type='mmext.MoSAModel',
                       module=vit(),
                       adapter=adaptformer())):
        with pytest.raises(ValueError, match='has adapters already'):
            build(module)
    assert all(
        torch.equal(v, before[k]) for k, v in model.state_dict().items())
    build(model.unload())


def test_head_patterns_that_name_nothing():
    with pytest.raises(ValueError, match="matches \\['classifier'\\]"):
        build(train_head=['head', 'classifier'])


def count(model):
    """Values of merged adapters, the head excluded."""
    model.merge()
    return sum(v.numel() for k, v in model.state_dict().items()
               if '.mosa.' in k)


@pytest.mark.parametrize('n', [1, 4])
@pytest.mark.parametrize('style,per_block', [
    (adaptformer(), 2 * 16 * 4 + 4 + 16 + 2 * 16),
    (dict(type='Pfeiffer', bottleneck=4), 2 * 16 * 4 + 4 + 16 + 2 * 16),
    (dict(type='Houlsby', bottleneck=4), 2 * (2 * 16 * 4 + 4 + 16)),
    (dict(type='LoRA', rank=4), 4 * 16 * 4),
])
def test_unique_parameters(style, per_block, n):
    """Property 23: the formulas of specification a.11 for a ViT block."""
    assert count(build(adapter=style, num_modules=n)) == 2 * per_block


def test_unique_parameters_of_swin():
    """Property 23: ``2 D r + r + D`` for a block of width D."""
    expected = 2 * sum(2 * d * 4 + 4 + d for d in (16, 32))
    assert count(build(swin())) == expected


def test_lora_branch_equals_changed_weights():
    """``delta_weight`` folded by hand gives the merged model; the published
    ``o`` branch cannot be folded."""
    adapter = dict(type='LoRA', rank=4, targets='qo', scale=0.5)
    model = build(adapter=adapter, perturb=True, split='both')
    x, _ = batch(model)
    expected = model.eval()(x).detach()
    with torch.no_grad(), model.disable_adapters():
        for name, part in model.adapter_modules().items():
            layer = model.module.get_submodule(name)
            layer.weight += part.delta_weight()
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
    quirk = build(adapter=dict(adapter, o_reads='input'), perturb=True)
    parts = quirk.adapter_modules()
    with pytest.raises(RuntimeError, match="o_reads='context'"):
        parts['backbone.layers.0.attn.proj'].delta_weight()


def test_head_and_other_names():
    """``train_head``: heads, nothing, or chosen patterns."""
    assert not any('head' in n for n in trainable(build(train_head=False)))
    names = trainable(build(train_head=['^head', 'cls_token']))
    assert 'backbone.cls_token' in names and 'head.fc.weight' in names
    # a text is one pattern, not one of each letter
    assert trainable(build(train_head='^head')) == \
        trainable(build(train_head=['^head']))
    with pytest.raises(ConfigError, match='bottleneck=64'):
        build(adapter='AdaptFormer')


def test_learnable_scale():
    """Specification a.1: a null scale is one scalar that starts at 1."""
    model = build(adapter=adaptformer(scale=None))
    names = [n for n in trainable(model) if n.endswith('.scale')]
    assert len(names) == 2
    assert all(float(dict(model.named_parameters())[n]) == 1 for n in names)
    x, samples = batch(model)
    total_loss(model.train(), x, samples).backward()


def test_frozen_backbone_in_eval_mode():
    """Trap E22: the backbone is in eval mode, its adapters are not."""
    module = vit(drop_rate=0.5)
    model = build(
        module,
        frozen_backbone_eval=True,
        perturb=True,
        num_passes=1,
        adapter=adaptformer(drop_rate=0.))
    model.train()
    assert model.training and model.head.training
    block = model.backbone.layers[0]
    assert not block.training and not block.ffn.training
    assert block.mosa['default'].training
    x, samples = batch(model)
    model.set_indices(torch.zeros(1, 4))
    first = model(x, samples, mode='loss')['loss']
    model.set_indices(torch.zeros(1, 4))
    assert torch.equal(model(x, samples, mode='loss')['loss'], first)
    model.set_indices(torch.tensor([[0, 1, 0, 1]]))
    assert not torch.equal(model(x, samples, mode='loss')['loss'], first)
    assert build(module).train().backbone.layers[0].ffn.training


def test_detach_gives_the_host_back():
    """Class, names and results are those of before."""
    model = build(
        adapter=dict(type='LoRA', rank=4, targets='o', o_reads='input'),
        perturb=True)
    x, _ = batch(model)
    with torch.no_grad(), model.disable_adapters():
        expected = model.eval()(x)
    for _, module in list(model.named_modules()):
        detach(module)
    plain = MODELS.build(dict(vit(), _scope_='mmpretrain'))
    assert [type(m) for m in model.module.modules()
            ] == [type(m) for m in plain.modules()]
    assert set(model.module.state_dict()) == set(plain.state_dict())
    assert torch.equal(model(x), expected)


def test_layer_depth_is_the_host_s():
    """Layer-wise decay sees an adapter at the depth of its block."""
    model = build()
    name = 'backbone.layers.1.mosa.default.up.weight'
    assert model.get_layer_depth(name) == model.get_layer_depth(
        'backbone.layers.1.ln1.weight')


def test_a_frozen_neck_is_told(monkeypatch):
    """mmseg's necks are random where no checkpoint has them."""
    said = []
    monkeypatch.setattr('mmext.models.adapters.mosa_model.print_log',
                        lambda text, **options: said.append(text))
    host = dict(
        vit(), neck=dict(type='LinearNeck', in_channels=16, out_channels=16))
    build(host)
    assert 'neck stays' in said[-1]
    said.clear()
    names = trainable(build(host, train_head=['head', 'neck']))
    assert any(name.startswith('neck.') for name in names)
    build()
    assert not any('stays' in text for text in said)
