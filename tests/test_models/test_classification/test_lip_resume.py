# Copyright (c) mmext contributors. All rights reserved.
"""Real classifiers in the Runner: saved, resumed, averaged, in bfloat16."""
import math
from copy import deepcopy

import pytest
import torch
from mmengine.runner import Runner

from mmext.models.lipschitz.p_norm import get_p
from mmext.utils.io import safe_load, tensors_digest
from ..test_lipschitz.nets import stretch
from .lip_ensembles import WIDE
from .lip_models import (build, classifier, images, lip_head, preprocessed,
                         stacked)
from .lip_runs import DEVICES, SCHEDULE, run, runner_config

CERTIFY = dict(eps=[0.005, 0.02], radius_steps=3)
OPTIMIZERS = dict(
    adamw=dict(
        constructor='mmext.LpOptimWrapperConstructor',
        optimizer=dict(type='mmext.AdamWLp', lr=0.03)),
    madam=dict(optimizer=dict(type='mmext.Madam', lr=0.03)))


def mixture():
    """A head whose loss has a state: it learns its scale."""
    return lip_head(loss=dict(type='mmext.LipMixtureLoss'), lam=0.5)


def single():
    return classifier(mixture(), certify=CERTIFY)


def joint():
    """Two networks that are trained together, and normalise as they like."""
    members = [
        classifier(mixture()),
        classifier(mixture(), data_preprocessor=WIDE)
    ]
    return dict(
        type='mmext.CertifiedEnsemble',
        members=[dict(model=m) for m in members],
        train='joint',
        test_cfg=dict(certify=CERTIFY))


def training(buffers='live', optimizer='adamw', **wrapper):
    """Options of a run that validates and saves each epoch."""
    return dict(
        hooks=[
            dict(
                type='mmext.LipschitzEMAHook',
                decay=0.7,
                buffers=buffers,
                recalibrate_batches=2), SCHEDULE
        ],
        optim_wrapper=dict(deepcopy(OPTIMIZERS[optimizer]), **wrapper),
        train_cfg=dict(by_epoch=True, max_epochs=5, val_interval=1),
        default_hooks=dict(
            checkpoint=dict(type='mmext.AtomicCheckpointHook', interval=1),
            rng_state=dict(type='mmext.RNGStateHook')))


def resumed(folder, model, options, epoch=2):
    """The rest of ``folder/whole`` after an epoch, in ``folder/rest``."""
    return run(
        folder,
        model,
        name='rest',
        resume=True,
        load_from=str(folder / 'whole' / f'epoch_{epoch}.pth'),
        **options)


def logged(runner):
    """The last value of each metric of the validations."""
    return {
        name: values.current()
        for name, values in runner.message_hub.log_scalars.items()
        if name.startswith('val/') and not name.endswith('time')
    }


def saved(folder, name, epoch=5):
    return safe_load(folder / name / f'epoch_{epoch}.pth')


@pytest.mark.parametrize('model, buffers, optimizer', [
    (single, 'live', 'adamw'),
    (single, 'recalibrate', 'adamw'),
    (single, 'live', 'madam'),
    (joint, 'live', 'adamw'),
    (joint, 'recalibrate', 'adamw'),
])
def test_property_22_resume_is_the_whole_run(tmp_path, model, buffers,
                                             optimizer):
    """Weights, average and optimizer to the bit; what was validated, too.

    Property 10 of what the hooks have left: in its inputs, or an ensemble in
    pixels, no logit moves faster than the images.
    """
    options = training(buffers, optimizer)
    whole = run(tmp_path, model(), name='whole', **options)
    rest = resumed(tmp_path, model(), options)
    first, second = saved(tmp_path, 'whole'), saved(tmp_path, 'rest')
    for key in ('state_dict', 'ema_state_dict', 'optimizer'):
        assert tensors_digest(first[key]) == tensors_digest(second[key]), key
    assert tensors_digest(first['state_dict']) != tensors_digest(
        first['ema_state_dict'])
    assert first['lp_norm'] == math.inf
    early = saved(tmp_path, 'whole', 2)['lp_norm']
    assert math.isinf(early) if buffers == 'recalibrate' else 8 < early < 1000
    metrics = logged(whole)
    assert metrics == logged(rest)
    assert metrics['val/cert/clean'] >= metrics['val/cert/certified@0.02'] > 40
    assert 'val/cert/certified@0.02_live' in metrics
    # Biases start at zero, which no multiplication moves.
    assert all(
        bool(value.all()) for name, value in first['state_dict'].items()
        if name.endswith('bias'))

    # Steps of 60 grey levels, beside which their rounding is small.
    limit, size = ((1 / 60 + 1 / 75) / 2, 60) if model is joint else (1, 1)
    for key in ('state_dict', 'ema_state_dict'):
        net = build(model(), p=math.inf)
        net.load_state_dict(first[key])
        inputs = preprocessed(net, images(4, seed=3))['inputs']
        found = stretch(net.double().scores, inputs, eps=size, least=size)
        assert 0.05 * limit < found <= limit * (1 + 1e-5)


