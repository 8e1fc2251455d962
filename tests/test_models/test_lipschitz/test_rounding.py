# Copyright (c) mmext contributors. All rights reserved.
"""What floating point adds to a certificate."""
import copy
import itertools
import math

import pytest
import torch

from mmext.models.lipschitz.boxes import eps_box
from mmext.models.lipschitz.certificates import rounding_slack
from mmext.models.lipschitz.networks import build_network
from mmext.models.lipschitz.rounding import RoundingTracker
from .nets import EPS, HEADS, blobs, certifier, pixels, small, trained


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
