# Copyright (c) mmext contributors. All rights reserved.
import csv
import json
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import METRICS
from mmengine.structures import BaseDataElement

from mmext.evaluation import certified_accuracy
from mmext.evaluation.certified_report import (certified_curve, eps_name,
                                               violations)
from mmext.utils.user_error import ConfigError, UserError

pytestmark = pytest.mark.stack_subset
EPS = [0.1, 8 / 255]


def metric(**kwargs):
    return METRICS.build(dict(type='mmext.CertifiedAccuracy', **kwargs))


def sample(label=0, predicted=0, radius=None, eps=None, **fields):
    """A prediction as LipschitzClassifier leaves it."""
    built = dict(gt_label=torch.tensor([label]),
                 pred_label=torch.tensor([predicted]))
    if eps is not None:
        built['certify_eps'] = torch.tensor(eps)
    if radius is not None:
        built['certified_radius'] = torch.tensor(radius)
    built.update({k: torch.as_tensor(v) if isinstance(v, (list, float))
                  else v for k, v in fields.items()})
    return built


def evaluate(samples, size=None, **kwargs):
    built = metric(**kwargs)
    half = len(samples) // 2
    built.process(None, samples[:half])
    built.process(None, samples[half:])
    return built.evaluate(len(samples) if size is None else size)


def four(eps=EPS, **extra):
    """Two right and certified, one right only, one wrong."""
    return [
        sample(0, 0, 0.2, eps, certified=[True, True],
               attacked=[True, True], **extra),
        sample(1, 1, 0.05, eps, certified=[False, True],
               attacked=[True, True], **extra),
        sample(2, 2, 0.0, eps, certified=[False, False],
               attacked=[False, True], **extra),
        sample(0, 1, 0.3, eps, certified=[False, False],
               attacked=[False, False], **extra),
    ]


def test_values():
    metrics = evaluate(four())
    assert metrics == pytest.approx({
        'cert/clean': 75.,
        'cert/certified@0.1': 25.,
        'cert/certified@8/255': 50.,
        'cert/attacked@0.1': 50.,
        'cert/attacked@8/255': 75.,
        # The radius of a wrong prediction does not count.
        'cert/mean_radius': 0.25 / 4,
        'cert/median_radius': 0.025,
        'cert/violations': 0.,
    })


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**16))
def test_property_15_and_16_radii_and_decisions_agree(count, seed):
    """Properties 15 and 16: order of the accuracies, radius = decision."""
    rng = np.random.default_rng(seed)
    eps = sorted(rng.permutation(1000)[:3] / 1000)
    samples = []
    for _ in range(count):
        label, predicted = rng.integers(0, 2, 2)
        radius = float(rng.uniform(0, 1))
        certified = [bool(radius > e and label == predicted) for e in eps]
        survives = [
            bool(c or (label == predicted and rng.random() < 0.5))
            for c in certified
        ]
        samples.append(
            sample(int(label), int(predicted), radius, eps,
                   certified=certified, attacked=survives,
                   radius_lipschitz=radius / 2))
    metrics = evaluate(samples)
    values = [metrics[f'cert/certified@{eps_name(e)}'] for e in eps]
    assert values == sorted(values, reverse=True)
    for e, value in zip(eps, values):
        attacked = metrics[f'cert/attacked@{eps_name(e)}']
        assert value <= attacked <= metrics['cert/clean']
        assert metrics[f'cert/lipschitz@{eps_name(e)}'] <= value
    assert metrics['cert/violations'] == 0
    built = metric()
    built.process(None, samples)
    curve = certified_curve(built.results)
    assert curve['certified'][0] == metrics['cert/clean']
    assert all(np.diff(curve['certified']) <= 0)


def test_a_certificate_that_an_attack_refutes_is_reported(caplog):
    good = four()
    broken = [
        # certified at 0.1, broken by an attack of the same radius
        sample(0, 0, 0.2, EPS, certified=[True, True],
               attacked=[False, True]),
        # by one of a smaller radius
        sample(0, 0, None, EPS, certified=[True, False],
               attacked=[True, False]),
        # the radius alone is refuted
        sample(0, 0, 0.05, EPS, certified=[False, False],
               attacked=[True, False]),
        # certified though wrong
        sample(0, 1, 0.05, EPS, certified=[False, True],
               attacked=[False, False]),
    ]
    built = metric()
    built.process(None, good + broken)
    assert violations(built.results) == [4, 5, 6, 7]
    built.default_prefix = None
    assert built.evaluate(8)['cert/violations'] == 4
    # without an attack nothing can be said, unless it is plainly wrong
    for one in good:
        one.pop('attacked')
    assert 'cert/violations' not in evaluate(good)


def test_padded_duplicates_are_dropped():
    samples = four()
    assert evaluate(samples + samples[:1], size=4) == evaluate(samples)


def test_ensemble_fields():
    fields = dict(
        certified_unanimous=[False, True],
        certified_majority=[True, True])
    members = [[True, False, True], [True, True, True],
               [False, True, True], [False, False, False]]
    certified = [[[True, True], [False, False], [False, True]]] * 4
    samples = [
        dict(one, member_correct=torch.tensor(right),
             member_certified=torch.tensor(cert))
        for one, right, cert in zip(four(**fields), members, certified)
    ]
    metrics = evaluate(samples)
    assert metrics['cert/unanimous@0.1'] == 0
    assert metrics['cert/majority@8/255'] == 100
    assert metrics['cert/member_mean/clean'] == pytest.approx(700 / 12)
    assert metrics['cert/member_best/clean'] == 75
    assert metrics['cert/member_mean/certified@8/255'] == \
        pytest.approx(200 / 3)


