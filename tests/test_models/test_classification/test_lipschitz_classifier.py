# Copyright (c) mmext contributors. All rights reserved.
"""Certificates in the predictions of a classifier."""
import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement

from mmext.models.classification import lip_backbones
from mmext.models.classification.certify_options import CertifyOptions
from mmext.models.lipschitz import boxes
from mmext.models.lipschitz.attacks import pgd_attack
from mmext.models.lipschitz.bounds import CertificationError
from mmext.models.lipschitz.p_norm import get_p, set_p
from mmext.utils.user_error import ConfigError
from ..test_lipschitz import fake_autoattack
from .lip_models import (CLASSES, build, classifier, finished, images,
                         lip_head, mlp_body, mlp_head, predict, preprocessed,
                         samples, stacked, trained)

EPS = [0., 0.005, 0.02, 0.05, 0.15]
FIELDS = {'certify_eps', 'certified', 'worst_margin', 'certified_radius'}


def certifying(head='lip', **options):
    """The trained network with other options of ``certify``."""
    model = trained(head)[0]
    model.certify = CertifyOptions.from_cfg(
        dict(certify=dict(dict(eps=EPS), **options)))
    model.head.pixel_range = model.certify.pixel_range
    return model


def batch(count=40):
    return images(count, seed=5)


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


@pytest.mark.stack_subset
def test_states_that_are_refused(caplog):
    """Property 17: finite p, train mode, autocast."""
    model = certifying()
    try:
        set_p(model, 64.)
        with pytest.raises(CertificationError, match='p = 64'):
            predict(model, batch())
        model.train()
        set_p(model, math.inf)
        means = model.backbone.body.layers.fc1.mean_shift.running_mean.clone()
        with pytest.raises(CertificationError, match='eval'):
            predict(model, batch())
        # A refused prediction has not moved the running means.
        assert torch.equal(
            means, model.backbone.body.layers.fc1.mean_shift.running_mean)
        model.eval()
        with torch.autocast('cpu'), \
                pytest.raises(CertificationError, match='autocast'):
            predict(model, batch())
        model.trained_p = 500.
        with pytest.raises(CertificationError, match='p = 500'):
            predict(model, batch())
    finally:
        model.trained_p = None
        model.eval()
        set_p(model, math.inf)
    assert 'certified' in predict(model, batch())[0]


def test_radii_in_normalised_units_warn(monkeypatch):
    """0.3 / 0.3081: between 0 and 1, but in reach of mid-grey."""
    said = []
    monkeypatch.setattr(boxes, 'print_log',
                        lambda text, **kwargs: said.append(text))
    build(classifier(certify=dict(eps=[0.3, 0.49])))
    assert not said
    build(classifier(certify=dict(eps=[0.1, 0.97])))
    build(classifier(lip_head(eps_train=0.97)))
    assert len(said) == 2 and all('mid-grey' in text for text in said)


def test_evaluation_at_a_finite_p_warns(monkeypatch):
    """Under any classifier: p is not in the checkpoint, and no hook ran."""
    said = []
    monkeypatch.setattr(lip_backbones, 'print_log',
                        lambda text, **kwargs: said.append(text))
    head = dict(type='LinearClsHead', num_classes=CLASSES, in_channels=24)
    model = build(classifier(head, type='ImageClassifier'))
    x = preprocessed(model, images())['inputs']
    model(x)  # training
    model.eval()
    model(x)  # gradients, as for an attack
    assert not said
    with torch.no_grad():
        model(x)
        model(x)
        assert len(said) == 1 and 'evaluated at p = 8' in said[0]
        model.backbone._warned = False
        set_p(model, math.inf)
        model(x)
    assert len(said) == 1


