# Copyright (c) mmext contributors. All rights reserved.
"""Residuals, decisions and radii."""
import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmext.models.lipschitz import certificates
from mmext.models.lipschitz.bound_heads import BoundMLP
from mmext.models.lipschitz.bounds import Bounds, CertificationError
from mmext.models.lipschitz.boxes import eps_box, input_box, normalised_eps
from mmext.models.lipschitz.certificates import (bisect_radius, certified,
                                                 certified_from_radius,
                                                 head_margin_bounds,
                                                 interval_residual,
                                                 lipschitz_residual,
                                                 radius_from_margin,
                                                 worst_margin)
from mmext.models.lipschitz.certifier import Certifier, require_certifiable
from mmext.models.lipschitz.networks import build_network
from mmext.models.lipschitz.p_norm import distance_modules, p_norm, set_p
from mmext.models.lipschitz.rounding import RoundingTracker
from .nets import (EPS, HEADS, HIGH, LOW, MEAN, STD, blobs, certifier, pixels,
                   small, trained)


def recorded_mlp(arrays):
    """The net of mlp_net.npz as its last entries use it."""
    weights = sorted(k for k in arrays
                     if k[0] == 'L' and k.endswith('_weight'))
    shape = arrays['x'].shape[1:]
    width, classes = len(arrays['L0_weight']), len(arrays[weights[-1]])
    net = build_network(
        'mlp',
        classes,
        input_size=tuple(shape),
        depth=len(weights),
        width=width / 1024,
        p=math.inf).double()
    layers = distance_modules(net)
    with torch.no_grad():
        for i, layer in enumerate(layers):
            layer.weight.copy_(arrays[f'L{i}_weight'].flatten(1))
        last = len(layers) - 1
        layers[-1].weight.copy_(arrays[f'L{last}_weight_eval'])
        layers[-1].bias.copy_(arrays[f'L{last}_bias'])
    return net.eval(), layers[:-1]


def set_means(layers, means):
    for layer, mean in zip(layers, means.reshape(len(layers), -1)):
        layer.mean_shift.running_mean.copy_(mean)


@pytest.mark.stack_subset
def test_property_13_residuals_and_decisions_as_recorded(recorded_arrays):
    arrays = recorded_arrays('lipschitz', 'mlp_net.npz')
    net, layers = recorded_mlp(arrays)
    set_means(layers, arrays['train_p8_running_mean'][-1])
    x, y = arrays['x'].double(), arrays['label']
    for j, eps in enumerate(arrays['eps_list_normalised']):
        residuals = dict(
            lip=net.lipschitz_residual(x, y, eps),
            ibp=net.residual(eps_box(x, eps), y),
            ibpclamp=net.residual(
                eps_box(x, eps, arrays['down'], arrays['up']), y))
        for name, residual in residuals.items():
            assert torch.allclose(
                residual, arrays[f'e{j}_{name}_res'], atol=1e-9, rtol=1e-9)
            assert torch.equal(
                certified(residual, y), arrays[f'e{j}_{name}_cert'])


def test_property_20_channel_radii_as_recorded(recorded_arrays):
    arrays = recorded_arrays('lipschitz', 'mlp_net.npz')
    net, layers = recorded_mlp(arrays)
    set_means(layers, arrays['pgd_running_mean'])
    box = eps_box(arrays['x'].double(), arrays['aniso_eps'], arrays['down'],
                  arrays['up'])
    assert torch.allclose(
        net.residual(box, arrays['label']),
        arrays['aniso_res'],
        atol=1e-9,
        rtol=1e-9)
    # And what float32 may make of it.
    net = net.float()
    with RoundingTracker() as tracker:
        logits = net(arrays['x'].float())
    tau = tracker.tau(per_sample=False)
    assert float(tau) == pytest.approx(
        float(arrays['float32_tau_bound']), rel=1e-4)
    assert (tracker.tau() <= tau).all()
    assert torch.allclose(
        logits.double(), arrays['float32_logits'], atol=2 * float(tau))


def test_property_20_a_channel_has_its_own_radius():
    """Interval radii are eps / std per channel; the Lipschitz rule takes
    the largest; never their mean."""
    std, mean = [0.2, 0.25, 0.4], [0.5, 0.4, 0.45]
    radii = normalised_eps(8 / 255, std)
    assert torch.allclose(radii, 8 / 255 / torch.tensor(std).double())
    assert normalised_eps(8 / 255, std, 'lipschitz') == 8 / 255 / 0.2
    shape = (1, 3, 1, 1)
    m, s = (torch.tensor(v).double().view(shape) for v in (mean, std))
    images = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    box = input_box((images - m) / s, 0.1, mean, std, sound=False)
    assert torch.allclose(box.lower, ((images - 0.1).clamp(min=0) - m) / s)
    assert torch.allclose(box.upper, ((images + 0.1).clamp(max=1) - m) / s)
    with pytest.raises(ValueError, match='which have 3, but got 2'):
        input_box((images - m) / s, 0.1, 0.5, [0.2, 0.3])
    with pytest.raises(ValueError, match='std must be above 0'):
        normalised_eps(0.1, [0.2, 0.])
    with pytest.raises(ValueError, match="'interval' or 'lipschitz'"):
        normalised_eps(0.1, 0.2, 'mean')


