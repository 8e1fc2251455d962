# Copyright (c) mmext contributors. All rights reserved.
"""DepthMetric: properties H34 to H36, crops, alignments, uncertainty."""
import json

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import METRICS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, PixelData
from torch import nn

from mmext.evaluation import depth_metric
from mmext.evaluation.depth_measures import (align, crop_mask, depth_sums,
                                             measures, sparsification,
                                             uncertainty_measures)
from mmext.evaluation.depth_metric import DepthMetric
from mmext.utils.user_error import ConfigError
from tests.toy_runs import quick_runner

pytestmark = pytest.mark.stack_subset
SIZE = (40, 60)


def truth(seed=0, size=SIZE):
    """Depth as KITTI stores it, multiples of 1 / 256 m; every fifth none."""
    rng = np.random.default_rng(seed)
    depth = rng.integers(2 * 256, 60 * 256, size).astype(np.float32) / 256
    depth[:, ::5] = 0
    return depth


def sample(pred, target, uncertainty=None, **meta):
    maps = dict(pred_depth_map=pred, gt_depth_map=target)
    if uncertainty is not None:
        maps['pred_uncertainty_map'] = uncertainty
    return dict(
        {
            key: dict(data=torch.as_tensor(value)[None])
            for key, value in maps.items()
        }, **meta)


def evaluate(samples, batch=100, size=1000, **options):
    metric = DepthMetric(**options)
    for begin in range(0, len(samples), batch):
        metric.process(None, samples[begin:begin + batch])
    return metric.evaluate(size)


def test_h34_perfect_and_scaled():
    """Property H34: exact values of a perfect and of a scaled prediction."""
    target = truth()
    found = evaluate([sample(target.copy(), target)])
    for key in ('abs_rel', 'sq_rel', 'rmse', 'rmse_log', 'log10', 'silog',
                'val_sig'):
        assert found[key] == 0
    assert found['d1'] == found['d2'] == found['d3'] == 1
    found = evaluate([sample(1.25 * target, target)], max_depth=100.)
    assert (found['d1'], found['d2'], found['d3']) == (0, 1, 1)
    assert found['abs_rel'] == pytest.approx(0.25)
    assert found['rmse_log'] == pytest.approx(np.log(1.25))
    assert found['log10'] == pytest.approx(np.log10(1.25))
    assert found['silog'] == pytest.approx(0, abs=1e-5)


def test_silog_is_kittis():
    """100 sqrt(E[g^2] - E[g]^2) where g is 0.3 + 0.2 or 0.3 - 0.2."""
    target = truth()
    sign = np.where(np.arange(SIZE[0]) % 2, 1, -1)[:, None]
    pred = target * np.exp(0.3 + 0.2 * sign)
    found = evaluate([sample(pred, target)], crop=None, max_depth=200.)
    assert found['silog'] == pytest.approx(20, rel=1e-5)
    assert found['rmse_log'] == pytest.approx(np.sqrt(0.3**2 + 0.2**2))
    assert found['val_sig'] == pytest.approx(
        np.sqrt(0.2**2 + 0.15 * 0.3**2), rel=0.01)  # its offset of 0.1 m
    # One of the two more often: the variance of a coin, not of its faces.
    pred[:, :30] = target[:, :30] * np.exp(0.5)
    share = (sign + np.zeros(SIZE))[:, 30:][target[:, 30:] > 0].mean()
    p = 0.5 + (share + 1) / 4
    found = evaluate([sample(pred, target)], crop=None, max_depth=200.)
    assert found['silog'] == pytest.approx(
        100 * 0.4 * np.sqrt(p * (1 - p)), rel=1e-5)


def test_h34_outside_the_mask():
    """Property H34: values outside the mask, NaN too, change nothing."""
    target, rng = truth(), np.random.default_rng(1)
    pred = target * rng.uniform(0.8, 1.3, SIZE).astype(np.float32)
    expected = evaluate([sample(pred, target)])
    outside = ~DepthMetric().mask(target)
    for value in (np.nan, np.inf, -3, 0):
        changed = np.where(outside, value, pred).astype(np.float32)
        assert evaluate([sample(changed, target)]) == expected
        holes = np.where(target == 0, value if value < 0 else np.nan, target)
        assert evaluate([sample(pred, holes.astype(np.float32))]) == expected


def test_h34_no_hidden_alignment():
    """Property H34: scaling counts, unless an alignment is asked for."""
    target, rng = truth(), np.random.default_rng(1)
    pred = target * rng.uniform(0.8, 1.25, SIZE).astype(np.float32)
    plain = evaluate([sample(pred, target)])
    assert evaluate([sample(pred * 1.5, target)])['abs_rel'] > \
        2 * plain['abs_rel']
    for how, changed in (('median', pred * 3), ('scale_shift', 3 * pred + 2),
                         ('scale_shift_inverse',
                          1 / (3 / np.maximum(pred, 1) + 0.2))):
        expected = evaluate([sample(pred, target)], align=how)
        found = evaluate([sample(changed, target)], align=how)
        assert found == pytest.approx(expected, rel=1e-4)
        assert found['d1'] > 0.8
    constant = align(np.full(4, 2.), np.array([1., 2, 3, 4]), 'scale_shift')
    assert constant == pytest.approx(np.full(4, 2.5))


