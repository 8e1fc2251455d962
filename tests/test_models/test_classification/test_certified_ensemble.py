# Copyright (c) mmext contributors. All rights reserved.
"""Certified averages of classifiers."""
import math
from copy import deepcopy

import pytest
import torch

from mmext.models.lipschitz.attacks import pgd_attack, wrong_margin
from mmext.models.lipschitz.ensemble import average
from ..test_lipschitz.nets import stretch
from .lip_ensembles import EPS, WIDE, Module, ensemble, evaluated, three
from .lip_models import (CLASSES, build, classifier, finished, images,
                         lip_head, mlp_body, predict, preprocessed, stacked,
                         trained)


@pytest.fixture
def golden(recorded_arrays):
    return recorded_arrays('lipschitz', 'ensemble.npz')


def golden_ensemble(golden):
    """The recorded members as classifiers in float64."""
    count, (_, channels, *size) = int(golden['K']), golden['x'].shape
    low, high = float(golden['down'][0]), float(golden['up'][0])
    std = 255 / (high - low)
    members = []
    for k in range(count):
        first, last = (
            golden[f'm{k}_L{i}_weight'].flatten(1) for i in range(2))
        model = build(
            classifier(
                lip_head(num_classes=len(last), in_channels=len(first)),
                mlp_body(
                    depth=1,
                    width=len(first) / 1024,
                    in_channels=channels,
                    img_size=tuple(size)),
                data_preprocessor=dict(mean=[-low * std], std=[std])))
        model.load_state_dict({
            'backbone.body.layers.fc1.weight':
            first,
            'backbone.body.layers.fc1.mean_shift.running_mean':
            golden[f'm{k}_running_mean'],
            'head.classifier.fc.weight':
            last,
            'head.classifier.fc.bias':
            golden[f'm{k}_L1_bias']
        })
        members.append(Module(model.double()))
    eps = (golden['eps_list_normalised'] / (high - low)).tolist()
    built = evaluated(
        ensemble(members, certify=dict(eps=eps,
                                       sound_rounding=False))).double()
    return built, (golden['x'].double() - low) * std


@pytest.mark.stack_subset
def test_golden_ensemble(golden):
    """Property 26: logits, residuals and all decisions as recorded."""
    model, pixels = golden_ensemble(golden)
    labels = golden['label']
    torch.testing.assert_close(
        model.scores(pixels), golden['fusion_logits'], rtol=1e-5, atol=1e-5)
    from .lip_models import samples
    found = model(pixels, samples(labels), mode='predict')
    certified = stacked(found, 'certified')
    alone = stacked(found, 'member_certified')
    for j in range(len(golden['eps_list_normalised'])):
        residual = golden[f'e{j}_fusion_res'].scatter(1, labels[:, None],
                                                      -math.inf).amax(1)
        torch.testing.assert_close(
            stacked(found, 'worst_margin')[:, j],
            residual,
            rtol=1e-5,
            atol=1e-5)
        assert torch.equal(certified[:, j], golden[f'e{j}_fusion_cert'])
        assert torch.equal(alone[:, :, j].T, golden[f'e{j}_member_cert'])
        for name, key in (('unanimous', 'unanimous'), ('majority',
                                                       'majority')):
            assert torch.equal(
                stacked(found, f'certified_{name}')[:, j],
                golden[f'e{j}_{key}_cert'])
        right = stacked(found, 'pred_label')[:, 0] == labels
        lipschitz = right & (
            stacked(found, 'radius_lipschitz') >= model.certify.eps[j])
        assert torch.equal(lipschitz, golden[f'e{j}_fusion_lip_cert'])


def test_one_member_is_that_member():
    """Property 27: K = 1 reproduces the single model, bit for bit."""
    single = finished(
        classifier(certify=dict(eps=EPS, attack=dict(steps=3, restarts=1))))
    alone = predict(single, images())
    member = deepcopy(single)
    model = evaluated(
        ensemble([Module(member)],
                 certify=dict(eps=EPS, attack=dict(steps=3, restarts=1))))
    found = predict(model, images())
    for name in ('pred_score', 'pred_label', 'certified', 'worst_margin',
                 'certified_radius', 'radius_lipschitz', 'attacked'):
        assert torch.equal(stacked(found, name), stacked(alone, name)), name


