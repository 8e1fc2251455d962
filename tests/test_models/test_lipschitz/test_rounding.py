# Copyright (c) mmext contributors. All rights reserved.
"""What floating point adds to a certificate."""
import copy
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from mmext.models.lipschitz import certificates, layers
from mmext.models.lipschitz.bounds import Bounds
from mmext.models.lipschitz.boxes import eps_box, input_box, widened_eps
from mmext.models.lipschitz.certificates import (head_margin_bounds,
                                                 rounding_slack)
from mmext.models.lipschitz.layers import ScaledLinear
from mmext.models.lipschitz.networks import build_network
from mmext.models.lipschitz.rounding import RoundingTracker
from .nets import (EPS, HEADS, MEAN, STD, blobs, certifier, pixels, small,
                   trained)


@pytest.mark.parametrize('head', HEADS)
def test_property_18_float32_stays_within_tau(head):
    net = copy.deepcopy(trained(head)[0])
    x, _ = blobs(500, seed=12)
    exact = copy.deepcopy(net).double()
    with RoundingTracker() as tracker, torch.no_grad():
        features = net.body(x)
        out = features if head else net.head(features)
    with torch.no_grad():
        true = exact.body(x.double()) if head else exact(x.double())
    error = (out.double() - true).abs().amax(1)
    tau = tracker.tau()
    assert (error <= tau).all()
    assert 0 < float(error.max()) and float(tau.max()) < 2e-5
    assert torch.equal(rounding_slack(tau), 4 * tau)
    assert torch.equal(rounding_slack(tau, program=False), 2 * tau)
    # Elsewhere in the ball, too, with eps counted in.
    moved = x + 0.3 * torch.randn_like(x).sign()
    with torch.no_grad():
        part, whole = (exact.body, net.body) if head else (exact, net)
        error = (whole(moved).double() - part(moved.double())).abs().amax(1)
    assert (error <= tracker.tau(eps=0.3)).all()
    assert (tracker.tau(eps=0.3) > tau).all()


@pytest.mark.parametrize('head', HEADS)
def test_property_18_slack_costs_at_most_002_points(head):
    net, _ = trained(head)
    x, y = blobs(5000, seed=13)
    for method, eps in itertools.product(('interval', 'lipschitz'), EPS[1:4]):
        with_slack, without = [
            certifier(net, sound_rounding=sound).residual(x, y, eps, method)
            for sound in (True, False)
        ]
        assert (without.slack == 0).all()
        assert (with_slack.sound >= without.sound).all()
        assert torch.equal(with_slack.sound,
                           with_slack.value + with_slack.slack[:, None])
        lost = without.certified(y).float().mean() - \
            with_slack.certified(y).float().mean()
        assert 0 <= lost <= 2e-4


@pytest.mark.parametrize('method', ['interval', 'lipschitz'])
def test_property_18_a_linear_head_sees_features_that_err(method):
    """By tau here and tau at the attacked image: a box wider by 2 tau."""
    net, _ = trained(16)
    x, y = blobs(50, seed=14)
    found = certifier(net).residual(x, y, 0.05, method)
    with RoundingTracker() as tracker, torch.no_grad():
        if method == 'interval':
            box = net.body(input_box(x, 0.05, MEAN, STD).box)
            seen = 0.
        else:
            radius = torch.tensor([[0.05 / STD]], dtype=torch.float64)
            seen = widened_eps(radius, x)[:, 0]
            features = net.body(x).double()
            box = Bounds(None, features - seen[:, None],
                         features + seen[:, None])
    expected, tight = (
        net.head.residual(box.double().widen(times * tracker.tau(seen)),
                          y).detach() for times in (2, 0))
    torch.testing.assert_close(found.value, expected, rtol=0, atol=1e-12)
    others = torch.ones_like(expected, dtype=torch.bool)
    others.scatter_(1, y[:, None], False)
    # What it costs is far above the rounding of float64.
    assert (expected - tight)[others].min() > 1e-8
    # Its logits are rounded to float32 at both images.
    one = 2 * 2**-24 * float(net.head.largest_logit())
    assert found.slack.tolist() == pytest.approx([one] * 50)


def exact(value):
    """Floats as the rational numbers that they are."""
    return np.vectorize(Fraction, otypes=[object])(value.detach().numpy())


