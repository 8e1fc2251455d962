# Copyright (c) mmext contributors. All rights reserved.
"""Attacks."""
import pytest
import torch
import torch.nn as nn

from mmext.models.lipschitz.attacks import autoattack, pgd_attack, wrong_margin
from . import fake_autoattack


def network(seed=0, classes=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 9, 16), nn.Tanh(),
                         nn.Linear(16, classes)).eval()


def batch(count=6, classes=4):
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(count, 2, 3, 3, generator=rng)
    return x, torch.randint(classes, (count, ), generator=rng)


def clean_batch(model, count=6):
    """Images with the labels that the network gives them."""
    x = batch(count)[0]
    with torch.no_grad():
        return x, model(x).argmax(1)


@pytest.mark.parametrize('loss', ['margin', 'ce', ('margin', 'ce')])
def test_stays_in_ball_and_box(loss):
    model = network()
    x, y = clean_batch(model)
    eps = torch.tensor([0.3, 0.1])
    box = (torch.tensor([0., 0.2]), torch.tensor([1., 0.9]))
    adv = pgd_attack(
        model, x.clamp(0.2, 0.9), y, eps, box, steps=5, restarts=2, loss=loss)
    moved = (adv - x.clamp(0.2, 0.9)).abs().amax((0, 2, 3))
    assert (moved <= eps + 1e-6).all() and (moved > 0.5 * eps).all()
    low, high = adv.amin((0, 2, 3)), adv.amax((0, 2, 3))
    assert (low >= box[0]).all() and (high <= box[1]).all()
    assert not adv.requires_grad


def test_raises_the_margin():
    model = network()
    x, y = clean_batch(model, 30)
    rng = torch.Generator().manual_seed(0)
    adv = pgd_attack(model, x, y, 0.3, steps=10, restarts=2, generator=rng)
    before, after = wrong_margin(model(x), y), wrong_margin(model(adv), y)
    assert (after > before).all()
    assert (after > 0).sum() > 3
    # More steps and restarts find no less.
    weak = pgd_attack(
        model, x, y, 0.3, steps=1, restarts=1, random_start=False)
    assert (wrong_margin(model(weak), y) > 0).sum() <= (after > 0).sum()


@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode])
def test_inside_validation_loops(context):
    """Trap 19: gradients are off there, and eval mode must stay on."""
    model = network()
    with context():
        x, y = clean_batch(model)
        adv = pgd_attack(model, x, y, 0.3, steps=3)
        assert not torch.is_grad_enabled()
    assert not torch.equal(adv, x)
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_seeds():
    model = network()
    x, y = clean_batch(model)

    def attack(seed):
        rng = torch.Generator().manual_seed(seed)
        return pgd_attack(model, x, y, 0.3, steps=2, generator=rng)

    state = torch.get_rng_state()
    assert torch.equal(attack(0), attack(0))
    assert not torch.equal(attack(0), attack(1))
    assert torch.equal(state, torch.get_rng_state())


def test_plain_steps():
    """Without random start and best-of: signed steps of a quarter."""
    model = network()
    x, y = batch()
    adv = pgd_attack(
        model,
        x,
        y,
        0.4,
        steps=1,
        restarts=1,
        loss='ce',
        random_start=False,
        keep='last')
    leaf = x.clone().requires_grad_()
    nn.functional.cross_entropy(model(leaf), y).backward()
    torch.testing.assert_close(adv, x + 0.1 * leaf.grad.sign())


def test_a_surrogate_gives_the_gradient():
    model = network()
    x, y = clean_batch(model)
    blind = lambda z: torch.zeros(len(z), 4) + 0 * z.sum()  # noqa: E731
    kept = pgd_attack(blind, x, y, 0.3, steps=2, random_start=False)
    assert torch.equal(kept, x)
    moved = pgd_attack(
        blind,
        x,
        y,
        0.3,
        steps=2,
        random_start=False,
        keep='last',
        surrogate=model)
    assert not torch.equal(moved, x)


def test_radius_zero_and_nothing():
    model = network()
    x, y = clean_batch(model)
    assert torch.equal(pgd_attack(model, x, y, 0., steps=3), x)
    empty = pgd_attack(model, x[:0], y[:0], 0.1, steps=2)
    assert empty.shape == x[:0].shape


@pytest.mark.parametrize('options, message', [(dict(loss='dlr'), 'margin'),
                                              (dict(steps=-1), 'steps'),
                                              (dict(restarts=0), 'restarts'),
                                              (dict(keep='worst'), 'keep')])
def test_wrong_options(options, message):
    x, y = batch()
    with pytest.raises(ValueError, match=message):
        pgd_attack(network(), x, y, 0.1, **options)


def test_train_mode_is_refused():
    x, y = batch()
    with pytest.raises(ValueError, match='eval'):
        pgd_attack(network().train(), x, y, 0.1)


@pytest.mark.parametrize('package', ['torchattacks', 'autoattack'])
def test_autoattack_of_a_package(package, monkeypatch):
    calls = fake_autoattack.install(monkeypatch, package)
    x, y = batch()
    with torch.no_grad():
        adv = autoattack(network(), x, y, 0.1, seed=3)
    torch.testing.assert_close(adv, (x + 0.1).clamp(0, 1))
    assert [(c['version'], c['seed']) for c in calls] == [('standard', 3)]


def test_autoattack_says_what_to_install(monkeypatch):
    monkeypatch.setattr('mmext.models.lipschitz.attacks.has',
                        lambda name: False)
    with pytest.raises(ImportError, match='pip install torchattacks'):
        autoattack(network(), *batch(), 0.1)
