# Copyright (c) mmext contributors. All rights reserved.
"""Recorded networks, built, and their decisions compared."""
import math
from typing import List

import torch
from torch import Tensor, nn

from mmext.models.lipschitz import certificates
from mmext.models.lipschitz.layers import MeanShift
from mmext.models.lipschitz.networks import DistanceNet, build_network
from mmext.models.lipschitz.p_norm import set_p
from .recorded import Recorded


def rows(weight: Tensor) -> Tensor:
    """Weights of 1x1 convolutions as those of a linear layer."""
    return weight.flatten(1)


def layer_numbers(data: Recorded, prefix: str = '') -> List[int]:
    return sorted(int(i) for _, i in data.match(rf'{prefix}L(\d+)_weight'))


def pure_net(data: Recorded, prefix: str = '') -> DistanceNet:
    """MLP of distance layers, the last one with a bias and negated."""
    numbers = layer_numbers(data, prefix)
    weights = [rows(data[f'{prefix}L{i}_weight']) for i in numbers]
    net = build_network(
        'mlp',
        len(weights[-1]),
        input_size=data.raw('x').shape[1:],
        depth=len(weights),
        width=len(weights[0]) / 1024)
    state = {
        f'body.layers.fc{i + 1}.weight': w
        for i, w in enumerate(weights[:-1])
    }
    state.update({
        'head.fc.weight': weights[-1],
        'head.fc.bias': data[f'{prefix}L{numbers[-1]}_bias']
    })
    missing = net.to(weights[0]).load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(key.endswith('running_mean') for key in missing.missing_keys)
    set_p(net, math.inf)
    return net


def shifts(net: nn.Module) -> List[Tensor]:
    return [m.running_mean for m in net.modules() if isinstance(m, MeanShift)]


def put_means(net: nn.Module, values: Tensor) -> None:
    """Running means of all layers, one after another."""
    sizes = [len(mean) for mean in shifts(net)]
    for mean, value in zip(shifts(net), values.split(sizes)):
        mean.copy_(value)


def means_of(net: nn.Module) -> Tensor:
    return torch.cat([mean.clone() for mean in shifts(net)])


def decide(data: Recorded, residual: Tensor, key: str) -> Tensor:
    """Values and decisions of one certificate."""
    found = certificates.certified(residual, data['label'])
    data.close(residual, f'{key}_res')
    data.equal(found, f'{key}_cert')
    return found
