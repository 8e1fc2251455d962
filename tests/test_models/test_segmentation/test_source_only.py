# Copyright (c) mmext contributors. All rights reserved.
"""Baselines that learn nothing."""
import pytest
import torch
import torch.nn as nn

pytest.importorskip('mmseg')

from mmext.models.segmentation import (SVDP, BNStats, CoTTA,  # noqa: E402
                                       SourceOnly, Tent)
from mmext.models.segmentation.base_adaptation import \
    use_batch_statistics  # noqa: E402
from ...toy_models import build_toy  # noqa: E402
from .common import (ORI, REFERENCE, make_frame, same, snapshot,  # noqa: E402
                     start)


@pytest.mark.parametrize('method', [
    SourceOnly(reference_view=REFERENCE),
    SourceOnly(multi_view=True, reference_view=REFERENCE),
    BNStats(reference_view=REFERENCE)
])
def test_nothing_changes(method):
    """Property 32: parameters and buffers stay; frames do not interact."""
    model = build_toy()
    start(method, model)
    before = snapshot(model)
    first = method.step(make_frame(0), None).labels
    method.step(make_frame(1), None)
    assert torch.equal(method.step(make_frame(0), None).labels, first)
    assert same(before, snapshot(model))
    assert not any(m.training for m in model.modules())
    assert all(m.track_running_stats for m in model.modules()
               if isinstance(m, nn.BatchNorm2d))


def test_source_is_the_hosts_prediction():
    """Property 32: single view: what mmseg's own ``predict`` returns."""
    from mmseg.structures import SegDataSample
    model = build_toy()
    method = SourceOnly(reference_view=REFERENCE)
    start(method, model)
    frame = make_frame()
    view = frame.views[REFERENCE]
    sample = SegDataSample(metainfo=dict(view.meta))
    with torch.no_grad():
        out = model.predict(view.x, [sample])[0]
    assert torch.equal(out.pred_sem_seg.data[0],
                       method.step(frame, None).labels)


def test_multi_view_is_the_mean_of_probabilities():
    """Property 17: the mean of un-mirrored softmax maps."""
    model = build_toy()
    method = SourceOnly(multi_view=True, reference_view=REFERENCE)
    start(method, model)
    frame = make_frame()
    total = torch.zeros(5, *ORI)
    with torch.no_grad():
        for view in frame.views:
            logits = model.encode_decode(view.x, [dict(view.meta)])
            probs = nn.functional.interpolate(
                logits, ORI, mode='bilinear').softmax(1)[0]
            total += probs.flip(-1) if view.flip_dims else probs
    labels = method.step(frame, None).labels
    assert (labels != total.argmax(0)).float().mean() < 1e-3


def test_batch_statistics():
    """BN-stats normalises by the image itself."""
    norm = nn.BatchNorm2d(4).eval()
    norm.running_mean.fill_(3.)
    x = torch.randn(1, 4, 6, 7) * 5 + 2
    assert use_batch_statistics(norm) == use_batch_statistics(norm) == 1
    out = norm(x)
    assert out.mean((0, 2, 3)).abs().max() < 1e-5
    assert (out.var((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-3
    assert (norm.running_mean == 3).all() and not norm.training
    assert int(norm.num_batches_tracked) == 0


def test_batch_statistics_of_a_single_value():
    """A pooled 1x1 map keeps the stored statistics."""
    norm = nn.BatchNorm2d(4).eval()
    x = torch.randn(1, 4, 1, 1)
    use_batch_statistics(norm)
    assert torch.equal(norm(x), nn.BatchNorm2d(4).eval()(x))


def test_bn_stats_needs_batch_norm():
    """A model without batch norm is told so."""
    model = build_toy()
    model.backbone.bn1 = nn.Identity()
    with pytest.raises(ValueError, match='batch-norm'):
        start(BNStats(reference_view=REFERENCE), model)


@pytest.mark.parametrize('cls', [Tent, CoTTA, SVDP])
def test_learning_with_batch_statistics(cls):
    """Student, teacher and anchor see the frame's statistics; none is kept."""
    model = build_toy()
    model.backbone.bn1.running_mean.add_(2.)
    method = cls(reference_view=REFERENCE, batch_stats=True)
    optim = start(method, model)
    plain = BNStats(reference_view=REFERENCE)
    stored = model.backbone.bn1.running_mean.clone()
    result = method.step(make_frame(0), optim)
    assert not result.skipped
    assert torch.equal(model.backbone.bn1.running_mean, stored)
    if cls is Tent:
        start(plain, build_toy())  # the same weights, other statistics
        assert torch.equal(
            plain.step(make_frame(0), None).labels, result.labels)
    else:
        for network in (method.teacher.module, method.anchor):
            assert network.backbone.bn1._forward_pre_hooks


def test_batch_statistics_are_of_one_process():
    """SyncBN would mix frames of all processes: it becomes batch norm."""
    model = build_toy()
    state = model.state_dict()
    model.backbone.bn1 = nn.SyncBatchNorm.convert_sync_batchnorm(
        model.backbone.bn1)
    params = list(model.parameters())
    method = Tent(reference_view=REFERENCE, batch_stats=True)
    optim = start(method, model)
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    assert all(a is b for a, b in zip(params, model.parameters()))
    assert list(state) == list(model.state_dict())
    plain = Tent(reference_view=REFERENCE, batch_stats=True)
    other = build_toy()
    wrapper = start(plain, other)
    for seed in (0, 1):
        assert torch.equal(
            method.step(make_frame(seed), optim).labels,
            plain.step(make_frame(seed), wrapper).labels)
    assert same(snapshot(model), snapshot(other))


def test_names():
    """Names in reports tell the variants apart."""
    names = {
        SourceOnly().name,
        SourceOnly(multi_view=True).name,
        BNStats().name
    }
    assert len(names) == 3 and 'SourceOnly' in names