def test_looking_for_a_finite_p_costs_no_walk(monkeypatch):
    """Layers are found once; copies look at their own."""
    said = []
    monkeypatch.setattr(lip_backbones, 'print_log',
                        lambda text, **kwargs: said.append(text))
    model = finished(classifier())
    x = preprocessed(model, images())['inputs']
    net = model.backbone
    other = copy.deepcopy(net)
    monkeypatch.setattr(net.body, 'modules',
                        lambda: pytest.fail('walked through its layers'))
    with torch.no_grad():
        net(x)
        set_p(other, 8.)
        net(x)
        assert not said
        other(x)
        assert len(said) == 1
        set_p(other, 16.)
        other(x)
    assert len(said) == 1


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


@pytest.mark.parametrize('change, message', [
    (dict(certify=dict(eps=8)), '8/255'),
    (dict(certify=dict(eps=[0.1, -0.1])), '8/255'),
    (dict(certify=dict(eps=[])), 'empty'),
    (dict(certify=dict(method='interval')), 'needs eps'),
    (dict(certify=dict(eps=0.1, epsilon=1)), 'epsilon'),
    (dict(certify=dict(eps=0.1, method='crown')), 'crown'),
    (dict(certify=dict(eps=0.1, attack=dict(step=1))), 'steps'),
    (dict(certify=dict(eps=0.1, attack=dict(type='fgsm'))), 'fgsm'),
    (dict(certify=dict(eps=None)), "such as '8/255'"),
    (dict(certify=dict(eps='a lot')), 'a lot'),
    (dict(certify=dict(eps=0.1, attack=dict(loss='dlr'))), 'dlr'),
    (dict(certify=dict(eps=0.1, attack=dict(steps=0))), 'attack.steps'),
    (dict(certify=dict(eps=0.1, attack=dict(restarts=0))), 'restarts'),
    (dict(certify=dict(eps=0.1, attack=dict(step_size=0.))), 'step_size'),
    (dict(certify=dict(eps=0.1, radius_steps=-1)), 'radius_steps'),
    (dict(certify=dict(eps=0.1, radius_steps=2.5)), 'radius_steps'),
    (dict(certify=dict(eps=0.1, pixel_range=0)), 'pixel_range'),
    (dict(test_cfg=dict(certifiy=dict(eps=[0.1]))), 'certifiy'),
    (dict(test_cfg=dict(certify=dict(eps=[0.1]), eps=[0.2])), 'but got eps'),
    (dict(head=lip_head(eps_train='a lot')), 'a lot'),
    (dict(data_preprocessor=dict()), 'mean and std'),
    (dict(data_preprocessor=None), 'mean and std'),
    (dict(data_preprocessor=dict(mean=[0.1307], std=[0.3081])),
     'Multiply mean and std by 255'),
    (dict(data_preprocessor=dict(mean=[1., 2., 3.], std=[60., 61., 62.])),
     '3 std'),
    (dict(head=lip_head(in_channels=512)), 'Set it to 24'),
    (dict(head=lip_head(eps_train=8.)), '8/255'),
    (dict(head=lip_head(num_classes=1)), 'num_classes'),
    (dict(head=dict(type='LinearClsHead', num_classes=4, in_channels=24)),
     'LinearClsHead'),
    (dict(neck=dict(type='GlobalAveragePooling')), 'GlobalAveragePooling'),
    (dict(backbone=dict(type='LeNet5')), 'LeNet5'),
    (dict(backbone=mlp_body(img_size=(1, 2, 3))), 'img_size'),
    (dict(backbone=mlp_body(depht=3)), "did you mean 'depth'"),
    (dict(backbone=mlp_body(colour=3)), 'Its options are depth, identity'),
    (dict(backbone=mlp_body(depth='two')), "depth.*got 'two'"),
    (dict(backbone=mlp_body(depth=2.5)), 'depth.*got 2.5'),
    (dict(backbone=mlp_body(width='wide')), "width.*got 'wide'"),
    (dict(backbone=dict(type='mmext.LipLeNet', hidden=0)), 'hidden'),
])
def test_configs_that_are_refused(change, message):
    change = dict(change)
    model = classifier(
        mlp_head(), certify=change.pop('certify', dict(eps=[0.1])))
    model.update(change)
    with pytest.raises(ValueError, match=message):
        build(model)


