# Copyright (c) mmext contributors. All rights reserved.
"""Small distance nets, random and trained, for the tests of this folder."""
import functools
import math

import torch
import torch.nn.functional as F

from mmext.models.lipschitz.bound_heads import DistanceHead
from mmext.models.lipschitz.certifier import Certifier
from mmext.models.lipschitz.networks import (DistanceNet, VGGFeature,
                                             build_network)
from mmext.models.lipschitz.p_norm import set_p
from mmext.models.teachers import GroupEMA

MEAN, STD = 0.4, 0.25
LOW, HIGH = -MEAN / STD, (1 - MEAN) / STD
ARCHS = ('mlp', 'conv', 'lenet', 'alexnet', 'vgg')
EPS = (0., 0.02, 0.05, 0.1, 0.15, 0.3)
HEADS = (None, 16)


class ThinVGG(VGGFeature):
    """The 21 layers with fewer channels."""
    stages = ((3, 8), (3, 12), (5, 12), (5, 16), (5, 16))


def certifier(net, **kwargs):
    """Certificates of a net for normalised images."""
    options = dict(mean=MEAN, std=STD)
    return Certifier(net.body, net.head, **{**options, **kwargs})


def pixels(count, size, seed=0):
    """Random normalised images of pixels in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, *size, generator=generator) - MEAN) / STD


def settle(net, seed=0):
    """Evaluation at p = inf with running means of random images.

    Untouched means of 0 leave the values of deep layers near 10 and above,
    where the identity entries rule and a test sees one path only.
    """
    set_p(net, math.inf)
    for module in net.modules():
        if hasattr(module, 'momentum'):
            module.momentum = 1.
    net.train()
    with torch.no_grad():
        net(pixels(16, net.body.input_size, seed))
    return net.eval()


def small(arch, classes=5, seed=0, **kwargs):
    """A random net of an architecture, ready to certify."""
    torch.manual_seed(seed)
    if arch == 'vgg':
        body = ThinVGG(kwargs.get('input_size', (3, 16, 16)), hidden=24)
        return settle(
            DistanceNet(body, DistanceHead(body.out_features, classes)))
    options = dict(
        mlp=dict(input_size=(2, 4, 4), depth=4, width=24 / 1024),
        conv=dict(input_size=(3, 8, 8), width=4 / 32, hidden=24),
        lenet=dict(input_size=(1, 20, 20), hidden=24),
        alexnet=dict(input_size=(3, 20, 20), hidden=24))[arch]
    return settle(build_network(arch, classes, **{**options, **kwargs}))


def blobs(count, seed=0, classes=4, noise=0.15, size=(1, 4, 4)):
    """Images of pixels in [0, 1] around one prototype per class."""
    centres = torch.rand(
        classes, *size, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count, ), generator=generator)
    images = centres[labels] + noise * torch.randn(
        count, *size, generator=generator)
    return (images.clamp(0, 1) - MEAN) / STD, labels


# Images, steps and batch that each needs to move away from its start.
TRAINING = dict(
    mlp=((1, 4, 4), 160, 64),
    conv=((1, 4, 4), 160, 64),
    lenet=((1, 16, 16), 60, 16),
    alexnet=((1, 20, 20), 20, 8),
    vgg=((1, 16, 16), 40, 8))


def untrained(arch, head_hidden=None, classes=4):
    """A net for the images of :data:`TRAINING`, as it is built."""
    size = TRAINING[arch][0]
    if arch == 'vgg':
        body = ThinVGG(size, hidden=16)
        return DistanceNet(body, DistanceHead(body.out_features, classes))
    options = dict(
        mlp=dict(depth=3, width=32 / 1024), conv=dict(width=4 / 32, hidden=16))
    return build_network(
        arch,
        classes,
        head_hidden,
        input_size=size,
        **options.get(arch, dict(hidden=16)))


@functools.lru_cache(maxsize=None)
def trained(head_hidden=None, seed=0, arch='mlp'):
    """A net trained on blobs from p = 8 to inf, and an average of it."""
    torch.manual_seed(seed)
    size, steps, count = TRAINING[arch]
    net = untrained(arch, head_hidden)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02, betas=(.9, .99))
    average = GroupEMA(net, update_buffers='average')
    net.train()
    for step in range(steps):
        ratio = step / (0.8 * steps)
        set_p(net, 8 * 125**ratio if ratio < 1 else math.inf)
        for group in optimizer.param_groups:
            group['lr'] = 0.02 * (1 - step / steps)
        x, labels = blobs(count, seed=1000 * seed + step + 1, size=size)
        residual = net.lipschitz_residual(x, labels, 0.4)
        loss = F.cross_entropy(residual, labels) if head_hidden else \
            residual.clamp(min=0).amax(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(net, 0.9)
    set_p(average.module, math.inf)
    return net.eval(), average.module


def stretch(function, x, eps=0.3, steps=100, least=1e-3):
    """Largest ratio found of output to input change, in l_inf.

    Pairs: random signs, random points, one gradient step (FGSM) and the
    steps of a projected gradient ascent on each image's distance.
    """
    x = x.double()
    with torch.no_grad():
        clean = function(x)
    worst = 0.

    def ratio(moved):
        out = (function(moved) - clean).abs().amax(1)
        reach = (moved - x).abs().flatten(1).amax(1).clamp(min=1e-12)
        return out, float((out / reach).max().detach())

    generator = torch.Generator().manual_seed(0)
    for scale in (least, eps):
        noise = torch.rand(x.shape, generator=generator, dtype=x.dtype) * 2 - 1
        for step in (noise, noise.sign()):
            with torch.no_grad():
                worst = max(worst, ratio(x + scale * step)[1])
    moved = x + eps * 0.1 * noise
    for i in range(steps):
        moved.requires_grad_()
        out, found = ratio(moved)
        worst = max(worst, found)
        grad, = torch.autograd.grad(out.sum(), moved)
        size = eps if i == 0 else eps / 4
        moved = (moved + size * grad.sign()).detach()
        moved = x + (moved - x).clamp(-eps, eps)
    return worst