@pytest.mark.parametrize('head', HEADS)
def test_property_13_each_method_certifies_what_the_weaker_does(head):
    net, _ = trained(head)
    x, y = blobs(400, seed=5)
    gained = [0, 0]
    for eps in EPS:
        decisions = [
            certifier(net, clamp=clamp).residual(x, y, eps,
                                                 method).certified(y)
            for method, clamp in (('lipschitz', False), ('interval', False),
                                  ('interval', True))
        ]
        for i in range(2):
            # Implied: nothing certified is lost.
            assert not (decisions[i] & ~decisions[i + 1]).any()
            gained[i] += int((~decisions[i] & decisions[i + 1]).sum())
    assert gained[1] > 0, 'the clamp should help somewhere'


def test_training_bounds_of_features_are_the_recorded_shortcut(
        recorded_arrays):
    """Features +- eps through the head, in train mode at finite p."""
    arrays = recorded_arrays('lipschitz', 'hybrid_net.npz')
    hidden, width = arrays['L2_weight'].shape
    classes = len(arrays['L3_weight'])
    net = build_network(
        'mlp',
        classes,
        hidden,
        input_size=tuple(arrays['x'].shape[1:]),
        depth=2,
        width=width / 1024).double()
    with torch.no_grad():
        for i, layer in enumerate(distance_modules(net)):
            layer.weight.copy_(arrays[f'L{i}_weight'].flatten(1))
        for i, layer in ((2, net.head.fc1), (3, net.head.fc2)):
            layer.weight.copy_(arrays[f'L{i}_weight'])
            layer.bias.copy_(arrays[f'L{i}_bias'])
    x, y = arrays['x'].double(), arrays['label']
    features = net.body(x)
    assert torch.allclose(net.head(features), arrays['train_logits'])
    residual = net.head.lipschitz_residual(features, y,
                                           float(arrays['train_eps']))
    assert torch.allclose(residual, arrays['train_res'])
    assert residual.requires_grad
    with pytest.raises(CertificationError, match='training mode'):
        net.residual(eps_box(x, 0.1), y)


@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('method', ['interval', 'lipschitz'])
@pytest.mark.parametrize('sound', [True, False])
def test_property_16_radius_and_decision_agree(head, method, sound):
    net, _ = trained(head)
    x, y = blobs(120, seed=6)
    mine = certifier(net, sound_rounding=sound)
    radius, classes = mine.radius(x, method=method, steps=10)
    correct = classes == y
    assert torch.equal(classes, mine.predict(x).argmax(1))
    assert (radius > 0).any() and radius.dtype == torch.float64
    for eps in EPS:
        decision = mine.residual(x, y, eps, method).certified(y)
        assert torch.equal(
            certified_from_radius(radius, eps, correct), decision)
    # It is certified itself, and not by far too small.
    own = mine.residual(x, classes, radius, method).certified(classes)
    assert torch.equal(own, radius > 0)
    more = mine.residual(x, classes, (radius + 2e-3).clamp(max=1), method)
    assert not more.certified(classes).any()


def test_radius_with_known_decisions_and_labels():
    net, _ = trained()
    x, y = blobs(50, seed=9)
    mine = certifier(net)
    radius, _ = mine.radius(x, y, steps=14)
    wrong = mine.predict(x).argmax(1) != y
    assert (radius[wrong] == 0).all()
    passed = mine.residual(x, y, 0.1).certified(y)
    low = torch.where(passed, 0.1, 0.).double()
    high = torch.where(passed, 1., 0.1).double()
    again, _ = mine.radius(x, y, low=low, high=high, steps=14)
    assert torch.allclose(radius, again, atol=1e-4)
    assert torch.equal(again >= 0.1, passed)
    empty, classes = mine.radius(x[:0])
    assert empty.shape == classes.shape == (0, )


def test_lipschitz_radius_is_half_the_margin_in_pixels():
    net, _ = trained()
    x, _ = blobs(50, seed=3)
    mine = certifier(net, sound_rounding=False)
    radius, _ = mine.radius(x, method='lipschitz')
    logits = net(x).detach().double()
    assert torch.allclose(radius, radius_from_margin(logits) * STD)
    exact = certifier(net)
    sound, _ = exact.radius(x, method='lipschitz')
    assert (sound <= radius).all() and torch.allclose(sound, radius, atol=1e-4)


