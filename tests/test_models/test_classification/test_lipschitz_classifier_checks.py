# Copyright (c) mmext contributors. All rights reserved.
"""Options, states, images and labels that a classifier refuses."""
import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmext.models.classification import lip_backbones
from mmext.models.classification.certify_options import CertifyOptions
from mmext.models.lipschitz import boxes
from mmext.models.lipschitz.bounds import CertificationError
from mmext.models.lipschitz.p_norm import set_p
from mmext.utils.user_error import ConfigError
from .lip_certifying import batch, certifying
from .lip_models import (CLASSES, build, classifier, finished, images,
                         lip_head, mlp_body, mlp_head, predict, preprocessed)


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
    (dict(certify=dict(eps=0.1, clamp='no')), "certify.clamp .* text 'no'"),
    (dict(certify=dict(eps=0.1, sound_rounding='no')), 'sound_rounding'),
    (dict(certify=dict(eps=0.1, radius='False')), "certify.radius .*'False'"),
    (dict(certify=dict(eps=0.1, force_inf='no')), 'certify.force_inf'),
    (dict(train_cfg=dict(augments=dict(type='Mixup', alpha=1.))),
     'one class per image.*augments'),
    (dict(
        data_preprocessor=dict(
            mean=[100.],
            std=[60.],
            num_classes=CLASSES,
            batch_augments=dict(augments=dict(type='CutMix', alpha=1.)))),
     'one class per image.*batch_augments'),
    (dict(backbone=mlp_body(sync_mean='no')), "sync_mean .* text 'no'"),
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
    (dict(backbone=mlp_body(depht=3)), "Did you mean 'depth'"),
    (dict(backbone=mlp_body(colour=3)), 'It takes depth, identity'),
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


def test_switches_of_certificates_may_be_0_and_1():
    cfg = dict(certify=dict(eps='8/255', clamp=0, radius=1))
    options = CertifyOptions.from_cfg(cfg)
    assert options.clamp is False and options.radius is True
    with pytest.raises(ConfigError, match='sound_rounding'):
        replace(options, sound_rounding='yes')


def test_images_may_be_mixed_for_a_loss_of_the_host():
    """Soft labels are no matter where no margin is trained."""
    head = lip_head(loss=dict(type='CrossEntropyLoss', use_soft=True))
    model = build(
        classifier(
            head, train_cfg=dict(augments=dict(type='Mixup', alpha=1.))))
    assert model.data_preprocessor.batch_augments is not None