def test_property_18_sums_of_a_linear_head_are_enclosed(monkeypatch):
    """Both layers against rational arithmetic; without the term for sums,
    float64 falls short of it."""
    torch.manual_seed(0)
    layer = ScaledLinear(40, 30).eval()
    layer.bias.data.normal_()
    lower = torch.randn(6, 40, dtype=torch.float64)
    upper = lower + torch.rand(6, 40, dtype=torch.float64)
    labels = torch.arange(6)
    low, high = exact(lower)[:, None], exact(upper)[:, None]
    weight = exact(layer.weight) * Fraction(layer.scale)
    bias = exact(layer.bias)
    lead = weight[None] - weight[:6, None]  # (label, class, input)

    def most(w):
        return np.maximum(w * low, w * high).sum(-1)

    least, largest = bias - most(-weight), bias + most(weight)
    worst = most(lead) + bias - bias[:6, None]

    def short():
        """How many bounds cut something off."""
        box = layer(Bounds(None, lower, upper))
        residual = head_margin_bounds(
            lower,
            upper,
            layer.weight.double(),
            layer.bias.double(),
            labels,
            layer.scale,
            rounding=True)
        return ((exact(box.lower)
                 > least).sum(), (exact(box.upper)
                                  < largest).sum(), (exact(residual)
                                                     < worst).sum())

    assert short() == (0, 0, 0)
    for module in (layers, certificates):
        monkeypatch.setattr(module, 'summation_error', lambda terms: 0.)
    assert min(short()) > 10, 'the test should have teeth'


@pytest.mark.parametrize('arch,options', [
    ('mlp', dict(sort=dict(rho=0.7), identity=None)),
    ('lenet', dict(sort=dict(rho=0.5))),
    ('conv', {}),
])
def test_property_18_holds_for_other_neurons_and_layers(arch, options):
    net = small(arch, **options)
    x = pixels(20, net.body.input_size, seed=4)
    with RoundingTracker() as tracker, torch.no_grad():
        out = net(x)
    with RoundingTracker() as box_tracker, torch.no_grad():
        box = net(eps_box(x, 0.1).box)
    net.double()
    error = (out.double() - net(x.double()).detach()).abs().amax(1)
    assert (error <= tracker.tau()).all()
    exact = net(eps_box(x, 0.1).double())
    for end in ('lower', 'upper'):
        error = getattr(box, end).double() - getattr(exact, end)
        assert (error.detach().abs().amax(1) <= box_tracker.tau()).all()
    assert (tracker.tau() <= box_tracker.tau()).all()


def test_trackers_nest_and_ask_for_a_pass():
    net, _ = trained()
    x, _ = blobs(4)
    with RoundingTracker() as outer:
        net(x)
        with RoundingTracker() as inner:
            net.body(x)
    assert (inner.tau() < outer.tau()).all()
    with RoundingTracker() as nothing:
        pass
    with pytest.raises(RuntimeError, match='no distance layer ran'):
        nothing.tau()
    with RoundingTracker() as mixed:
        net(x), net(x[:2])
    with pytest.raises(RuntimeError, match='different sizes'):
        mixed.tau()


def at_the_edge(pixels_, radius, sign):
    """The float32 pixels farthest out that still lie within the radius."""
    start = pixels_.flatten()
    moved = (start.double() + sign * radius).float()
    outside = (moved.double() - start.double()).abs() > radius
    moved = torch.where(outside, torch.nextafter(moved, start), moved)
    moved = moved.clamp(0, 1)
    assert ((moved.double() - start.double()).abs() <= radius).all()
    return moved.view_as(pixels_)


@pytest.mark.parametrize('method', ['interval', 'lipschitz'])
def test_certificates_hold_to_the_last_bit(method):
    """On one pixel radii are tight, so rounding decides at their ends: of
    normalisation, of the box and of the layers. With slack the float32
    program never changes its class; without, it does."""
    torch.manual_seed(0)
    flips = {True: 0, False: 0}
    beyond = 0
    for _ in range(10):
        mean, std = float(torch.rand(())), float(torch.rand(()) / 2 + 0.05)
        net = build_network(
            'mlp',
            2,
            input_size=(1, 1, 1),
            depth=2,
            width=4 / 1024,
            p=math.inf,
            identity=None).eval()
        net.body.layers.fc1.mean_shift.running_mean.normal_(1, 1)
        images = torch.rand(200, 1, 1, 1)

        def classify(pixel):
            with torch.no_grad():
                return net((pixel * 255 - torch.tensor(255 * mean)) /
                           torch.tensor(255 * std)).argmax(1)

        x = (images * 255 - torch.tensor(255 * mean)) / torch.tensor(255 * std)
        for sound in flips:
            radius, label = certifier(
                net, mean=mean, std=std, sound_rounding=sound).radius(
                    x, method=method, steps=30)
            for sign in (1, -1):
                edge = at_the_edge(images, radius, sign)
                flips[sound] += int(
                    ((classify(edge) != label) & (radius > 0)).sum())
                if sound:
                    edge = (edge + sign * 2e-5).clamp(0, 1)
                    beyond += int(
                        ((classify(edge) != label) & (radius > 0)).sum())
    assert flips[True] == 0
    assert flips[False] > 0 and beyond > 0, 'the test should have teeth'
