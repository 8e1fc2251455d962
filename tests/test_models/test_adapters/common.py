# Copyright (c) mmext contributors. All rights reserved.
"""What several tests ask of a tuned model."""
import torch

from mmext.registry import MODELS
from ...tiny_classifiers import vit

STORAGES = ('compact', 'replicated')


def scores(model, x):
    """Outputs of the model in eval mode."""
    with torch.no_grad():
        return model.eval()(x)


def snapshot(model, part=''):
    """A copy of all parameters and buffers with ``part`` in their names."""
    return {k: v.clone() for k, v in model.state_dict().items() if part in k}


def equal(first, second):
    """Whether two snapshots are bit-equal."""
    return first.keys() == second.keys() and all(
        torch.equal(v, second[k]) for k, v in first.items())


def trained(model):
    """Parameters that an optimizer gets, by name."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def trainable(model):
    """Names of those parameters, in order."""
    return list(trained(model))


def fresh_host(seed=0):
    """The host that ``build(seed=seed)`` wraps."""
    torch.manual_seed(seed)
    host = MODELS.build(dict(vit(), _scope_='mmpretrain'))
    host.init_weights()
    return host
