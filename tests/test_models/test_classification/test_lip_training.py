# Copyright (c) mmext contributors. All rights reserved.
"""l-infinity classifiers trained by the stock Runner."""
import math

import pytest
import torch
from mmengine.runner import Runner

from mmext.models.classification import lip_heads
from mmext.models.lipschitz.bounds import CertificationError
from mmext.models.lipschitz.p_norm import get_p
from mmext.utils.user_error import ConfigError
from .lip_models import (CLASSES, build, classifier, finished, images,
                         lip_head, mlp_head, predict, preprocessed, stacked)
from .lip_runs import SCHEDULE, run, runner_config

CERTIFY = dict(eps=[0.01, 0.03])


def scalars(runner):
    return {
        name: values._log_history
        for name, values in runner.message_hub.log_scalars.items()
    }


@pytest.mark.stack_subset
@pytest.mark.parametrize('head', ['lip', 'mlp'])
def test_lipschitz_classifier_learns(tmp_path, head):
    """Losses fall, and a finished run is certified above chance."""
    runner = run(tmp_path, classifier(head, certify=CERTIFY), epochs=20)
    log = scalars(runner)
    losses = log['train/loss']
    assert all(math.isfinite(v) for v in losses)
    last = {k: v[-1] for k, v in log.items()}
    assert last['val/accuracy/top1'] == last['val/cert/clean'] > 90
    assert last['val/cert/certified@0.01'] > 50
    assert last['val/cert/certified@0.03'] <= last['val/cert/certified@0.01']
    assert get_p(runner.model) == math.inf

    # The checkpoint gives a fresh runner the same numbers.
    config = runner_config(
        tmp_path, classifier(head, certify=CERTIFY), name='test')
    config['load_from'] = str(tmp_path / 'run' / 'epoch_20.pth')
    again = Runner(**config).test()
    assert again['cert/certified@0.01'] == \
        pytest.approx(last['val/cert/certified@0.01'])


@pytest.mark.stack_subset
@pytest.mark.parametrize('head', [
    dict(type='LinearClsHead', num_classes=CLASSES, in_channels=24),
    lip_head(std=[60.]),
    lip_head(eps_train=0., loss=dict(type='CrossEntropyLoss')),
    mlp_head(std=[60.], loss=dict(type='mmext.LipMixtureLoss'), lam=0.5),
])
def test_stock_image_classifier(tmp_path, head):
    """Lip backbones and heads under mmpretrain's own classifier."""
    model = classifier(head, type='ImageClassifier')
    runner = run(
        tmp_path,
        model,
        epochs=2,
        hooks=[],
        val_evaluator=dict(type='Accuracy'))
    log = scalars(runner)
    assert all(math.isfinite(v) for v in log['train/loss'])
    assert sum(log['train/loss'][4:]) < sum(log['train/loss'][:4])
    assert log['val/accuracy/top1'][-1] >= 0


def test_checkpoint_of_an_unfinished_schedule(tmp_path):
    """Refused by the test of a fresh runner, unless forced."""
    run(tmp_path,
        classifier(certify=CERTIFY),
        epochs=1,
        val_dataloader=None,
        val_cfg=None,
        val_evaluator=None)
    path = str(tmp_path / 'run' / 'epoch_1.pth')
    assert torch.load(path, weights_only=False)['lp_norm'] < math.inf
    for number, forced in enumerate((False, True)):
        model = classifier(certify=dict(CERTIFY, force_inf=forced))
        config = runner_config(tmp_path, model, name=f'test{number}')
        config['load_from'] = path
        runner = Runner(**config)
        if forced:
            assert 'cert/certified@0.01' in runner.test()
        else:
            with pytest.raises(CertificationError, match='middle of the sch'):
                runner.test()


