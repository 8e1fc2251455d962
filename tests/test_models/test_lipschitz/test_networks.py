# Copyright (c) mmext contributors. All rights reserved.
"""Architectures: counts, sizes, Lipschitz constants, interval widths."""
import copy
import itertools
import math

import pytest
import torch

from mmext.models.lipschitz.bounds import BoundFlatten, Bounds
from mmext.models.lipschitz.boxes import eps_box
from mmext.models.lipschitz.ensemble import average
from mmext.models.lipschitz.networks import (AlexNetFeature, DistanceNet,
                                             LeNetFeature, VGGFeature,
                                             build_network)
from mmext.models.lipschitz.p_norm import distance_modules, get_p, p_norm
from mmext.utils.user_error import ConfigError
from .nets import ARCHS, HIGH, LOW, blobs, pixels, small, stretch, trained

MNIST = dict(input_size=(1, 28, 28))
CIFAR = dict(input_size=(3, 32, 32))
COUNTS = [
    ('mlp', 10, None, dict(MNIST, depth=5, width=5), 82708490),
    ('mlp', 10, 256, dict(MNIST, depth=4, width=5), 83970826),
    ('mlp', 10, 512, dict(MNIST, depth=4, width=5), 85284362),
    ('mlp', 10, None, dict(CIFAR, depth=6, width=5), 120637450),
    ('mlp', 10, 512, dict(CIFAR, depth=5, width=5), 123213322),
    ('mlp', 100, None, dict(CIFAR, depth=6, width=6), 170483812),
    ('mlp', 100, 512, dict(CIFAR, depth=5, width=6), 173066852),
    ('conv', 10, None, dict(width=3, hidden=1024), 51256874),
    ('conv', 10, 512, dict(width=3, hidden=1024), 51776554),
    ('conv', 100, None, dict(width=4, hidden=1024), 68836836),
    ('conv', 100, 512, dict(width=4, hidden=1024), 69310436),
    ('lenet', 10, None, dict(hidden=512), 117420),
    ('lenet', 10, 512, dict(hidden=1024), 703660),
    ('lenet', 100, 512, dict(hidden=1024), 749830),
    ('alexnet', 10, None, dict(hidden=512), 6613802),
    ('alexnet', 10, 512, dict(hidden=1024), 7662890),
    ('vgg', 10, None, dict(hidden=512), 26172106),
    ('vgg', 10, 512, dict(hidden=1024), 26827978),
]


@pytest.mark.stack_subset
@pytest.mark.parametrize('arch,classes,head,options,count', COUNTS)
def test_property_12_parameter_counts(arch, classes, head, options, count):
    with torch.device('meta'):
        net = build_network(arch, classes, head, **options)
    assert sum(p.numel() for p in net.parameters()) == count
    if arch != 'mlp' and head is None:
        dense = [m for m in distance_modules(net) if m.weight.dim() == 2]
        flat = dict(lenet=400, alexnet=2304, vgg=2048).get(arch)
        assert flat is None or dense[0].in_features == flat


def test_mnist_padded_to_32_is_the_published_lenet():
    net = LeNetFeature((1, 28, 28), input_pad=2, input_pad_value=-0.4)
    assert net.layers.conv1.weight.numel() == 150
    assert net.layers.fc1.in_features == 400
    net.eval()
    x = pixels(2, (1, 28, 28))
    wide = torch.full((2, 1, 32, 32), -0.4)
    wide[:, :, 2:-2, 2:-2] = x
    plain = LeNetFeature((1, 32, 32)).eval()
    plain.load_state_dict(net.state_dict())
    assert torch.equal(net(x), plain(wide))
    # What the network pads, no attacker changes.
    with p_norm(net, math.inf), p_norm(plain, math.inf):
        mine, other = net(eps_box(x, 0.3)), plain(eps_box(wide, 0.3))
        assert (mine.lower >= other.lower).all()
        assert (mine.upper <= other.upper).all()


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('size', [(1, 28, 28), (3, 20, 24), (3, 64, 64)])
def test_other_image_sizes(arch, size):
    with torch.device('meta'):
        body = build_network(arch, 10, input_size=size).body
        out = 512 if arch != 'mlp' else 5120
        assert body.out_features == out
        if arch == 'mlp':
            assert body(torch.empty(2, *size)).shape == (2, out)


