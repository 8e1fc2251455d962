# Copyright (c) mmext contributors. All rights reserved.
"""Certificates in the predictions of a classifier."""
import math

import pytest
import torch
from mmengine.structures import BaseDataElement

from mmext.models.lipschitz.attacks import pgd_attack
from mmext.models.lipschitz.p_norm import get_p, set_p
from .lip_certifying import EPS, batch, certifying
from .lip_models import (CLASSES, build, classifier, finished, images,
                         lip_head, mlp_body, predict, preprocessed, samples,
                         stacked)

FIELDS = {'certify_eps', 'certified', 'worst_margin', 'certified_radius'}


@pytest.mark.stack_subset
@pytest.mark.parametrize('method', ['interval', 'lipschitz'])
@pytest.mark.parametrize('head', ['lip', 'mlp'])
def test_fields(head, method):
    found = predict(certifying(head, method=method), batch())
    assert FIELDS <= set(found[0].keys())
    assert ('radius_lipschitz' in found[0]) == (head == 'lip')
    assert stacked(found, 'certify_eps')[0].tolist() == EPS
    certified = stacked(found, 'certified')
    assert certified.dtype == torch.bool and certified.shape == (40, 5)
    assert 0 < certified[:, 2].sum() and not certified[:, 4].all()
    assert all(isinstance(s, BaseDataElement) for s in found)


@pytest.mark.parametrize('steps', [None, 6])
@pytest.mark.parametrize('method', ['interval', 'lipschitz'])
@pytest.mark.parametrize('head', ['lip', 'mlp'])
def test_radius_and_decisions_agree(head, method, steps):
    """Property 16; property 15: certified accuracy falls with eps."""
    found = predict(
        certifying(head, method=method, radius_steps=steps), batch())
    certified, radius = (
        stacked(found, name) for name in ('certified', 'certified_radius'))
    right = stacked(found, 'pred_label') == stacked(found, 'gt_label')
    eps = torch.tensor(EPS, dtype=torch.float64)[1:]
    assert torch.equal(certified[:, 1:], (eps <= radius[:, None]) & right)
    # At eps = 0 it is the clean accuracy.
    assert torch.equal(certified[:, 0], right[:, 0])
    assert (certified[:, 1:] <= certified[:, :-1]).all()
    # The residual says the same, up to what the radius adds.
    worst = stacked(found, 'worst_margin')
    assert (worst[~right[:, 0], 0] > 0).all()
    assert (worst[:, 1:] >= worst[:, :-1]).all()
    assert (certified >= (worst < -1e-4)).all()
    assert (certified <= (worst < 0)).all()


def test_more_steps_find_larger_radii():
    coarse = predict(certifying(radius_steps=0), batch())
    fine = predict(certifying(radius_steps=10), batch())
    coarse, fine = (stacked(f, 'certified_radius') for f in (coarse, fine))
    assert (fine >= coarse - 1e-12).all() and (fine > coarse).any()


def test_without_labels():
    """A deployed model certifies what it predicts."""
    model = certifying(attack=dict(steps=2))
    data = preprocessed(model, batch())
    found = model(data['inputs'], mode='predict')
    labelled = predict(model, batch())
    assert torch.equal(
        stacked(found, 'certified_radius'),
        stacked(labelled, 'certified_radius'))
    right = stacked(labelled, 'pred_label') == stacked(labelled, 'gt_label')
    assert torch.equal(
        stacked(found, 'certified')[right[:, 0]],
        stacked(labelled, 'certified')[right[:, 0]])
    assert 'attacked' not in found[0]


def test_samples_with_and_without_labels():
    """A batch with a missing label is certified label-free."""
    from mmpretrain.structures import DataSample
    model = certifying()
    data = preprocessed(model, batch(2))
    found = model(
        data['inputs'], [*samples([0]), DataSample()], mode='predict')
    assert found[0].certified.shape == (5, )
    assert int(found[1].pred_label) < CLASSES


def test_clamp_and_rounding():
    """The clamp adds certificates, slack costs next to nothing."""

    def radius(**options):
        found = predict(certifying(radius_steps=12, **options), batch())
        return stacked(found, 'certified_radius')

    exact = radius(sound_rounding=False, clamp=False)
    assert (radius(clamp=False) <= exact).all()
    assert (exact - radius(clamp=False)).max() < 1e-4
    assert (radius(sound_rounding=False) >= exact - 1e-9).all()


def test_radius_can_be_left_out():
    found = predict(certifying(radius=False), batch())
    assert 'certified_radius' not in found[0]
    assert torch.equal(
        stacked(found, 'certified'),
        stacked(predict(certifying(), batch()), 'certified'))


def test_force_inf():
    """A finite p is forced to inf for the prediction only, by request."""
    model = certifying(force_inf=True)
    expected = stacked(predict(model, batch()), 'certified_radius')
    try:
        set_p(model, 64.)
        forced = stacked(predict(model, batch()), 'certified_radius')
        assert get_p(model) == 64.
    finally:
        set_p(model, math.inf)
    assert torch.equal(forced, expected)


