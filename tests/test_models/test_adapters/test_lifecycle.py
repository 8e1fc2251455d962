# Copyright (c) mmext contributors. All rights reserved.
"""Several adapters, merging for good, folding, unloading, prefixes."""
import copy
import gc
import logging

import pytest
import torch
import torch.nn as nn

pytest.importorskip('mmpretrain')

from mmext.models.adapters import (SplitLinear, load_adapter,  # noqa: E402
                                   save_adapter, slots)
from mmext.models.adapters.adapter_state import fingerprint  # noqa: E402
from mmext.registry import MODELS  # noqa: E402
from ...tiny_classifiers import (WIDTH, adaptformer, batch,  # noqa: E402
                                 build, labels, move, swin, total_loss, vit)
from .common import equal, scores, snapshot  # noqa: E402

LORA = dict(type='LoRA', rank=4, targets='qkvo')
HOSTS = dict(vit=(vit(), 16), swin=(swin(), 32))


def head(classes):
    return dict(type='LinearClsHead', num_classes=classes, in_channels=WIDTH)


def two_tasks():
    """A model with the adapter of another style and head for a task."""
    model = build(perturb=True)
    model.add_adapter('other', dict(type='Houlsby', bottleneck=3),
                      targets=['layers.1'], head=head(3), num_modules=2)
    return model


def test_switching():
    """Property 28: each adapter's scores come back exactly, the backbone
    stays where it is."""
    model = two_tasks()
    x, _ = batch(model)
    place = {n: p.data_ptr() for n, p in model.named_parameters()
             if n.startswith('backbone') and 'mosa' not in n}
    first = scores(model, x)
    assert model.adapter_names == ['default', 'other']
    model.set_active('other')
    move(model)
    second = scores(model, x)
    assert first.shape == (4, 5) and second.shape == (4, 3)
    assert list(model.adapter_modules()) == ['backbone.layers.1']
    for name, expected in (('default', first), ('other', second)) * 2:
        model.set_active(name)
        assert torch.equal(scores(model, x), expected)
    assert place == {n: p.data_ptr() for n, p in model.named_parameters()
                     if n in place}
    with pytest.raises(ValueError, match='the model has default, other'):
        model.set_active('third')