@pytest.mark.parametrize('head', HEADS)
def test_property_17_no_certificate_in_a_state_without_one(head):
    net = copy.deepcopy(trained(head)[0])
    x, y = blobs(3)
    mine = certifier(net)

    def ask(match, value=x):
        for method in ('interval', 'lipschitz'):
            with pytest.raises(CertificationError, match=match):
                mine.residual(value, y, 0.1, method)
            with pytest.raises(CertificationError, match=match):
                mine.radius(value, method=method)

    with p_norm(net, 1000.):
        ask('p = 1000')
    net.body.layers.fc1.p = 9.5
    ask('p = 9.5')
    set_p(net, math.inf)
    net.train()
    ask('training mode')
    net.eval().body.layers.fc2.mean_shift.train()
    ask('training mode')
    net.eval()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        ask('autocast')
    ask('float32 or float64', x.bfloat16())
    mine.residual(x, y, 0.1)
    require_certifiable(x, net)
    with pytest.raises(ValueError, match='method is one of'):
        mine.residual(x, y, 0.1, 'crown')


def test_property_19_units_of_the_preprocessor_do_not_matter():
    """Images in [0, 1] and weights in their units: the same decisions."""
    net = copy.deepcopy(trained()[0]).double()
    raw = copy.deepcopy(net)
    layers = distance_modules(raw)
    with torch.no_grad():
        for i, layer in enumerate(layers):
            layer.weight.mul_(STD)
            if i == 0:
                layer.weight.add_(MEAN)
            if layer.bias is not None:
                layer.bias.mul_(STD)
            if layer.mean_shift is not None:
                layer.mean_shift.running_mean.mul_(STD)
    x, y = blobs(500, seed=14)
    x = x.double()
    assert torch.allclose(raw(x * STD + MEAN), net(x) * STD)
    plain = certifier(raw, mean=0., std=1.)
    for method, eps in itertools.product(('interval', 'lipschitz'), EPS):
        mine = certifier(net).residual(x, y, eps, method)
        other = plain.residual(x * STD + MEAN, y, eps, method)
        assert torch.allclose(mine.value * STD, other.value, atol=1e-9)
        assert torch.equal(mine.certified(y), other.certified(y))
    radii = [
        c.radius(v)[0]
        for c, v in ((certifier(net), x), (plain, x * STD + MEAN))
    ]
    assert torch.allclose(*radii, atol=1e-6)


def test_a_tie_is_not_certified():
    logits = torch.tensor([[1., 1., 0.], [1., 0., 0.], [0., 1., 2.]])
    labels = torch.tensor([0, 0, 2])
    for eps, expected in ((0., [0, 1, 1]), (0.5, [0, 0, 0]), (0.499, [0, 1,
                                                                      1])):
        residual = lipschitz_residual(logits, labels, eps)
        assert (residual.gather(1, labels[:, None]) == 0).all()
        assert certified(residual, labels).tolist() == \
            [bool(v) for v in expected]
    assert not certified(residual, labels, slack=1.).any()
    slack = torch.tensor([0., 1., 0.])
    assert certified(residual, labels, slack).tolist() == [False, False, True]
    assert worst_margin(residual, labels)[1] == pytest.approx(-0.002, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 6),
    classes=st.integers(2, 5),
    eps=st.floats(0., 2.))