@DEVICES
@pytest.mark.parametrize('head', ['lip', 'mlp'])
def test_train_test_resume(tmp_path, monkeypatch, device, head):
    """The same on a CPU and on a GPU, where sums have no fixed order."""
    monkeypatch.setattr('mmengine.runner.runner.get_device', lambda: device)
    model = classifier(
        head, certify=dict(CERTIFY, attack=dict(steps=3, restarts=1)))
    options = training('recalibrate')
    whole = run(tmp_path, model, name='whole', **options)
    trained = whole.model
    assert next(trained.parameters()).device.type == device
    assert get_p(trained) == math.inf
    metrics = logged(whole)
    assert metrics['val/cert/clean'] > 40
    assert metrics['val/cert/clean'] >= metrics['val/cert/attacked@0.02'] >= \
        metrics['val/cert/certified@0.02'] > 25

    # A fresh test of the checkpoint, whose bounds are those of the CPU.
    config = runner_config(tmp_path, model, name='test')
    config['load_from'] = str(tmp_path / 'whole' / 'epoch_5.pth')
    tested = Runner(**config).test()
    for name, value in tested.items():
        assert metrics[f'val/{name}'] == pytest.approx(value), name
    first = saved(tmp_path, 'whole')
    nets = [build(model, p=math.inf) for _ in range(2)]
    for net, where in zip(nets, (device, 'cpu')):
        net.load_state_dict(first['state_dict'])
        net.to(where)
    found, expected = (
        net(**preprocessed(net, images(8, seed=2)), mode='predict')
        for net in nets)
    for name in ('certified_radius', 'worst_margin'):
        torch.testing.assert_close(
            stacked(found, name).cpu(),
            stacked(expected, name),
            rtol=1e-4,
            atol=1e-5)

    rest = resumed(tmp_path, model, options)
    second = saved(tmp_path, 'rest')
    assert rest.iter == whole.iter == 20
    assert next(rest.model.parameters()).device.type == device
    if device == 'cpu':
        assert tensors_digest(first['state_dict']) == tensors_digest(
            second['state_dict'])
    else:
        assert logged(rest)['val/cert/clean'] == pytest.approx(
            metrics['val/cert/clean'], abs=25)


@DEVICES
@pytest.mark.parametrize('head', ['lip', 'mlp'])
def test_mixed_precision_in_a_run(tmp_path, monkeypatch, device, head):
    """bfloat16 around distances that stay in float32: AdamW-lp, average and
    certificates are those of the plain run, on a CPU bit for bit."""
    monkeypatch.setattr('mmengine.runner.runner.get_device', lambda: device)
    mixed = dict(type='mmext.CPUAmpOptimWrapper') if device == 'cpu' else \
        dict(type='AmpOptimWrapper', dtype='bfloat16')
    model = classifier(head, certify=CERTIFY)
    plain = run(tmp_path, model, name='plain', **training())
    amp = run(tmp_path, model, name='amp', **training(**mixed))
    assert type(amp.optim_wrapper).__name__ == mixed['type'].split('.')[-1]
    assert all(p.dtype == torch.float32 for p in amp.model.parameters())
    state = saved(tmp_path, 'amp')
    if device == 'cpu':
        same = saved(tmp_path, 'plain')
        for key in ('state_dict', 'ema_state_dict'):
            assert tensors_digest(same[key]) == tensors_digest(state[key]), key
        assert logged(amp) == logged(plain)
    else:
        assert all(value.isfinite().all()
                   for value in state['state_dict'].values())
        assert logged(amp)['val/cert/certified@0.005'] > 25