@pytest.mark.parametrize('arch,size', [('mlp', (2, 4, 6)),
                                       ('conv', (3, 7, 10)),
                                       ('lenet', (1, 20, 25)),
                                       ('alexnet', (3, 26, 20)),
                                       ('vgg', (3, 16, 33))])
def test_images_that_are_not_square(arch, size):
    """Forward and bounds; rows and columns have the same meaning inside."""
    net = small(arch, input_size=size)
    x = pixels(3, size, seed=4)
    with torch.no_grad():
        out = net(eps_box(x, 0.1))
    assert out.lower.shape == (3, 5)
    assert torch.equal(out.x.float().argmax(1), net(x).argmax(1))
    assert (out.lower <= out.x).all() and (out.x <= out.upper).all()
    assert (out.upper - out.lower <= 0.2 + 1e-4).all()
    with pytest.raises(ConfigError, match='built for images'):
        net(x.transpose(2, 3))
    stages = torch.nn.Sequential(*itertools.takewhile(
        lambda m: not isinstance(m, BoundFlatten), net.body.layers))
    turned = copy.deepcopy(stages)
    for layer in distance_modules(turned):
        layer.weight.data = layer.weight.data.transpose(2, 3)
    with torch.no_grad():
        torch.testing.assert_close(
            turned(x.transpose(2, 3)),
            stages(x).transpose(2, 3))


def test_errors_say_what_to_do():
    with pytest.raises(
            ConfigError,
            match='VGGFeature shrinks images of 12x12 '
            'to nothing.*pool4.*input_pad'):
        VGGFeature((3, 12, 12))
    with pytest.raises(ConfigError, match='conv1 .7x7, stride 2'):
        AlexNetFeature((3, 2, 2))
    with pytest.raises(ConfigError, match='pool1'):
        AlexNetFeature((3, 6, 6))
    with pytest.raises(ConfigError, match='channels, height, width'):
        LeNetFeature((28, 28))
    with pytest.raises(ConfigError, match='units of 1024'):
        build_network('mlp', 10, width=0)
    with pytest.raises(ConfigError, match='at least 1, but got 0'):
        build_network('mlp', 10, depth=1)
    with pytest.raises(ConfigError, match="arch is one of .*'vgg'"):
        build_network('resnet', 10)
    with pytest.raises(ValueError, match='input_pad is one width'):
        LeNetFeature((1, 28, 28), input_pad=(1, 2))
    with pytest.raises(ValueError, match='rho'):
        LeNetFeature(sort=dict(rho=0.))
    with pytest.raises(
            ValueError,
            match='built for images of .*32, 32.*but '
            'got .1, 28, 28.*pad smaller images'):
        LeNetFeature()(torch.zeros(1, 1, 28, 28))


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('eps', [0.01, 0.5])
def test_property_9_intervals_are_never_wider_than_the_ball(arch, eps):
    net = small(arch)
    x = pixels(3, net.body.input_size, seed=5)
    with torch.no_grad():
        out = net(eps_box(x, eps))
    assert (out.x - out.lower <= eps * (1 + 1e-4) + 1e-5).all()
    assert (out.upper - out.x <= eps * (1 + 1e-4) + 1e-5).all()
    assert (out.lower <= out.x).all() and (out.x <= out.upper).all()


@pytest.mark.parametrize('depth', [1, 3, 9])
def test_property_9_holds_at_any_depth(depth):
    net = small('mlp', depth=depth + 1).double()
    x = pixels(4, net.body.input_size).double()
    with torch.no_grad():
        out = net(eps_box(x, 0.25))
    assert float((out.upper - out.lower).max()) <= 0.5 + 1e-12