def test_h35_averages(monkeypatch):
    """Property H35: images, not pixels; batches and ranks do not matter."""
    samples = []
    for seed in range(7):
        target = truth(seed)
        target[:, seed * 6:] = 0  # images of different weight
        factor = 1 + seed / 10
        samples.append(sample(target * factor, target))
    found = evaluate(samples)
    each = [evaluate([one])['abs_rel'] for one in samples[1:]]
    assert found['num_images'] == 6 and found['num_empty'] == 1
    assert found['abs_rel'] == pytest.approx(np.mean(each))
    pooled = evaluate(samples, average='pixel')
    counts = [
        float(DepthMetric().mask(truth_of(one)).sum()) for one in samples
    ]
    assert pooled['abs_rel'] == pytest.approx(
        np.average(each, weights=counts[1:]))
    assert abs(pooled['abs_rel'] - found['abs_rel']) > 0.01
    for batch in (1, 3):
        assert evaluate(samples, batch) == found
    # Two processes with shares of 4 and 3, then padded to 4 and 4.
    for second in (samples[1::2], [*samples[1::2], samples[0]]):
        parts = []
        for share in (samples[::2], second):
            metric = DepthMetric()
            metric.process(None, share)
            parts.append(metric.results)
        monkeypatch.setattr(
            depth_metric, 'all_gather_object', lambda _, parts=parts: parts)
        metric = DepthMetric()
        assert metric.evaluate(len(samples)) == pytest.approx(found)


def truth_of(one):
    return one['gt_depth_map']['data'][0].numpy()


def test_h36_empty_images(monkeypatch):
    """Property H36: skipped and counted; nothing at all is no crash."""
    said, target = [], truth()
    monkeypatch.setattr(depth_metric, 'print_log',
                        lambda text, **options: said.append(text))
    good = sample(target, target)
    empty = sample(target, np.zeros_like(target), img_path='night.png')
    far = sample(target, np.full_like(target, 655.35))
    unlabelled = dict(pred_depth_map=good['pred_depth_map'])
    found = evaluate([empty, good, far, unlabelled])
    assert found['num_images'] == 1 and found['num_empty'] == 2
    assert found['abs_rel'] == 0
    for samples, count in (([empty, unlabelled], 1), ([], 0)):
        found = evaluate(samples, metrics=('abs_rel', 'd1'))
        assert list(found) == ['abs_rel', 'd1', 'num_images', 'num_empty']
        assert np.isnan([found['abs_rel'], found['d1']]).all()
        assert (found['num_images'], found['num_empty']) == (0, count)
        assert 'nothing to score' in said[-1]


class Guess(BaseModel):
    """Predicts the depth of its weight everywhere."""

    def __init__(self):
        super().__init__()
        self.depth = nn.Parameter(torch.tensor(9.))

    def forward(self, inputs, mode='tensor'):
        if mode == 'loss':
            return dict(loss=self.depth)
        depth = self.depth.detach().expand(SIZE)
        return [sample(depth, one) for one in inputs]


def test_h36_a_run_that_scores_nothing_goes_on(tmp_path):
    """Property H36: no best checkpoint, no crash of its hooks."""

    def trained(folder, target):
        loader = dict(
            dataset=[dict(inputs=torch.as_tensor(target))],
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_size=1)
        with quick_runner():
            runner = Runner(
                model=Guess(),
                work_dir=str(folder),
                train_dataloader=loader,
                val_dataloader=loader,
                train_cfg=dict(by_epoch=True, max_epochs=2),
                val_cfg=dict(),
                val_evaluator=dict(type='mmext.DepthMetric', prefix='target'),
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.)),
                param_scheduler=dict(
                    type='ReduceOnPlateauLR', monitor='target/abs_rel'),
                default_hooks=dict(
                    checkpoint=dict(
                        type='CheckpointHook',
                        save_best='target/abs_rel',
                        rule='less')),
                visualizer=dict(type='Visualizer', vis_backends=[], name='v'),
                experiment_name=folder.name)
            runner.train()
        return list(folder.glob('best_target_abs_rel_*.pth'))

    assert not trained(tmp_path / 'none', np.zeros(SIZE, np.float32))
    assert trained(tmp_path / 'some', np.full(SIZE, 3., np.float32))