def test_training_one_leaves_the_other_alone():
    """Property 28: also with weight decay and one optimizer for all."""
    model = two_tasks()
    x, _ = batch(model)
    first = scores(model, x)
    model.set_active('other')
    theirs = snapshot(model, '.default.')
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    assert all('.other.' in n or n.startswith('head.') for n in trainable)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.05, weight_decay=0.1)
    model.guard(optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        samples = [s.set_gt_label(int(s.gt_label) % 3) for s in labels(4)]
        total_loss(model.train(), x, samples).backward()
        optimizer.step()
    assert equal(theirs, snapshot(model, '.default.'))
    model.set_active('default')
    assert torch.equal(scores(model, x), first)


def test_heads_are_copied_or_shared():
    model = build(perturb=True)
    model.add_adapter('copy')
    x, _ = batch(model)
    first = model.module.head
    model.set_active('copy')
    assert model.module.head is not first
    assert torch.equal(model.module.head.fc.weight, first.fc.weight)
    shared = build(train_head=False)
    shared.add_adapter('copy')
    first = shared.module.head
    shared.set_active('copy')
    assert shared.module.head is first
    with pytest.raises(ValueError, match='no heads'):
        shared.add_adapter('third', head=head(3))
    assert shared.adapter_names == ['default', 'copy']


def test_state_dict_with_two_adapters():
    """A checkpoint of the whole model brings both back; one of a model with
    another adapter in use is refused."""
    model = two_tasks()
    state = snapshot(model)
    assert 'mosa_tasks.other.head.fc.weight' in state
    other = two_tasks()
    other.load_state_dict(state)
    x, _ = batch(model)
    for name in model.adapter_names:
        model.set_active(name)
        other.set_active(name)
        assert torch.equal(scores(model, x), scores(other, x))
    for target in (other, build()):
        before = snapshot(target)
        with pytest.raises(ValueError, match='while another one was in use'):
            target.load_state_dict(state, strict=False)
        assert equal(before, snapshot(target))


def test_files_of_two_adapters(tmp_path):
    """Both are saved by name, and loaded beside each other elsewhere."""
    model = two_tasks()
    model.set_active('other')
    move(model)
    x, _ = batch(model)
    second = scores(model, x)
    model.set_active('default')
    first = scores(model, x)
    save_adapter(model, tmp_path / 'other', name='other')
    save_adapter(model, tmp_path / 'default', merged=True)
    other = build(adapter=dict(type='LinearProbe'))
    with pytest.raises(ValueError, match='another kind or size'):
        load_adapter(other, tmp_path / 'other', head=head(4))
    assert other.adapter_names == ['default']
    load_adapter(other, tmp_path / 'other')  # a head of its classes
    other.double()
    load_adapter(other, tmp_path / 'other')
    load_adapter(other, tmp_path / 'default', name='first')
    assert other.active_adapter == 'default'
    other.set_active('other')
    assert torch.equal(scores(other, x), second)
    other.set_active('first')
    other.double()
    load_adapter(other, tmp_path / 'default', name='first')
    torch.testing.assert_close(scores(other, x), first, rtol=0, atol=1e-12)


def test_files_of_a_head_of_another_type(tmp_path):
    """Heads are no part of the backbone, in use or not."""
    deep = dict(type='StackedLinearClsHead', num_classes=3,
                in_channels=WIDTH, mid_channels=[8])
    model = build(perturb=True, double=False)
    model.add_adapter('deep', head=deep)
    save_adapter(model, tmp_path / 'idle', name='deep')
    model.set_active('deep')
    save_adapter(model, tmp_path / 'used')
    for name in ('idle', 'used'):
        other = build(double=False)
        load_adapter(other, tmp_path / name, name=name, head=deep)
        other.set_active(name)
        x, _ = batch(model)
        assert torch.equal(scores(other, x), scores(model, x))


def test_scale_and_shift_beside_another_adapter():
    """SSF goes behind the host's layers, not into the other adapter."""
    model = build(perturb=True)
    x, _ = batch(model)
    model.add_adapter('ssf', dict(type='SSF'))
    assert not [path for path, _ in slots(model) if 'mosa' in path]
    model.set_active('ssf')
    move(model)
    expected = scores(model, x)
    torch.testing.assert_close(
        scores(model.merge_and_unload(), x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('options,text', [
    (dict(name='default'), 'already'),
    (dict(name='a.b'), 'without dots'),
    (dict(name=''), 'without dots'),
    (dict(name='b', modules=3), 'modules: not an option'),
    (dict(name='b', num_modules=1000), 'num_modules=1000'),
    (dict(name='b', targets=['stages.7']), 'stages.7'),
    (dict(name='b', adapter=dict(type='BitFit')), 'a model for each'),
    (dict(name='b', head=dict(neck=dict(type='x'))), 'head configures'),
])
def test_an_adapter_that_cannot_be_added(options, text):
    """The model is then as it was."""
    model = build()
    before, modules = snapshot(model), list(model.modules())
    with pytest.raises(ValueError, match=text):
        model.add_adapter(**options)
    assert equal(before, snapshot(model))
    assert modules == list(model.modules())
    assert model.adapter_names == ['default']


def test_deleting():
    model = two_tasks()
    before = [type(m) for m in model.modules()]
    with pytest.raises(ValueError, match='in use'):
        model.delete_adapter('default')
    model.add_adapter('third', LORA)
    model.set_active('third')
    model.merge()
    model.set_active('default')
    with pytest.raises(RuntimeError, match='unmerge'):
        model.delete_adapter('third')
    model.set_active('third')
    model.unmerge()
    model.set_active('default')
    model.delete_adapter('third')
    assert before == [type(m) for m in model.modules()]
    model.delete_adapter('other')
    assert not [k for k in model.state_dict() if 'other' in k]
    with pytest.raises(ValueError, match='no adapter'):
        model.delete_adapter('other')


def test_switching_while_merged_warns(caplog):
    model = two_tasks()
    model.merge()
    with caplog.at_level(logging.WARNING):
        model.set_active('other')
    assert not model.merged
    model.set_active('default')
    assert model.merged
    before = snapshot(model)
    model.unmerge()
    assert not equal(before, snapshot(model))


def test_safe_merge():
    """Property 26: what is not finite is not merged, in no layer."""
    model = build(perturb=True)
    last = list(model.split_layers().values())[-1]
    with torch.no_grad():
        last.weight[0, 0] = float('nan')
    before = snapshot(model)
    with pytest.raises(RuntimeError, match='nothing was merged'):
        model.merge()
    with pytest.raises(RuntimeError, match='nothing was merged'):
        model.collapse()
    assert not model.merged
    assert before.keys() == model.state_dict().keys()
    model.merge(safe=False)
    assert model.merged
    model.unmerge()
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert any('up.weight' in n for n in trainable)


@pytest.mark.parametrize('style', [
    adaptformer(), adaptformer(fixed_mask=True), LORA,
    dict(type='Houlsby', bottleneck=4)])
def test_collapse(style):
    """Property 24: no N-fold tensor remains, layers and sizes are those of
    a standard adapter, scores stay."""
    model = build(adapter=style, split='both', perturb=True)
    standard = build(adapter={k: v for k, v in style.items()
                              if k != 'fixed_mask'}, num_modules=1)
    x, samples = batch(model)
    expected = scores(model, x)
    model.collapse()
    torch.testing.assert_close(scores(model, x), expected, rtol=0, atol=1e-12)
    assert not any(isinstance(m, SplitLinear) for m in model.modules())
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in standard.state_dict().items()}
    assert [type(m) for m in model.modules()] == [
        type(m) for m in standard.modules()]
    assert len(list(model.buffers())) == len(list(standard.buffers()))
    total_loss(model.train(), x, samples).backward()


def plain_host(model):
    """A new host with the host's own tensors of ``model``."""
    host = MODELS.build(dict(vit(), _scope_='mmpretrain')).double()
    host.load_state_dict({k: v for k, v in model.state_dict().items()
                          if '.mosa.' not in k})
    return host


def test_unload():
    """The host's own classes, tensors and flags, without any adapter."""
    model = two_tasks()
    host = MODELS.build(
        dict(vit(), _scope_='mmpretrain')).double()
    host.load_state_dict({k: v for k, v in model.state_dict().items()
                          if 'mosa' not in k})
    x, _ = batch(model)
    expected = scores(host, x)
    found = model.unload()
    assert torch.equal(scores(found, x), expected)
    assert [type(m) for m in found.modules()] == [
        type(m) for m in host.modules()]
    assert found.state_dict().keys() == host.state_dict().keys()
    assert all(p.requires_grad for p in found.parameters())
    del model  # the host does not need its wrapper any more
    gc.collect()
    found.load_state_dict(host.state_dict())
    assert torch.equal(scores(copy.deepcopy(found), x), expected)
    other = copy.deepcopy(build(perturb=True))
    folded = other.unload()
    del other
    gc.collect()
    folded.load_state_dict(host.state_dict())


@pytest.mark.parametrize('host', HOSTS)
@pytest.mark.parametrize('merge_first', [False, True])
@pytest.mark.parametrize('style', [LORA, dict(LORA, targets='qv', scale=0.5),
                                   dict(type='SSF')])
def test_fold(style, merge_first, host):
    """MoSL and SSF go into the host's weights; no part of mmext is left."""
    module, size = HOSTS[host]
    model = build(module, adapter=style, split='both', perturb=True)
    x, _ = batch(model, size=size)
    expected = scores(model, x)
    with model.disable_adapters():
        assert not torch.allclose(scores(model, x), expected)
    if merge_first:
        model.merge()
    host = model.merge_and_unload()
    assert not list(slots(host))
    assert all('mmext' not in type(m).__module__ for m in host.modules())
    torch.testing.assert_close(scores(host, x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('host', HOSTS)
@pytest.mark.parametrize('style,text', [
    (dict(LORA, o_reads='input'), 'cannot be folded'),
    (adaptformer(), 'non-linearity')])
def test_what_cannot_be_folded(style, text, host):
    model = build(HOSTS[host][0], adapter=style, perturb=True)
    before = snapshot(model)
    with pytest.raises(RuntimeError, match=text):
        model.merge_and_unload()
    assert equal(before, snapshot(model))


def test_folding_is_safe():
    model = build(adapter=LORA, perturb=True)
    with torch.no_grad():
        list(model.split_layers().values())[-1].weight.fill_(float('inf'))
    before = fingerprint(model, [])
    with pytest.raises(RuntimeError, match='nothing was changed'):
        model.merge_and_unload()
    assert fingerprint(model, []) == before


def test_disabling_is_nested_and_safe():
    """Property 27: exactly the frozen host's output, whatever happens."""
    model = build(perturb=True)
    x, _ = batch(model)
    expected = scores(plain_host(model), x)
    tuned = scores(model, x)
    with pytest.raises(KeyError):
        with model.disable_adapters():
            with model.disable_adapters():
                assert torch.equal(scores(model, x), expected)
            assert torch.equal(scores(model, x), expected)
            raise KeyError
    assert torch.equal(scores(model, x), tuned)
    assert not torch.equal(tuned, expected)


def test_the_prefix_is_respected():
    """A wrapped model inside another module keeps every key of that module;
    loading and files of adapters do not depend on where it sits."""

    class Parent(nn.Module):

        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(3, 3)
            self.mosa = nn.Linear(2, 2)
            self.student = build(perturb=True)
            self.teacher = build(perturb=True, seed=1)

    parent, other = Parent(), Parent()
    state = parent.state_dict()
    own = parent.student.state_dict()
    assert {k[8:] for k in state if k.startswith('student.')} == set(own)
    assert {'stem.weight', 'stem.bias', 'mosa.weight', 'mosa.bias'} < \
        set(state)
    assert len(state) == 4 + 2 * len(own)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(state)
    assert equal(snapshot(other), snapshot(parent))
    spoilt = dict(state)
    del spoilt['teacher.backbone.layers.0.mosa.default.up.owner']
    with pytest.raises(ValueError, match='teacher.backbone'):
        other.load_state_dict(spoilt, strict=False)