@pytest.mark.parametrize('head', ['lip', 'mlp'])
def test_copies_are_that_member(head):
    """Property 27: K copies, whatever their weights."""
    single = finished(classifier(head, certify=dict(eps=EPS)))
    alone = predict(single, images())
    model = evaluated(
        ensemble([Module(deepcopy(single), weight=w) for w in (1, 2, 5)]))
    found = predict(model, images())
    assert torch.equal(
        stacked(found, 'pred_label'), stacked(alone, 'pred_label'))
    assert torch.equal(
        stacked(found, 'certified'), stacked(alone, 'certified'))
    for name in ('worst_margin', 'certified_radius'):
        torch.testing.assert_close(
            stacked(found, name), stacked(alone, name), rtol=1e-6, atol=1e-6)


def test_weights():
    """Property 29: normalised; the average of members' own logits."""
    members = three()
    model = evaluated(
        ensemble([Module(m, weight=w) for m, w in zip(members, (1, 3, 4))]))
    torch.testing.assert_close(
        model.weights,
        torch.tensor([1, 3, 4], dtype=torch.float64) / 8)
    batch = images()
    logits = torch.stack(
        [m.scores(preprocessed(m, batch)['inputs']) for m in members])
    pixels = preprocessed(model, batch)['inputs']
    assert torch.equal(model(pixels), average(logits, [1, 3, 4]))
    with pytest.raises(ValueError, match='negative'):
        build(
            ensemble(
                [Module(m, weight=w) for m, w in zip(members, (1, -1, 4))]))
    # Without a certificate the predictions are the same.
    plain = evaluated(ensemble([Module(m) for m in members], certify=None))
    assert 'certified' not in predict(plain, batch)[0]


@pytest.mark.parametrize('mixed', [False, True])
def test_theorems_hold_sample_by_sample(mixed):
    """Property 26: R_F >= sum a_k R_k; unanimity implies certified."""
    members = three(mixed)
    data = images(40)
    model = evaluated(ensemble([Module(m) for m in members]))
    found = predict(model, data)
    certified = stacked(found, 'certified')
    unanimous, majority = (
        stacked(found, f'certified_{n}') for n in ('unanimous', 'majority'))
    alone = stacked(found, 'member_certified')
    assert alone.shape == (40, 3, 3)
    assert torch.equal(unanimous, alone.all(1))
    assert torch.equal(majority, alone.sum(1) >= 2)
    assert (certified >= unanimous).all() and (majority >= unanimous).all()
    assert (stacked(found, 'member_correct')[..., None] >= alone).all()
    labels = stacked(found, 'pred_label')[:, 0]
    certifier = model.certifier()
    pixels = preprocessed(model, data)['inputs']
    if not mixed:
        # Signed radii of the members in pixel units, without slack.
        theirs = -wrong_margin(
            model.member_scores(pixels).flatten(0, 1),
            labels.repeat(3)).reshape(3, -1) / 2 * 60 / 255
        assert certifier.lipschitz
        mine = stacked(found, 'radius_lipschitz')
        assert (mine >= average(theirs) - 1e-5).all()
        assert (theirs < 0).any()
        assert (mine > 0).any()
    else:
        assert not certifier.lipschitz
        assert 'radius_lipschitz' not in found[0]
    # In its own pixels an average of Lipschitz logits moves by A at most.
    other = pixels + 2.55 * (2 * torch.rand(pixels.shape) - 1)
    if not mixed:
        moved = (model.scores(other) - model.scores(pixels)).abs().amax()
        assert moved <= 2.55 / 60 * (1 + 1e-5)


def test_property_10_the_average_is_lipschitz():
    """Trained members, averages of their weights, and other stds: in pixels
    a logit of the average moves by the average of 1 / std at most."""
    live, ema = (deepcopy(m) for m in trained())
    model = evaluated(
        ensemble([
            Module(live),
            Module(ema, weight=2.),
            Module(three()[2]),
        ])).double()
    limit = float(model.weights @ torch.tensor([1 / 60, 1 / 60, 1 / 75],
                                               dtype=torch.float64))
    pixels = preprocessed(model, images(6))['inputs']
    # Large steps, beside which the rounding of pixels to float32 is small.
    found = stretch(model.scores, pixels, eps=60, steps=60, least=60)
    assert 0.05 * limit < found <= limit * (1 + 1e-5)