def test_validation_leaves_training_as_it_was(tmp_path):
    """Validation every epoch or never: the same weights."""
    states = []
    for interval in (1, 10):
        runner = run(
            tmp_path,
            classifier(
                certify=dict(CERTIFY, attack=dict(steps=2, restarts=1))),
            epochs=2,
            name=str(interval),
            train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=interval))
        states.append(runner.model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_predictions_without_certificates_are_the_stock_ones():
    """The three modes of ``ImageClassifier``."""
    model, batch = finished(classifier()), images()
    data = preprocessed(model, batch)
    logits = model(data['inputs'])
    assert logits.shape == (12, CLASSES)
    samples = predict(model, batch)
    torch.testing.assert_close(
        stacked(samples, 'pred_score'), logits.softmax(1))
    assert torch.equal(stacked(samples, 'pred_label')[:, 0], logits.argmax(1))
    assert 'certified' not in samples[0]
    losses = model(**data, mode='loss')
    assert losses['loss'].requires_grad
    feats = model.extract_feat(data['inputs'], stage='pre_logits')
    assert feats.shape == (12, 24)


def test_accuracy_in_training_and_soft_labels():
    model = build(classifier(lip_head(cal_acc=True, topk=(1, 2))))
    data = preprocessed(model, images())
    losses = model(**data, mode='loss')
    assert set(losses) == {'loss', 'accuracy_top-1', 'accuracy_top-2'}
    for sample in data['data_samples']:
        sample.set_gt_score(torch.full((CLASSES, ), 1 / CLASSES))
    with pytest.raises(ValueError, match='mixup'):
        model(**data, mode='loss')


@pytest.mark.parametrize('loss', ['LipHingeLoss', 'LipMixtureLoss'])
@pytest.mark.parametrize('head', [lip_head, mlp_head])
def test_mixed_precision_trains_in_full_precision(head, loss):
    """Under autocast: the same loss and gradients, bit for bit."""
    config = classifier(head(loss=dict(type=f'mmext.{loss}'), lam=0.5))
    found = []
    for enabled in (False, True):
        model = build(config)
        data = preprocessed(model, images())
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
            value = model(**data, mode='loss')['loss']
        value.backward()
        found.append([value, *(p.grad for p in model.parameters())])
    for plain, mixed in zip(*found):
        assert mixed.dtype == torch.float32
        assert torch.equal(mixed, plain)


def test_head_needs_the_normalisation():
    model = build(classifier(type='ImageClassifier'))
    with pytest.raises(ValueError, match='std=\\[...\\]'):
        model(**preprocessed(model, images()), mode='loss')
    model.head.eps = 0.
    model(**preprocessed(model, images()), mode='loss')


@pytest.mark.parametrize('body, size, channels, count', [
    (dict(type='mmext.LipMLP', in_channels=1,
          img_size=28), 5120, 1, 82_708_490),
    (dict(type='mmext.LipMLP', depth=5), 5120, 3, 120_637_450),
    (dict(type='mmext.LipConv', hidden=1024), 1024, 3, 51_256_874),
    (dict(type='mmext.LipLeNet'), 512, 3, 117_420),
    (dict(type='mmext.LipAlexNet'), 512, 3, 6_613_802),
    (dict(type='mmext.LipVGG'), 512, 3, 26_172_106),
])
def test_parameter_counts(body, size, channels, count):
    """Property 12: the sizes of the published networks."""
    with torch.device('meta'):
        model = build(
            classifier(
                dict(
                    type='mmext.LipClsHead', num_classes=10, in_channels=size),
                dict(body, identity=None),
                type='ImageClassifier'))
    assert sum(p.numel() for p in model.parameters()) == count


def test_plus_parameter_counts():
    """Property 12: LeNet++ of the paper's headline."""
    with torch.device('meta'):
        model = build(
            classifier(
                dict(
                    type='mmext.BoundMLPHead',
                    num_classes=10,
                    in_channels=1024),
                dict(type='mmext.LipLeNet', hidden=1024, identity=None),
                type='ImageClassifier'))
    assert sum(p.numel() for p in model.parameters()) == 703_660


def test_schedule_reaches_the_head(tmp_path):
    """eps rises, and the head turns pixels into its own units."""
    hook = dict(SCHEDULE, epochs=(0, 0, 2, 2, 2))
    runner = run(
        tmp_path,
        classifier(),
        epochs=2,
        hooks=[hook],
        val_dataloader=None,
        val_cfg=None,
        val_evaluator=None)
    eps = scalars(runner)['train/eps']
    assert eps[0] == 0 and 0 < eps[1] < eps[-1] <= 0.05
    head = runner.model.head
    assert head.train_radius() == pytest.approx(head.eps * 255 / 60)


NEEDS_LAM = ['LipMixtureLoss', 'LipCEHingeLoss', 'LipMaskedCELoss']


@pytest.mark.parametrize('loss', NEEDS_LAM)
def test_no_cross_entropy_from_the_start_is_refused(tmp_path, loss):
    """Wrong images would have no gradient: 10.00 % on CIFAR-10."""
    options = dict(
        epochs=1, val_dataloader=None, val_cfg=None, val_evaluator=None)
    for k, (given, lam) in enumerate(((0., None), (0.1, (0., 0.1)))):
        model = classifier(
            lip_head(loss=dict(type=f'mmext.{loss}'), lam=given))
        with pytest.raises(ConfigError, match='Set lam of the head'):
            run(tmp_path / str(k),
                model,
                hooks=[dict(SCHEDULE, lam=lam)],
                **options)
    if loss == NEEDS_LAM[0]:  # it may fade to nothing
        model['head']['lam'] = 0.
        run(tmp_path / 'fades',
            model,
            hooks=[dict(SCHEDULE, lam=(0.1, 0.))],
            **options)
        # Weights that were trained may be tuned without it.
        run(tmp_path / 'tuned',
            model,
            hooks=[dict(SCHEDULE)],
            load_from=str(tmp_path / 'fades' / 'run' / 'epoch_1.pth'),
            **options)


@pytest.mark.parametrize('loss', ['LipHingeLoss', *NEEDS_LAM])
def test_no_cross_entropy_without_the_hook_is_told(monkeypatch, loss):
    said = []
    monkeypatch.setattr(lip_heads, 'print_log',
                        lambda text, **kwargs: said.append(text))
    for lam in (0., 0.1):
        model = build(
            classifier(lip_head(loss=dict(type=f'mmext.{loss}'), lam=lam)))
        for _ in range(2):
            model(**preprocessed(model, images()), mode='loss')
    assert len(said) == (loss in NEEDS_LAM)
    assert all('Set lam of the head' in text for text in said)