def test_radii_may_be_texts():
    """As ``--cfg-options model.test_cfg.certify.eps="['2/255']"`` gives."""
    options = CertifyOptions.from_cfg(dict(certify=dict(eps='8/255')))
    assert options.eps == (8 / 255, )
    assert CertifyOptions.from_cfg(dict()) is None
    model = build(
        classifier(
            lip_head(eps_train='8/255'), certify=dict(eps=['2/255', 0.1])))
    assert model.head.eps == model.head.eps_train == 8 / 255
    assert model.certify.eps == (2 / 255, 0.1)
    with pytest.raises(ConfigError, match='radius_steps'):
        replace(options, radius_steps=-1)


def test_options_may_be_numbers_of_numpy_and_torch():
    options = CertifyOptions.from_cfg(
        dict(
            certify=dict(
                eps=torch.tensor(0.25),
                pixel_range=np.float32(255),
                radius_steps=np.int64(3),
                attack=dict(steps=np.int64(2), step_size=np.float64(0.5)))))
    assert options.eps == (0.25, ) and options.radius_steps == 3
    with pytest.raises(ConfigError, match='radius_steps'):
        replace(options, radius_steps=np.float32(2.5))


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


def test_images_that_are_refused():
    """Wrong sizes, and pixels that the normalisation does not explain."""
    model = certifying()
    with pytest.raises(ValueError, match='input_pad'):
        predict(model, images(size=8))
    with pytest.raises(ValueError, match='input_pad'):
        predict(model, images(channels=3))
    data = preprocessed(model, batch())
    with pytest.raises(CertificationError, match='outside the valid range'):
        model(data['inputs'] * 60 + 100, data['data_samples'], mode='predict')
    # Images in [0, 1] are declared as such.
    model = build(
        classifier(
            certify=dict(eps=[0.1], pixel_range=1.),
            data_preprocessor=dict(mean=[0.4], std=[0.25])),
        p=math.inf)
    assert model.head.eps_scale == pytest.approx(4)
    with pytest.raises(CertificationError, match='outside the valid range'):
        predict(model, images())
    pixels = images()
    pixels['inputs'] = pixels['inputs'] / 255
    assert 'certified' in predict(model, pixels)[0]


def test_images_of_other_units_than_declared():
    """``pixel_range=1`` for images in 0-255 would enlarge every radius."""
    for certify in (dict(), dict(method='lipschitz'), dict(clamp=False)):
        with pytest.raises(ConfigError, match='leave pixel_range at 255'):
            build(
                classifier(
                    certify=dict(eps=[0.1], pixel_range=1., **certify),
                    data_preprocessor=dict(mean=[33.3], std=[78.6])),
                p=math.inf)


@pytest.mark.parametrize('label', [CLASSES, -1])
def test_labels_outside_of_the_classes(label):
    model = build(classifier(certify=dict(eps=[0.1])))
    batch = preprocessed(model, images(2))
    batch['data_samples'][1].set_gt_label(label)
    said = f'labels from 0 to {CLASSES - 1}, but got {label}'
    with pytest.raises(ConfigError, match=said):
        model.train()(**batch, mode='loss')
    set_p(model, math.inf)
    with pytest.raises(ConfigError, match=said):
        model.eval()(**batch, mode='predict')


def test_several_labels_are_refused():
    model = certifying()
    data = preprocessed(model, batch(2))
    data['data_samples'][0].set_gt_label([0, 1])
    with pytest.raises(ValueError, match='several labels'):
        model(**data, mode='predict')


def test_samples_with_and_without_labels():
    """A batch with a missing label is certified label-free."""
    from mmpretrain.structures import DataSample
    model = certifying()
    data = preprocessed(model, batch(2))
    found = model(
        data['inputs'], [*samples([0]), DataSample()], mode='predict')
    assert found[0].certified.shape == (5, )
    assert int(found[1].pred_label) < CLASSES


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
