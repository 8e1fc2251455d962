# Copyright (c) mmext contributors. All rights reserved.
"""Attacks on certified classifiers, and in their evaluation."""
import math

import pytest
import torch

from mmext.models.lipschitz.attacks import pgd_attack
from mmext.models.lipschitz.p_norm import get_p
from mmext.utils.user_error import ConfigError
from ..test_lipschitz import fake_autoattack
from .lip_certifying import batch, certifying
from .lip_models import build, classifier, predict, preprocessed, stacked


def attacks(model, x, labels, eps, box, generator):
    """PGD with two losses, random points and vertices (property 14)."""
    for loss in ('margin', 'ce'):
        yield pgd_attack(
            model.scores,
            x,
            labels,
            eps,
            box,
            steps=100,
            restarts=5,
            loss=loss,
            generator=generator)
    for _ in range(20):
        shape = (50, *x.shape)
        yield x + eps * (2 * torch.rand(shape, generator=generator) - 1)
    for _ in range(2):
        yield x + eps * torch.randint(
            0, 2, shape, generator=generator).mul(2).sub(1)


@pytest.mark.parametrize('head', ['lip', 'mlp'])
def test_no_attack_breaks_a_certificate(head):
    """Property 14 on images that are certified by little: their radius."""
    model = certifying(head, radius_steps=14, clamp=False)
    found = predict(model, batch())
    radius = stacked(found, 'certified_radius').float()
    labels = stacked(found, 'pred_label')[:, 0]
    rows = radius > 0
    x = preprocessed(model, batch())['inputs'][rows]
    labels = labels[rows]
    eps = (radius[rows] * 255 / 60).reshape(-1, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    for adversarial in attacks(model, x, labels, eps, None, generator):
        found = model.scores(adversarial.reshape(-1, *x.shape[1:])).argmax(1)
        assert (found.reshape(-1, len(x)) == labels).all()
    # A ball of a few times the radius is not safe: the attack is no fake.
    broken = pgd_attack(model.scores, x, labels, 6 * eps, steps=20)
    assert (model.scores(broken).argmax(1) != labels).any()


@pytest.mark.parametrize('options', [
    dict(steps=20, restarts=2),
    dict(
        steps=10,
        restarts=2,
        loss=['margin', 'ce'],
        surrogate_p=20.,
        step_size=0.1)
])
@pytest.mark.parametrize('head', ['lip', 'mlp'])
def test_attack_in_the_evaluation(head, options):
    """Property 15: certified <= attacked <= clean, sample by sample."""
    model = certifying(head, eps=[0.15, 0.0, 0.02], attack=options)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        found = predict(model, batch())
    certified, attacked = (
        stacked(found, n) for n in ('certified', 'attacked'))
    right = stacked(found, 'pred_label') == stacked(found, 'gt_label')
    assert (certified <= attacked).all() and (attacked <= right).all()
    assert torch.equal(attacked[:, 1], right[:, 0])
    assert attacked[:, 0].sum() < attacked[:, 2].sum() <= right.sum()
    # Mode, p, weights, gradients and the generator are as before.
    assert not model.training and get_p(model) == math.inf
    assert all(
        torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    again = predict(model, batch())
    assert torch.equal(attacked, stacked(again, 'attacked'))


@pytest.mark.parametrize('package', fake_autoattack.FAKES)
def test_autoattack_in_the_evaluation(monkeypatch, package):
    """Of images in [0, 1], by eps in pixels, on what still stands."""
    calls = fake_autoattack.install(monkeypatch, package)
    model = certifying(
        eps=[0.15, 0.0, 0.02],
        attack=dict(type='autoattack', version='rand', seed=4))
    with torch.no_grad():
        found = predict(model, batch())
    certified, attacked = (
        stacked(found, n) for n in ('certified', 'attacked'))
    right = (stacked(found, 'pred_label') == stacked(found, 'gt_label'))[:, 0]
    assert (certified <= attacked).all() and (attacked <= right[:, None]).all()
    assert torch.equal(attacked[:, 1], right)
    assert attacked[:, 0].sum() < attacked[:, 2].sum()
    # The images that it got, and what became of them, in other words.
    assert [c['eps'] for c in calls] == [0.0, 0.02, 0.15]
    assert all(c['version'] == 'rand' and c['seed'] == 4 for c in calls)
    pixels = batch()['inputs'].float() / 255
    labels = stacked(found, 'gt_label')[:, 0]
    standing = right.clone()
    for column, call in zip((1, 2, 0), calls):
        torch.testing.assert_close(
            call['x'], pixels[standing], rtol=0, atol=1e-6)
        assert torch.equal(call['y'], labels[standing])
        moved = 255 * (pixels + call['eps']).clamp(max=1)
        standing &= model.scores((moved - 100) / 60).argmax(1) == labels
        assert torch.equal(attacked[:, column], standing)
    assert not model.training and all(p.requires_grad
                                      for p in model.parameters())


def test_autoattack_without_a_package(monkeypatch):
    """Said when the model is built, not at its first validation."""
    monkeypatch.setattr('mmext.models.lipschitz.attacks.has',
                        lambda name: False)
    with pytest.raises(ConfigError, match='pip install torchattacks'):
        build(
            classifier(certify=dict(eps=0.1, attack=dict(type='autoattack'))))