def test_damaged_predictions_are_clamped():
    target = truth()
    pred = target.copy()
    pred[20, 20:40] = np.array([np.nan, np.inf, -np.inf, 0, -5] * 4)
    found = evaluate([sample(pred, target)])
    assert all(np.isfinite(value) for value in found.values())
    assert found['d1'] < 1


def test_crops():
    cases = [('garg', (352, 1216), (143, 349), (43, 1172)),
             ('garg', (375, 1242), (153, 371), (44, 1197)),
             ('eigen', (375, 1242), (124, 342), (44, 1197)),
             ('nyu', (480, 640), (45, 471), (41, 601))]
    for crop, size, rows, columns in cases:
        expected = np.zeros(size, bool)
        expected[slice(*rows), slice(*columns)] = True
        np.testing.assert_array_equal(crop_mask(crop, *size), expected)
    assert crop_mask(None, 3, 4).all()
    with pytest.raises(ConfigError, match='480 x 640'):
        crop_mask('nyu', 250, 400)


def test_uncertainty_quality(tmp_path):
    """A perfect order has AUSE 0, a constant one is as good as chance."""
    target, rng = truth(), np.random.default_rng(1)
    pred = target * rng.uniform(0.7, 1.4, SIZE).astype(np.float32)
    error = np.abs(pred - target) / np.maximum(target, 1)
    path = tmp_path / 'report.json'
    best = evaluate([sample(pred, target, error)], report_file=str(path))
    assert best['ause'] == pytest.approx(0, abs=1e-4)
    assert best['unc_corr'] > 0.999 and best['aurg'] > 0.05
    report = json.loads(path.read_text())
    curve = report['sparsification']
    assert curve['removed'][:2] == [0, 0.05]
    assert curve['uncertainty'] == pytest.approx(curve['oracle'], rel=1e-3)
    assert curve['oracle'][0] == pytest.approx(best['abs_rel'])
    assert np.all(np.diff(curve['oracle']) < 0)
    assert report['images'][0]['abs_rel'] == pytest.approx(best['abs_rel'])
    flat = evaluate([sample(pred, target, np.ones_like(target))])
    assert flat['aurg'] == pytest.approx(0) and flat['unc_corr'] == 0
    assert flat['ause'] == pytest.approx(best['aurg'], rel=1e-3)
    worst = evaluate([sample(pred, target, -error)], uncertainty='rmse')
    assert worst['ause'] > flat['ause'] and worst['unc_corr'] < -0.5
    assert 'ause' not in evaluate([sample(pred, target, error)],
                                  uncertainty=None)
    values = np.array([4., 1, 3, 2])
    np.testing.assert_allclose(
        sparsification(values, values, 4), [2.5, 2, 1.5, 1])
    assert uncertainty_measures(values, values + 1, values, 'rmse',
                                2)[1].shape == (2, 2)


def test_sums_of_images_add_up():
    one, two = truth(1)[:, 1], truth(2)[:, 1]
    rng = np.random.default_rng(0)
    preds = [
        depth * rng.uniform(0.8, 1.2, depth.shape) for depth in (one, two)
    ]
    both = measures(depth_sums(preds[0], one) + depth_sums(preds[1], two))
    whole = depth_sums(np.concatenate(preds), np.concatenate([one, two]))
    assert both == pytest.approx(measures(whole))
    g = np.log(preds[0] + 0.1) - np.log(one + 0.1)
    assert measures(depth_sums(preds[0], one))['val_sig'] == pytest.approx(
        np.sqrt(g.var(ddof=1) + 0.15 * g.mean()**2))
    assert np.isfinite(
        list(measures(depth_sums(np.ones(1),
                                 np.ones(1) * 2)).values())).all()


def test_settings_are_checked():
    for options in (dict(crop='kb'), dict(average='all'), dict(align='best'),
                    dict(uncertainty='mae'), dict(metrics=('a1', )),
                    dict(min_depth=0), dict(min_depth=2,
                                            max_depth=1), dict(max_depth='a'),
                    dict(max_depth=None), dict(max_depth=np.nan),
                    dict(min_depth='a'), dict(steps=1), dict(steps='a')):
        with pytest.raises(ConfigError):
            DepthMetric(**options)
    metric = METRICS.build(
        dict(
            type='mmext.DepthMetric',
            metrics='rmse',
            prefix='target',
            crop=None,
            collect_device='gpu'))
    assert metric.collect_device == 'gpu'
    with pytest.raises(ValueError, match='collect_device'):
        DepthMetric(collect_device='gpu', collect_dir='folder')
    element = BaseDataElement()
    for field in ('pred_depth_map', 'gt_depth_map'):
        setattr(element, field, PixelData(data=torch.full((1, 4, 4), 3.)))
    metric.process(None, [element])
    assert set(metric.evaluate(1)) == {
        'target/rmse', 'target/num_images', 'target/num_empty'
    }
    with pytest.raises(ConfigError, match='ori_shape'):
        metric.process(None, [sample(truth(), truth()[1:])])