def test_channels_with_their_own_std():
    """Property 20: boxes per channel, the largest radius for the rule."""
    body = mlp_body(in_channels=3)
    model = finished(
        classifier(
            'lip',
            body,
            dict(eps=[0.01, 0.05], clamp=False),
            data_preprocessor=dict(
                mean=[100., 90., 80.], std=[60., 30., 45.], to_rgb=True)))
    assert model.head.eps_scale == pytest.approx(255 / 30)
    data = images(channels=3)
    found = predict(model, data)
    x = preprocessed(model, data)['inputs']
    from mmext.models.lipschitz.bounds import Bounds
    radius = (0.05 * 255 / torch.tensor([60., 30., 45.])).reshape(3, 1, 1)
    labels = stacked(found, 'gt_label')[:, 0]
    with torch.no_grad():
        feats = model.backbone(Bounds(x, x - radius, x + radius))
        residual = model.head.bounds(feats, labels)
        bounds = model.head(feats)
    worst = residual.scatter(1, labels[:, None], -math.inf).amax(1)
    torch.testing.assert_close(
        stacked(found, 'worst_margin')[:, 1].float(),
        worst.float(),
        rtol=1e-4,
        atol=1e-4)
    assert (bounds.lower <= bounds.x).all() and (bounds.x
                                                 <= bounds.upper).all()


def test_units_do_not_matter():
    """Property 19: mean and std moved into the first layer."""
    model = certifying(eps=[0.01, 0.03])
    expected = predict(model, batch())
    plain = build(
        classifier(
            certify=dict(eps=[0.01, 0.03]),
            data_preprocessor=dict(mean=[0.], std=[60.])))
    state = model.state_dict()
    state['backbone.body.layers.fc1.weight'] = \
        state['backbone.body.layers.fc1.weight'] + 100 / 60
    plain.load_state_dict(state)
    set_p(plain.eval(), math.inf)
    found = predict(plain, batch())
    assert torch.equal(
        stacked(found, 'certified'), stacked(expected, 'certified'))
    torch.testing.assert_close(
        stacked(found, 'certified_radius'),
        stacked(expected, 'certified_radius'),
        rtol=1e-4,
        atol=1e-5)


@pytest.mark.parametrize('method', ['interval', 'lipschitz'])
def test_weights_that_are_nan_certify_nothing(method):
    """Without a word of eps, which is as it should be."""
    model = finished(
        classifier(
            certify=dict(
                eps=[0.01], method=method, clamp=False, radius_steps=5)))
    with torch.no_grad():
        model.backbone.body.layers.fc1.weight[0, 0] = math.nan
    found = predict(model, images(4))
    assert not stacked(found, 'certified').any()
    assert not stacked(found, 'certified_radius').any()


@pytest.mark.parametrize('body, channels, size', [
    (dict(type='mmext.LipConv', width=2 / 32, hidden=24), 3, 6),
    (dict(type='mmext.LipLeNet', hidden=24), 1, 20),
    (dict(type='mmext.LipLeNet', hidden=24, input_pad=2), 1, 16),
    (dict(type='mmext.LipAlexNet', hidden=24), 1, 20),
    (dict(type='mmext.LipVGG', hidden=24), 3, 16),
    (dict(type='mmext.LipConv', width=2 / 32, hidden=24), 3, (7, 10)),
    (dict(type='mmext.LipLeNet', hidden=24, input_pad=2), 1, (16, 23)),
    (dict(type='mmext.LipAlexNet', hidden=24), 1, (26, 20)),
    (dict(type='mmext.LipVGG', hidden=24), 1, (16, 20)),
    (dict(type='mmext.LipMLP', depth=2, width=24 / 1024,
          sort=dict(rho=0.8)), 1, 6),
])
def test_every_backbone_certifies(body, channels, size):
    """Other architectures, input sizes and SortNet neurons."""
    model = finished(
        classifier(
            lip_head(sort=body.get('sort')),
            dict(body, in_channels=channels, img_size=size),
            dict(eps=[0.001], radius_steps=2)))
    data = images(4, channels, size)
    found = predict(model, data)
    radius = stacked(found, 'certified_radius')
    assert (radius > 0).any() and (
        radius >= stacked(found, 'radius_lipschitz') - 1e-9).all()
    x = preprocessed(model, data)['inputs']
    eps = (radius.float() * 255 / 60).reshape(-1, 1, 1, 1)
    labels = stacked(found, 'pred_label')[:, 0]
    _, *box = model.input_space()
    adversarial = pgd_attack(model.scores, x, labels, eps, box, steps=5)
    rows = radius > 0
    assert torch.equal(model.scores(adversarial).argmax(1)[rows], labels[rows])