def test_files(tmp_path):
    samples = four(worst_margin=[-0.5, 0.25])
    for i, one in enumerate(samples):
        one.update(img_path=f'{i}.png', sample_idx=i + 7)
    samples[2]['certified_radius'] = torch.tensor(float('inf'))
    for name in ('samples.csv', 'samples.jsonl'):
        metrics = evaluate(samples, out_dir=str(tmp_path), export=name)
    for name in ('certified_accuracy.png', 'radius_histogram.png'):
        assert (tmp_path / name).read_bytes()[:4] == b'\x89PNG'
    summary = json.loads((tmp_path / 'certified.json').read_text())
    assert summary['images'] == 4 and summary['eps'] == pytest.approx(EPS)
    assert summary['metrics']['clean'] == metrics['cert/clean']
    with open(tmp_path / 'samples.csv') as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in
             (tmp_path / 'samples.jsonl').read_text().splitlines()]
    assert len(rows) == len(lines) == 4
    assert rows[1]['image'] == '1.png' and rows[1]['index'] == '8'
    assert float(rows[1]['radius_255']) == pytest.approx(0.05 * 255)
    assert rows[1]['certified@0.1'] == 'False'
    assert lines[1]['certified@8/255'] is True
    assert lines[0]['margin@0.1'] == -0.5
    assert lines[3]['correct'] is False and lines[3]['predicted'] == 1
    assert lines[2]['radius'] is None and rows[2]['radius'] == ''


@pytest.mark.parametrize('options', [
    dict(out_dir='afile'),
    dict(out_dir='/proc/nope'),
    dict(export='afile/samples.csv'),
    dict(out_dir='out', export='/proc/nope/samples.csv'),
])
def test_places_are_tried_with_the_first_batch(options, tmp_path,
                                               monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'afile').write_text('mine')
    built = metric(**options)
    assert [one.name for one in tmp_path.iterdir()] == ['afile']
    name = 'export' if 'export' in options else 'out_dir'
    with pytest.raises(UserError, match=f'{name} of CertifiedAccuracy') as e:
        built.process(None, four())
    assert options[name] in str(e.value) and 'another place' in str(e.value)
    assert (tmp_path / 'afile').read_text() == 'mine'


def test_a_place_that_is_lost_later_costs_no_numbers(tmp_path, monkeypatch):
    """The metrics come back, and what can be written is."""
    said = []
    monkeypatch.setattr(
        certified_accuracy, 'print_log',
        lambda text, logger, level=logging.INFO: said.append((level, text)))
    built = metric(out_dir=str(tmp_path / 'out'), export='samples.csv')
    built.process(None, four())
    (tmp_path / 'out' / 'certified.json').mkdir()
    assert built.evaluate(4)['cert/clean'] == 75
    errors = [text for level, text in said if level == logging.ERROR]
    assert len(errors) == 1 and 'certified.json' in errors[0], said
    assert (tmp_path / 'out' / 'samples.csv').is_file()


def test_results_are_plain_and_elements_work():
    element = BaseDataElement()
    for key, value in four()[0].items():
        element.set_data({key: value})
    element.set_metainfo(dict(img_path='a.png'))
    built = metric()
    built.process(None, [element])
    assert 'Tensor' not in repr(built.results) and \
        'tensor' not in repr(built.results)
    json.dumps(built.results)
    assert built.results[0]['image'] == 'a.png'


def test_eps_may_stand_in_the_metric():
    samples = [dict(one) for one in four(eps=None)]
    assert evaluate(samples, eps=EPS)['cert/certified@8/255'] == 50
    scored = [dict(gt_label=torch.tensor([1]),
                   pred_score=torch.tensor([0.2, 0.8]))]
    assert evaluate(scored) == {'cert/clean': 100.}
    assert evaluate(scored, prefix='ema') == {'ema/clean': 100.}
    assert metric(eps='8/255').eps == [8 / 255]
    assert metric(eps=['8/255', 0.1]).eps == [8 / 255, 0.1]
    assert metric(eps=torch.tensor(0.25)).eps == [0.25]
    assert metric(eps=torch.tensor([0.25, 0.5])).eps == [0.25, 0.5]
    assert metric(eps=torch.tensor(0)).eps == [0.]
    with pytest.raises(ConfigError, match='model.test_cfg.certify.eps'):
        evaluate(scored, eps=[0.1])


def test_names_of_radii():
    names = {
        0.: '0', 0.1: '0.1', 0.3: '0.3', 8 / 255: '8/255', 2 / 255: '2/255',
        16 / 255: '16/255', 0.0313: '0.0313', 0.031371: '0.031371'
    }
    for value, name in names.items():
        assert eps_name(value) == name


def test_user_errors(tmp_path):
    with pytest.raises(ConfigError, match='Write 8/255, not 8'):
        metric(eps=[8])
    with pytest.raises(UserError, match='.csv or .jsonl'):
        metric(export='samples.txt')
    built = metric()
    with pytest.raises(ConfigError, match='gt_label'):
        built.process(None, [dict(pred_label=torch.tensor([1]))])
    with pytest.raises(ConfigError, match='pred_score'):
        built.process(None, [dict(gt_label=torch.tensor([1]))])
    with pytest.raises(ConfigError, match='one value of certified'):
        metric(eps=[0.1]).process(None, four(eps=None))
    with pytest.raises(ConfigError, match='the model certified'):
        metric(eps=[0.1, 0.2]).process(None, four())
    built.process(None, four() + four([0.2, 0.3]))
    with pytest.raises(ConfigError, match='same radii'):
        built.evaluate(8)
