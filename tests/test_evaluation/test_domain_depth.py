# Copyright (c) mmext contributors. All rights reserved.
"""Depth errors per round and domain: the same numbers as of a data set."""
import json
import logging

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS

from mmext.evaluation.depth_metric import DepthMetric
from mmext.evaluation.domain_depth import DomainDepthMetric
from mmext.utils.user_error import ConfigError

VISITS = [(1, 'fog'), (1, 'night'), (2, 'fog'), (2, 'night')]


def frame(seed, number=1, domain='fog', error=0.3, **fields):
    """A frame of random depth with holes, and a prediction of it."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(2, 70, (24, 40)).astype(np.float32)
    pred = depth * 1.4 * np.exp(error * rng.normal(size=depth.shape))
    depth[:, ::5] = 0
    return dict(
        dict(
            pred_depth_map=dict(data=torch.from_numpy(pred)[None]),
            gt_depth_map=dict(data=torch.from_numpy(depth)[None]),
            domain=domain,
            round=number), **fields)


def stream():
    """Three frames of every visit; the error rises in round 2."""
    return [
        frame(10 * i + k, number, domain, 0.1 + 0.1 * number)
        for i, (number, domain) in enumerate(VISITS) for k in range(3)
    ]


def metric(**options):
    return DomainDepthMetric(crop=None, **options)


@pytest.mark.stack_subset
@pytest.mark.parametrize('average', ['image', 'pixel'])
@pytest.mark.parametrize('crop', [None, 'garg'])
def test_equals_the_metric_of_each_domain(average, crop):
    """Each visit's numbers, with and without median scaling."""
    frames = stream()
    ours = DomainDepthMetric(average=average, crop=crop)
    ours.process(None, frames)
    found = ours.evaluate(len(frames))
    for number, domain in VISITS:
        part = [
            f for f in frames if (f['round'], f['domain']) == (number, domain)
        ]
        for lead, align in (('', None), ('median_', 'median')):
            alone = DepthMetric(
                average=average, crop=crop, align=align, uncertainty=None)
            alone.process(None, part)
            expected = alone.evaluate(len(part))
            for name in ('abs_rel', 'sq_rel', 'rmse', 'rmse_log', 'd1', 'd2',
                         'd3', 'silog'):
                assert found[f'r{number}/{domain}/{lead}{name}'] == \
                    pytest.approx(expected[name], rel=1e-12)
    assert found['abs_rel'] > 1.5 * found['median_abs_rel']


def test_report_of_a_stream():
    """Means over domains, then rounds; forgetting is the rise of AbsRel."""
    ours = metric(domains=['night', 'fog'])
    ours.process(None, stream())
    found = ours.evaluate(12)
    report = ours.report()
    assert json.loads(json.dumps(report)) == report
    assert list(report['rounds']['r1']) == ['night', 'fog']
    assert report['main'] == 'abs_rel'
    values = {
        (r, d): report['rounds'][f'r{r}'][d]['abs_rel']
        for r, d in VISITS
    }
    assert report['forgetting']['fog'] == \
        values[2, 'fog'] - values[1, 'fog'] > 0
    assert report['abs_rel'] == pytest.approx(np.mean(list(values.values())))
    assert found['abs_rel'] == report['abs_rel'] == report['means']['abs_rel']
    assert found['r1/abs_rel'] == pytest.approx(
        (values[1, 'fog'] + values[1, 'night']) / 2)
    assert found['fog/forgetting'] == report['forgetting']['fog']
    assert 'r1/fog/frames' not in found and 'median_d1' in found


def test_frames_that_cannot_be_scored(caplog):
    """Without truth, or without a pixel in range: counted and left out."""
    nothing = torch.zeros(1, 24, 40)
    frames = [
        frame(0),
        frame(1, gt_depth_map=dict(data=nothing)),
        frame(2, gt_depth_map=None)
    ]
    ours = metric()
    ours.process(None, frames)
    with caplog.at_level(logging.WARNING):
        found = ours.evaluate(3)
    alone = metric()
    alone.process(None, frames[:1])
    assert alone.evaluate(1) == found
    report = ours.report()
    assert (report['empty'], report['unlabelled']) == (1, 1)
    assert report['rounds']['r1']['fog']['frames'] == 1
    unlabelled = metric()
    unlabelled.process(None, frames[2:])
    assert unlabelled.evaluate(1) == {}


def test_counts_add_up():
    """Property 40: shares of processes, and what a resume goes on from."""
    frames = stream()
    whole, first, second = metric(), metric(), metric()
    whole.process(None, frames)
    expected = whole.evaluate(12)
    first.process(None, frames[:5])
    second.process(None, frames[5:])
    merged = metric().compute_metrics([first._counts, second._counts])
    assert merged == pytest.approx(expected, rel=1e-12)
    # Property 37: bit for bit
    resumed = metric()
    resumed.load_state_dict(first.state_dict())
    resumed.process(None, frames[5:])
    assert resumed.evaluate(12) == expected
    with pytest.raises(ValueError, match='other settings'):
        metric(align=(None, )).load_state_dict(first.state_dict())


def test_wrong_settings():
    for options in (dict(align='median'), dict(align=()),
                    dict(align=('mean', )), dict(crop='kitti'),
                    dict(average='sum'), dict(min_depth=90.)):
        with pytest.raises(ConfigError):
            METRICS.build(dict(type='mmext.DomainDepthMetric', **options))
    ours = metric(domains=['night'])
    with pytest.raises(ConfigError, match='DomainDepthMetric'):
        ours.process(None, [frame(0)])
    with pytest.raises(ConfigError, match='size'):
        metric().process(None, [
            frame(0, pred_depth_map=dict(data=torch.ones(1, 8, 8)))
        ])