@pytest.mark.parametrize('mixed', [False, True])
def test_no_attack_breaks_the_average(mixed):
    """Property 27: attacks on the average and on each member."""
    members = three(mixed)
    model = evaluated(
        ensemble([Module(m) for m in members],
                 certify=dict(eps=[0.002, 0.01], radius_steps=10)))
    data = images(30)
    found = predict(model, data)
    radius = stacked(found, 'certified_radius').float()
    rows = radius > 0
    pixels = preprocessed(model, data)['inputs'][rows]
    labels = stacked(found, 'pred_label')[:, 0][rows]
    eps = radius[rows].reshape(-1, 1, 1, 1) * 255
    box = (torch.zeros(1), torch.full((1, ), 255.))
    targets = [
        lambda x, k=k: model.members[k].scores(model.member_inputs(k, x))
        for k in range(3)
    ]
    generator = torch.Generator().manual_seed(0)
    assert len(pixels) > 20
    runs = [(model.scores, 'margin', 20), (model.scores, 'ce', 20)]
    runs += [(target, 'margin', 10) for target in targets]
    for target, loss, steps in runs:
        adversarial = pgd_attack(
            target,
            pixels,
            labels,
            eps,
            box,
            steps=steps,
            restarts=2,
            loss=loss,
            generator=generator)
        assert torch.equal(model.scores(adversarial).argmax(1), labels)
    far = pgd_attack(model.scores, pixels, labels, 8 * eps, box, steps=20)
    assert (model.scores(far).argmax(1) != labels).any()


def test_attack_is_on_the_average():
    model = evaluated(
        ensemble([Module(m) for m in three()],
                 certify=dict(
                     eps=[0.01, 0.2], attack=dict(steps=10, restarts=1))))
    found = predict(model, images(30))
    certified, attacked = (
        stacked(found, n) for n in ('certified', 'attacked'))
    right = stacked(found, 'pred_label') == stacked(found, 'gt_label')
    assert (certified <= attacked).all() and (attacked <= right).all()
    assert attacked[:, 1].sum() < right.sum()


def test_each_member_has_its_own_box():
    """Trap 17: the same pixels, the members' own mean and std."""
    members = [
        finished(classifier()),
        finished(classifier(data_preprocessor=WIDE), 1)
    ]
    model = evaluated(ensemble([Module(m) for m in members]))
    data = images()
    pixels = preprocessed(model, data)['inputs']
    assert torch.equal(pixels, data['inputs'].float())
    labels = torch.arange(12) % CLASSES
    mixed = model.certifier().residual(pixels, labels, 0.01)
    alone = [
        m.certifier(model.certify).residual(
            preprocessed(m, data)['inputs'], labels, 0.01) for m in members
    ]
    torch.testing.assert_close(mixed.value, sum(r.value for r in alone) / 2)
    torch.testing.assert_close(mixed.slack, sum(r.slack for r in alone) / 2)


def test_colour_order_of_members():
    """A member that wants RGB turns the channels itself."""
    body = mlp_body(in_channels=3)
    norm = dict(mean=[90., 100., 110.], std=[60., 50., 40.])
    members = [
        finished(classifier(body=body, data_preprocessor=dict(norm)), 1),
        finished(
            classifier(body=body, data_preprocessor=dict(norm, to_rgb=True)),
            1)
    ]
    data = images(channels=3)
    model = evaluated(ensemble([Module(m) for m in members]))
    pixels = preprocessed(model, data)['inputs']
    for k, member in enumerate(members):
        assert torch.equal(
            model.member_inputs(k, pixels),
            preprocessed(member, data)['inputs'])
    assert not torch.equal(
        model.member_inputs(0, pixels), model.member_inputs(1, pixels))


def test_fit_weights():
    """Chosen on held-out images, used and saved; never on test ones."""
    good, bad = finished(classifier(), 0), finished(classifier(), 1)
    batch = images(48)
    with torch.no_grad():
        # Of one network the labels, so that it is right everywhere.
        labels = good.scores(preprocessed(good, batch)['inputs']).argmax(1)
        rare = labels.bincount(minlength=CLASSES).argmin()
        bad.head.classifier.fc.bias[rare] -= 100.
    for sample, label in zip(batch['data_samples'], labels):
        sample.set_gt_label(int(label))
    model = evaluated(ensemble([Module(bad), Module(good)]))
    half = dict(
        inputs=batch['inputs'][:24], data_samples=batch['data_samples'][:24])
    rest = dict(
        inputs=batch['inputs'][24:], data_samples=batch['data_samples'][24:])
    fit = model.fit_weights([half, rest], 0.002)
    assert fit.certified >= max(fit.members + [fit.uniform])
    assert fit.certified > fit.uniform
    assert torch.equal(model.weights, fit.weights)
    assert fit.weights[1] > 0.9
    assert torch.equal(model.state_dict()['weights'], fit.weights)
    with pytest.raises(ValueError, match='held-out'):
        model.fit_weights([], 0.002)