@pytest.mark.parametrize('arch', ARCHS)
def test_property_10_random_nets_are_1_lipschitz(arch):
    net = small(arch, classes=4).double()
    x = pixels(2, net.body.input_size, seed=1)
    found = stretch(net, x)
    assert 0.05 < found <= 1 + 1e-5
    assert stretch(net.body, x, steps=3) <= 1 + 1e-5


@pytest.mark.parametrize('arch', ARCHS)
def test_property_10_finite_p_stretches_by_n_to_the_1_over_p(arch):
    net = small(arch, classes=4).double()
    limit = math.prod(m.weight[0].numel()**(1 / 8)
                      for m in distance_modules(net))
    with p_norm(net, 8.):
        # AlexNet: two million weights.
        found = stretch(
            net,
            pixels(2, net.body.input_size),
            steps=100 if arch != 'alexnet' else 40)
    assert found <= limit * (1 + 1e-9)
    if arch in ('mlp', 'conv', 'lenet'):
        assert found > 1.01, 'the relaxation should show'


@pytest.mark.parametrize('arch', ARCHS)
def test_property_10_trained_average_and_ensemble(arch):
    live, averaged = (copy.deepcopy(n).double() for n in trained(arch=arch))
    size = live.body.input_size
    x = blobs(2 if arch in ('alexnet', 'vgg') else 8, seed=99, size=size)[0]
    assert get_p(live) == get_p(averaged) == math.inf
    state = averaged.state_dict()
    assert not any(
        torch.equal(value, state[name])
        for name, value in live.named_parameters())

    def together(images):
        return average(
            torch.stack([live(images), averaged(images)]), [0.3, 0.7])

    for function in (live, averaged, together):
        assert 0.05 < stretch(function, x) <= 1 + 1e-5


@pytest.mark.parametrize('arch', ['mlp', 'conv', 'lenet'])
def test_property_11_input_gradient_has_one_entry_of_one(arch):
    net = small(arch, classes=4).double()
    x = pixels(3, net.body.input_size, seed=8).double().requires_grad_()
    logits = net(x)
    ones = 0
    for k in range(4):
        grad, = torch.autograd.grad(logits[:, k].sum(), x, retain_graph=True)
        grad = grad.flatten(1)
        hit = grad != 0
        assert (hit.sum(1) <= 1).all()
        assert (grad[hit].abs() == 1).all()
        # None only where the path ends in zero padding.
        assert arch == 'conv' or (hit.sum(1) == 1).all()
        ones += int(hit.sum())
    assert ones > 0


def test_a_net_maps_tensors_and_boxes_in_kind():
    for head in (None, 16):
        net = small('mlp', classes=3, head_hidden=head)
        assert get_p(net) == math.inf and isinstance(net, DistanceNet)
        x = pixels(4, net.body.input_size)
        box = eps_box(x, 0.1, LOW, HIGH)
        out = net(box)
        assert isinstance(out, Bounds)
        assert torch.allclose(out.x.float(), net(x), atol=1e-5)
        assert net(box.box).x is None
        assert net(x).dtype == torch.float32


def test_sort_nets_build_train_and_bound():
    torch.manual_seed(0)
    net = build_network(
        'lenet',
        3,
        input_size=(1, 16, 16),
        hidden=16,
        sort=dict(rho=0.7),
        identity=None)
    x = pixels(3, (1, 16, 16))
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.eval()
    with p_norm(net, math.inf), torch.no_grad():
        out = net(eps_box(x, 0.2))
    assert (out.lower <= out.x).all() and (out.x <= out.upper).all()
    assert (out.upper - out.lower <= 0.4 + 1e-4).all()
    assert stretch(net.double(), x, steps=5) <= 1 + 1e-5
