# Copyright (c) mmext contributors. All rights reserved.
"""What two passes need around the modules."""
from collections import namedtuple

import torch

from mmext.models.adapters.passes import OutputTap, chunk, on_backward

Feats = namedtuple('Feats', 'maps token')


def test_nested_features_are_cut_in_equal_parts():
    """Lists, tuples, named tuples, dicts, empty ones and plain values."""
    x = torch.arange(4.)
    value = Feats(dict(a=[x, (x + 10, )], b=[]), (x, None, 3))
    first, second = chunk(value, 2)
    assert isinstance(first, Feats) and first.maps['b'] == []
    assert second.token[1:] == (None, 3)
    assert first.maps['a'][1][0].tolist() == [10., 11.]
    assert second.maps['a'][0].tolist() == [2., 3.]


def test_a_pass_is_entered_again_before_its_backward():
    """The later pass runs backward first, then the earlier one."""
    x = torch.ones(3, requires_grad=True)
    order, outputs = [], []
    for i in range(2):
        inner = on_backward(lambda i=i: order.append(f'inner {i}'), x * 2)
        feats = on_backward(
            lambda i=i: order.append(i), dict(a=[inner * 3], b=None))
        outputs.append(feats['a'][0])
    sum(o.sum() for o in outputs).backward()
    assert order == [1, 'inner 1', 0, 'inner 0']
    assert x.grad.tolist() == [12.] * 3


def test_tap_takes_its_hooks_away():
    layer = torch.nn.Linear(2, 2)
    with OutputTap([layer]) as tap:
        layer(torch.ones(1, 2))
    layer(torch.ones(1, 2))
    assert len(tap.outputs) == 1 and not layer._forward_hooks
