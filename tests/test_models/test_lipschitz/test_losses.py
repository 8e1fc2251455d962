# Copyright (c) mmext contributors. All rights reserved.
"""Objectives of distance nets against recorded numbers."""
import re

import pytest
import torch

from mmext.models.lipschitz import losses
from mmext.models.lipschitz.loss_modules import (LipCEHingeLoss,
                                                 LipCrossEntropyLoss,
                                                 LipHingeLoss, LipMaskedCELoss,
                                                 LipMixtureLoss,
                                                 LipScaledHingeLoss)


def value_of(key):
    """The number at the end of a key, ``mix0_25`` -> 0.25."""
    return float(
        re.search(r'([0-9]+(?:_[0-9]+)?)$', key).group(1).replace('_', '.'))


@pytest.fixture(scope='module')
def golden(recorded_arrays):
    return recorded_arrays('lipschitz', 'losses.npz')


@pytest.fixture(params=[torch.float64, torch.float32], ids=str)
def data(golden, request):
    labels = golden['label']
    worst, logits, scaled = (
        golden[key].to(request.param)
        for key in ('worst_margin', 'logits', 'v2_worst_margin'))
    atol = 1e-9 if request.param == torch.float64 else 2e-5
    return labels, worst, logits, scaled, dict(rtol=atol, atol=atol)


def recorded(golden, prefix):
    keys = [key for key in golden if re.fullmatch(prefix + r'[0-9_]+', key)]
    assert keys, f'no {prefix}* in the recording'
    return [(value_of(key), golden[key].double()) for key in keys]


def close(found, wanted, tolerance):
    torch.testing.assert_close(found.double(), wanted, **tolerance)


def test_first_generation(golden, data):
    labels, worst, logits, _, tolerance = data
    clean = losses.margins(logits, labels)
    for mix, wanted in recorded(golden, 'v1_hinge_mix'):
        close(losses.hinge_loss(worst, mix), wanted, tolerance)
    for mix, wanted in recorded(golden, 'v1_hinge_clean_mix'):
        close(losses.hinge_loss(clean, mix), wanted, tolerance)
    for module, prefix in ((LipCrossEntropyLoss(), 'v1_ce_kappa'),
                           (LipHingeLoss(0.75), 'v1_hinge75_kappa')):
        for kappa, wanted in recorded(golden, prefix):
            close(
                module(logits, worst, labels, 1., kappa=kappa), wanted,
                tolerance)


def test_successors(golden, data):
    labels, worst, logits, scaled, tolerance = data
    for mix, wanted in recorded(golden, 'v2_hinge_mix'):
        close(losses.scaled_hinge_loss(scaled, mix), wanted, tolerance)
        theta = 0.25
        close(
            LipScaledHingeLoss(mix)(logits, scaled * theta, labels, theta),
            wanted, tolerance)
    for lam, wanted in recorded(golden, 'v2_mixture_lam'):
        close(
            losses.mixture_loss(scaled, logits, labels, lam), wanted,
            tolerance)
        module = LipMixtureLoss().to(logits.dtype)
        close(
            module(logits, scaled * 0.25, labels, 0.25, lam=lam), wanted,
            tolerance)
    for lam, wanted in recorded(golden, 'sort_ce_hinge_lam'):
        close(
            LipCEHingeLoss().to(logits.dtype)(
                logits, worst, labels, 1., lam=lam), wanted, tolerance)


def test_masked_cross_entropy():
    logits = torch.tensor([[2., 0., 1.], [2., 0., 1.]])
    labels = torch.tensor([0, 1])
    residual = losses.margins(logits, labels)
    residual += 0.5 * (residual != 0)
    first = torch.logsumexp(residual[0], 0)
    plain = torch.nn.functional.cross_entropy(logits, labels)
    found = LipMaskedCELoss()(logits, residual, labels, 1., lam=0.1)
    torch.testing.assert_close(found, (first / 2 + 0.1 * plain).reshape(()))


@pytest.mark.parametrize(
    'module', [
        LipHingeLoss(),
        LipCrossEntropyLoss(),
        LipScaledHingeLoss(),
        LipMixtureLoss(),
        LipCEHingeLoss(),
        LipMaskedCELoss()
    ],
    ids=lambda m: type(m).__name__)
def test_a_radius_of_zero(module):
    """The first iteration of a ramp divides by no threshold."""
    logits = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0])
    residual = losses.margins(logits, labels)
    loss = module(logits, residual, labels, 0., kappa=0.5, lam=0.1)
    loss.backward()
    assert loss.dim() == 0 and loss.isfinite() and logits.grad.isfinite().all()


def test_no_gradient_from_misclassified_images():
    """Beyond the clip only the cross-entropy is left."""
    # An image that is wrong by half the threshold.
    for clip, learns in ((0.5, False), (1., False), (1.6, True)):
        wrong = torch.tensor([[0., 0.2]], requires_grad=True)
        labels, module = torch.tensor([0]), LipMixtureLoss(clip)
        residual = losses.margins(wrong, labels) + torch.tensor([[0., 0.4]])
        module(wrong, residual, labels, 0.4, lam=0.).backward()
        assert wrong.grad.any() == learns == (not module.needs_lam)
    logits = torch.tensor([[0., 3., 1.], [3., 0., 2.9]], requires_grad=True)
    labels = torch.tensor([0, 0])
    module, theta = LipMixtureLoss(), 0.4
    residual = losses.margins(logits, labels)
    residual = residual + theta * torch.tensor([[0., 1, 1], [0., 1, 1]])
    module(logits, residual, labels, theta, lam=0.).backward()
    assert (logits.grad[0] == 0).all() and logits.grad[1].abs().sum() > 0
    assert [n for n, _ in module.named_parameters()] == ['scale']


@pytest.mark.parametrize('build, match', [
    (lambda: LipHingeLoss(mix=2), 'mix is a weight'),
    (lambda: LipMixtureLoss(clip=0), 'clip is positive'),
    (lambda: losses.scale_residual(torch.ones(1, 1), -1.), 'not negative'),
    (lambda: LipHingeLoss()
     (torch.ones(1, 2), torch.ones(1, 2), torch.tensor([0]), 1., kappa=2.),
     'kappa lies'),
])
def test_wrong_options(build, match):
    with pytest.raises(ValueError, match=match):
        build()
