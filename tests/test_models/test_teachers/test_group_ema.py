# Copyright (c) mmext contributors. All rights reserved.
"""The grouped moving average."""
import pytest
import torch
import torch.nn as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.runner.activation_checkpointing import \
    turn_on_activation_checkpointing

from mmext.models.teachers import GroupEMA


def student(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def params(module):
    return {k: v.detach().clone() for k, v in module.named_parameters()}


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1), st.integers(0, 99))
def test_first_update_is_a_weighted_mean(decay, seed):
    """Property 26: no copy, no warm-up at the first call."""
    teacher = GroupEMA(student(seed), decay)
    before, other = params(teacher.module), student(seed + 1)
    teacher.update(other)
    for name, value in teacher.module.named_parameters():
        expected = decay * before[name] + \
            (1 - decay) * dict(other.named_parameters())[name]
        assert torch.allclose(value, expected, atol=1e-6)


def test_groups():
    """Property 24: each group its own decay, settable for one step."""
    teacher = GroupEMA(student(), 0.9, groups={r'^0\.': 0.5})
    before, other = params(teacher.module), student(1)
    teacher.update(other)
    teacher.update(other, {r'^0\.': 0.})
    now, theirs = params(teacher.module), params(other)
    assert torch.equal(now['0.weight'], theirs['0.weight'])
    expected = 0.81 * before['2.weight'] + 0.19 * theirs['2.weight']
    assert torch.allclose(now['2.weight'], expected, atol=1e-6)
    teacher.update(other, 0.)
    assert torch.equal(
        params(teacher.module)['2.weight'], theirs['2.weight'])


def test_equal_weights_stay_bit_equal():
    """Property 19: averaging a tensor with itself changes nothing."""
    model = student()
    teacher = GroupEMA(model, 0.999)
    for decay in (0.999, 0.93, 0.5, 0.1):
        teacher.update(model, decay)
    for name, value in params(model).items():
        assert torch.equal(params(teacher.module)[name], value)


def test_buffers():
    """Property 21: buffers stay, unless asked for."""
    for update in (False, True):
        model = student()
        teacher = GroupEMA(model, update_buffers=update)
        model.train()(torch.randn(8, 3))
        teacher.update(model)
        same = torch.equal(teacher.module[1].running_mean,
                           model[1].running_mean)
        assert same is update


def test_teacher_is_apart():
    """Property 22: a copy, in eval mode, without gradients."""
    model = student().train()
    teacher = GroupEMA(model)
    assert not any(m.training for m in teacher.module.modules())
    assert not any(p.requires_grad for p in teacher.module.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert model.training
    x = torch.randn(5, 3)
    before = teacher(x)
    with torch.no_grad():
        model[0].weight.add_(1)
    assert torch.equal(teacher(x), before)


def test_teacher_is_apart_under_activation_checkpointing():
    """mmengine binds a checkpointed module's forward to the student's."""
    model = student().eval()
    turn_on_activation_checkpointing(model, ['2'])
    teacher = GroupEMA(model)
    x = torch.randn(5, 3)
    before = teacher(x)
    with torch.no_grad():
        model[2].weight.add_(1)
    assert torch.equal(teacher(x), before)
    assert not torch.equal(model(x), before)


def test_restored_teacher_continues():
    """A teacher restored from its state dict goes on bit-equally."""
    teacher, other = GroupEMA(student(), 0.9), student(1)
    teacher.update(other)
    copy = GroupEMA(student(2), 0.9)
    copy.load_state_dict(teacher.state_dict())
    for each in (teacher, copy):
        each.update(other)
    for name, value in params(teacher.module).items():
        assert torch.equal(params(copy.module)[name], value)


@pytest.mark.parametrize('options', [
    dict(decay=1.1),
    dict(decay=-0.1),
    dict(groups={'0': 2.}),
])
def test_decay_outside_its_range(options):
    """The decay is the teacher's weight, within [0, 1]."""
    with pytest.raises(ValueError, match='weight that the teacher keeps'):
        GroupEMA(student(), **options)
    with pytest.raises(ValueError, match='weight that the teacher keeps'):
        GroupEMA(student()).update(student(1), 1.5)


def test_group_without_members():
    """A misspelt group is not ignored."""
    with pytest.raises(ValueError, match='No parameter matches'):
        GroupEMA(student(), groups={'prompt': 0.9})