def test_head_margins_are_the_exact_range_of_a_linear_layer(
        seed, batch, classes, eps):
    """Both ways to compute them; never above bounds of logits."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight, bias, x = draw(classes, 3), draw(classes), draw(batch, 3)
    labels = torch.randint(classes, (batch, ), generator=generator)
    radius = eps * draw(batch, 3).abs()
    box = Bounds(x, x - radius, x + radius)
    mine = head_margin_bounds(box.lower, box.upper, weight, bias, labels, 0.5)
    one = torch.cat([
        head_margin_bounds(box.lower[i:i + 1], box.upper[i:i + 1], weight,
                           bias, labels[i:i + 1], 0.5) for i in range(batch)
    ])
    assert torch.allclose(mine, one)
    signs = torch.tensor(list(itertools.product([-1., 1.], repeat=3)))
    corners = x + radius * signs[:, None]
    logits = 0.5 * corners @ weight.T + bias
    margins = logits - logits.gather(
        2, labels[None, :, None].expand(len(signs), -1, 1))
    assert torch.allclose(mine, margins.amax(0), atol=1e-12)
    low, high = logits.amin(0), logits.amax(0)
    assert (mine <= interval_residual(low, high, labels) + 1e-12).all()
    careful = head_margin_bounds(
        box.lower, box.upper, weight, bias, labels, 0.5, rounding=True)
    assert (careful >= mine).all() and torch.allclose(careful, mine)


@pytest.mark.parametrize('images', [0, 4, 30])
def test_head_margins_of_many_classes_go_by_parts(images, monkeypatch):
    """Differences of all rows of weights need not fit in memory."""
    torch.manual_seed(0)
    weight = torch.randn(9, 20, dtype=torch.float64, requires_grad=True)
    lower = torch.randn(images, 20, dtype=torch.float64)
    args = (lower, lower + 0.1, weight, torch.randn(9).double(),
            torch.arange(images) % 9)
    whole = head_margin_bounds(*args, rounding=True)
    expected, = torch.autograd.grad(whole.sum(), weight)
    largest = []
    spread = certificates._spread

    def watched(weight, labels, radius):
        largest.append(len(labels) * weight.numel())
        return spread(weight, labels, radius)

    monkeypatch.setattr(certificates, '_spread', watched)
    monkeypatch.setattr(certificates, 'CELLS', 3 * 9 * 20)
    parts = head_margin_bounds(*args, rounding=True)
    assert max(largest) <= 3 * 9 * 20
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    found, = torch.autograd.grad(parts.sum(), weight)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_plus_plus_head_bounds_points_of_its_box():
    torch.manual_seed(0)
    head = BoundMLP(6, 8, 4).eval()
    torch.nn.init.normal_(head.fc1.bias)
    torch.nn.init.normal_(head.fc2.bias)
    features, labels = torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 0])
    box = eps_box(features, 0.3)
    bounds, residual = head(box), head.residual(box, labels)
    assert bounds.lower.dtype == residual.dtype == torch.float64
    naive = interval_residual(bounds.lower, bounds.upper, labels)
    assert (residual <= naive + 1e-9).all()
    assert (residual < naive - 1e-3).any(), 'the margin trick should help'
    for _ in range(300):
        step = 0.3 * torch.randn(5, 6).clamp(-1, 1)
        logits = head(features + step)
        assert logits.dtype == torch.float32
        assert (bounds.lower - 1e-6 <= logits).all()
        assert (logits <= bounds.upper + 1e-6).all()
        lead = logits - logits.gather(1, labels[:, None])
        assert (lead <= residual + 1e-5).all()
        assert logits.abs().max() <= head.largest_logit()


@pytest.mark.parametrize('training', [True, False])
def test_the_plus_plus_head_ignores_autocast(training):
    """A mixed-precision run trains it, and evaluates it, in float32."""
    torch.manual_seed(0)
    head = BoundMLP(6, 8, 4).train(training)
    features, labels = torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 0])
    plain = head(features), head.lipschitz_residual(features, labels, 0.1)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(head(features), plain[0])
        if not training:
            with pytest.raises(CertificationError, match='autocast'):
                head.lipschitz_residual(features, labels, 0.1)
            return
        residual = head.lipschitz_residual(features, labels, 0.1)
    assert torch.equal(residual, plain[1])
    assert residual.dtype == torch.float32


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.integers(0, 20))
def test_bisection_brackets_the_largest_radius(seed, steps):
    limit = torch.rand(6, generator=torch.Generator().manual_seed(seed))
    limit[0] = 0.
    limit[1] = 1.
    found = bisect_radius(lambda r: r <= limit, torch.zeros(6), torch.ones(6),
                          steps)
    assert (found <= limit).all()
    assert (found >= limit - 2.**-steps).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), eps=st.floats(0., 0.3))
def test_no_random_attack_breaks_a_certificate(seed, eps):
    """Points and vertices of the valid ball, for both heads."""
    generator = torch.Generator().manual_seed(seed)
    for head in HEADS:
        net, _ = trained(head)
        x, y = blobs(20, seed=seed)
        good = certifier(net).residual(x, y, eps).certified(y)
        step = torch.rand(100, *x.shape, generator=generator) * 2 - 1
        step[::2] = step[::2].sign()
        moved = (x + step * eps / STD).clamp(LOW, HIGH).flatten(0, 1)
        with torch.no_grad():
            right = net(moved).argmax(1).view(100, 20) == y
        assert right[:, good].all()


def test_a_backbone_that_gives_a_tuple_serves_too():
    net = small('mlp', classes=3)
    x = pixels(4, net.body.input_size)
    labels = net(x).argmax(1)

    class Backbone(torch.nn.Module):

        def __init__(self):
            super().__init__()
            self.body = net.body

        def forward(self, value):
            return (self.body(value), )

    ends = [
        Certifier(body, net.head, MEAN, STD).residual(x, labels, 0.01, method)
        for body in (net.body, Backbone().eval())
        for method in ('interval', 'lipschitz')
    ]
    for a, b in zip(ends[:2], ends[2:]):
        assert torch.equal(a.value, b.value)
        assert torch.equal(a.slack, b.slack)
