# Copyright (c) mmext contributors. All rights reserved.
"""Heads of adapters for other classes than the host's."""
from copy import deepcopy
from typing import Dict

import torch.nn as nn
from torch import Tensor

# What tells the number of classes: of a head, and of its last layer.
_COUNTS = ('num_classes', 'out_channels', 'out_features')


def with_classes_of(head: nn.Module, tensors: Dict[str, Tensor]) -> nn.Module:
    """A head of the same kind with the number of classes of some tensors.

    Nothing is built from a file: a config in it could name any function.

    Args:
        head (nn.Module): A head with ``num_classes``; it is not changed.
        tensors (dict[str, Tensor]): What is to be loaded into it.

    Returns:
        nn.Module: ``head`` where its tensors have these shapes already, or
        differ in more than the classes; else a copy, whose resized tensors
        hold no values yet.
    """
    count = getattr(head, 'out_channels', None) or \
        getattr(head, 'num_classes', None)
    own = dict(head.named_parameters())
    wrong = {
        key: value
        for key, value in tensors.items()
        if key in own and value.shape != own[key].shape
    }
    wanted = {len(value) if value.dim() else 0 for value in wrong.values()}
    if len(wanted) != 1 or not all(
            value.shape[1:] == own[key].shape[1:] and len(own[key]) == count
            for key, value in wrong.items()):
        return head
    head, new = deepcopy(head), wanted.pop()
    for key, value in wrong.items():
        path, _, leaf = key.rpartition('.')
        layer = head.get_submodule(path)
        old = getattr(layer, leaf)
        empty = old.data.new_empty(value.shape)
        setattr(layer, leaf, nn.Parameter(empty, old.requires_grad))
        for part in (head, layer):
            for name in _COUNTS:
                if getattr(part, name, None) == count:
                    setattr(part, name, new)
    return head
