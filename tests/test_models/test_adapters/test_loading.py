# Copyright (c) mmext contributors. All rights reserved.
"""State dicts of a wrapped model: names, and what is loaded or refused."""
import copy

import pytest
import torch
import torch.nn as nn

pytest.importorskip('mmpretrain')

from ...tiny_classifiers import adaptformer, build, swin


def test_state_dict_has_the_host_names():
    """Names are the host's, in parameters and in the state dict."""
    model = build(swin(), num_modules=3)
    keys = set(model.state_dict())
    assert {k for k, _ in model.named_parameters()} <= keys
    adapters = {k for k in keys if '.mosa.default.' in k}
    host = {k for k in keys - adapters}
    assert 'backbone.stages.0.blocks.0.ffn.layers.0.0.weight' in host
    assert not any(k.startswith('module.') for k in keys)
    assert all(model.is_adapter_key(k) for k in adapters)
    assert not any(model.is_adapter_key(k) for k in host)


def test_a_checkpoint_of_the_host_loads():
    """Adapters keep their start; nothing else is missing."""
    model = build(perturb=True)
    plain = {
        k: v
        for k, v in model.state_dict().items() if not model.is_adapter_key(k)
    }
    result = build().load_state_dict(plain, strict=False)
    assert not result.unexpected_keys
    assert all('.mosa.' in k for k in result.missing_keys)


class Pair(nn.Module):
    """Other modules before and after a tuned model."""

    def __init__(self, model):
        super().__init__()
        self.neck, self.student = nn.Linear(2, 2), model
        self.after = nn.Linear(2, 2)


def test_neighbours_keep_their_keys():
    """The wrapper touches no key of other modules, saved or missing."""
    pair = Pair(build())
    state = pair.state_dict()
    assert {'neck.weight', 'after.weight'} <= set(state)
    del state['neck.weight'], state['after.bias']
    result = Pair(build()).load_state_dict(state, strict=False)
    assert set(result.missing_keys) == {'neck.weight', 'after.bias'}


@pytest.mark.parametrize('change', [
    dict(num_modules=3),
    dict(split='both'),
    dict(storage='replicated'),
    dict(adapter=adaptformer(bottleneck=5)),
    dict(split_bias=True)
])
def test_another_model_is_refused(change):
    """Nothing is loaded from adapters with other options."""
    model = build(perturb=True)
    other = build(**change)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match='nothing was loaded'):
        other.load_state_dict(model.state_dict(), strict=False)
    assert all(
        torch.equal(v, before[k]) for k, v in other.state_dict().items())


@pytest.mark.parametrize('other', [
    adaptformer(),
    dict(type='LinearProbe'),
    dict(type='LoRA', rank=4, targets='qk')
])
def test_adapters_at_other_places_are_refused(other):
    """Those that this model has no place for are not dropped silently."""
    state = build(
        adapter=dict(type='LoRA', rank=4, targets='vo'),
        perturb=True).state_dict()
    with pytest.raises(ValueError, match='not in the model'):
        build(adapter=other).load_state_dict(state, strict=False)


def test_spoilt_and_partial_adapters_are_refused():
    """NaN in a file, a missing and an unknown key."""
    model = build(perturb=True)
    key = 'backbone.layers.0.mosa.default.up.weight'
    for damage, text in ((lambda s: s[key].fill_(float('nan')),
                          'finite'), (lambda s: s.pop(key), 'missing'),
                         (lambda s: s.update({key + 's': s[key]}),
                          'not in the model')):
        state = copy.deepcopy(model.state_dict())
        damage(state)
        with pytest.raises(ValueError, match=text):
            build().load_state_dict(state, strict=False)


def test_hooks_of_the_host_see_a_checkpoint():
    """What a host does to loaded keys is done through the wrapper too."""
    model = build()
    seen = []
    model.module._register_load_state_dict_pre_hook(
        lambda state, *args: seen.append(len(state)))
    model.load_state_dict(build().state_dict())
    assert seen
    with pytest.raises(ValueError, match='nothing was loaded'):
        copy.deepcopy(model).load_state_dict(build(num_modules=3).state_dict())
