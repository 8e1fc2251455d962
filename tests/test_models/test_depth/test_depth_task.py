# Copyright (c) mmext contributors. All rights reserved.
"""Test-time adaptation of depth estimators, without a runner."""
import math

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.config import ConfigDict  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.registry import MODELS, TASK_UTILS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402
from torch import nn  # noqa: E402

from mmext.models.depth import DepthTask  # noqa: E402
from mmext.models.distillers import sig_loss  # noqa: E402
from mmext.models.segmentation import (SVDP, VDP, CoTTA, Frame,  # noqa: E402
                                       SourceOnly, Tent, View)
from mmext.utils.random import RandomSource  # noqa: E402
from mmext.utils.user_error import ConfigError  # noqa: E402
from ...depth_runs import REFERENCE, SIZE, TASK, TICKS, estimator  # noqa: E402
from ...toy_models import build_toy  # noqa: E402
from ..test_segmentation.common import same, snapshot, start  # noqa: E402


@MODELS.register_module()
class FourLevels(nn.Module):
    """Levels of 16 channels at strides 4 to 32, as VPD's head wants."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([
            nn.Conv2d(TICKS if i == 0 else 16, 16, 3, 4 if i == 0 else 2, 1)
            for i in range(4)
        ])

    def forward(self, x):
        levels = []
        for layer in self.layers:
            x = layer(x)
            levels.append(x)
        return levels


def build(kind='ours', seed=0):
    """Our estimator, or mmseg's own with its head for depth."""
    init_default_scope('mmseg')
    torch.manual_seed(seed)
    if kind == 'ours':
        model = MODELS.build(estimator())
    else:
        model = MODELS.build(
            dict(
                type='DepthEstimator',
                backbone=dict(type='mmengine.FourLevels'),
                decode_head=dict(
                    type='VPDDepthHead', max_depth=60., in_channels=[16] * 4,
                    embed_dim=8, feature_dim=64, num_deconv_layers=1,
                    num_deconv_filters=(8, ), fmap_border=0),
                test_cfg=ConfigDict(mode='whole')))
        # its weights start too small to predict anything but half of 60 m
        for param in model.decode_head.parameters():
            param.data.mul_(3)
    return model.eval()


@pytest.fixture(scope='module', params=['ours', 'mmseg'])
def model(request):
    return build(request.param)


def make_frame(seed=0, ratios=(2.0, 1.0), ori=SIZE):
    """Views of random signed spikes, mirrored second."""
    generator = torch.Generator().manual_seed(seed)
    views = []
    for ratio in ratios:
        size = tuple(int(side * ratio) for side in SIZE)
        x = torch.rand(1, TICKS, *size, generator=generator)
        x = (x > 0.6).float() * 2 - 1
        meta = dict(img_shape=size, ori_shape=ori)
        views.append(View(x, dict(meta, flip=False)))
        views.append(
            View(
                x.flip(-1),
                dict(meta, flip=True, flip_direction='horizontal')))
    return Frame(views, ori)


def svdp(**options):
    return SVDP(**dict(
        dict(task=TASK, reference_view=REFERENCE, sparse_rate=0.02,
             mc_passes=3, decay=0.9, dpu_scale=0.5), **options))


def ready(method, seed=0, kind='ours', **options):
    """The method on a fresh model; its optimizer."""
    built = build(kind, seed)
    original = method.prepare

    def prepare(net, size, number):
        original(net, size, number, TICKS)

    method.prepare = prepare
    return start(method, built, base=SIZE, **options)


# Maps ------------------------------------------------------------------------


def test_a_view_gives_the_models_own_depth(model):
    """Property 16: at equal sizes the logarithm of ``predict``."""
    frame, task = make_frame(), DepthTask()
    for view in frame.views[2:]:
        maps = task.view_maps(model, [view], view.x, SIZE)
        expected = model.predict(
            view.x, [SegDataSample(metainfo=view.meta)])[0].pred_depth_map
        expected = expected.data.clamp(1e-3, 80.)
        assert torch.allclose(task.decide(maps[0])[None], expected, rtol=1e-5)


def test_other_modes_of_inference():
    """Property 16: what ``test_cfg.mode`` says is what is averaged."""
    model, task = build(), DepthTask()
    model.test_cfg.mode = 'whole_flip'
    view = make_frame().views[REFERENCE]
    maps = task.view_maps(model, [view], view.x, SIZE)
    expected = model.predict(
        view.x, [SegDataSample(metainfo=view.meta)])[0].pred_depth_map.data
    assert torch.allclose(task.decide(maps[0])[None], expected, rtol=1e-5)
    mirrored = task.view_maps(model, [view], view.x.flip(-1), SIZE)
    assert torch.allclose(mirrored.flip(-1), maps, atol=1e-5)


def test_views_are_averaged_as_logarithms(model):
    """Specification c.5: the prediction is the geometric mean of views."""
    frame, task = make_frame(ori=(40, 70)), DepthTask()
    mean, single = task.ensemble(model, frame.views, REFERENCE,
                                 frame.ori_shape)
    alone = [
        task.decide(task.view_maps(model, [v], v.x, frame.ori_shape)[0])
        for v in frame.views
    ]
    product = torch.stack(alone).double().prod(0)**(1 / len(alone))
    assert torch.allclose(
        task.decide(mean), product.float(), rtol=1e-4)
    assert torch.allclose(task.decide(single), alone[REFERENCE], rtol=1e-5)


def test_uncertainty_is_the_variance_of_log_depth(model):
    """Properties 1 to 3: head dropout, one backbone run, no dropout none."""
    view, task = make_frame().views[REFERENCE], DepthTask()
    runs = []
    handle = model.backbone.register_forward_hook(
        lambda *args: runs.append(1))

    def maps(p):
        return task.dropout_maps(model, view, view.x, SIZE, 10, p,
                                 RandomSource(0))

    u = task.uncertainty(maps(0.5))
    assert len(runs) == 1
    handle.remove()
    stack = torch.stack(list(maps(0.5)))
    assert stack.shape == (10, 1, *SIZE)
    assert torch.allclose(
        u, stack[:, 0].var(0, unbiased=False), rtol=1e-3, atol=1e-7)
    assert (u > 0).float().mean() > 0.5  # elsewhere it is saturated
    same_passes = list(maps(0.))
    assert task.uncertainty(iter(same_passes)).abs().max() < 1e-10
    expected = task.student_map(model, view, view.x, SIZE)[0]
    assert torch.allclose(same_passes[0], expected, atol=1e-5)
    # free of a unit: twice the depth has the same uncertainty
    twice = task.uncertainty(one + math.log(2.) for one in maps(0.5))
    assert torch.allclose(u, twice, rtol=1e-2, atol=1e-6)


def test_dropout_repeats_only_the_last_convolution():
    """The head before it runs once, also when sides need padding."""
    model, task = build(), DepthTask()
    view = make_frame(ratios=(0.4, )).views[0]
    runs = []
    model.decode_head.output[0].register_forward_hook(
        lambda *args: runs.append(1))
    last = model.decode_head.output[-1]
    last.register_forward_hook(lambda *args: runs.append(2))
    maps = list(
        task.dropout_maps(model, view, view.x, SIZE, 5, 0.5, RandomSource(0)))
    assert runs.count(1) == 1 and runs.count(2) == 1 + 5
    assert all(one.shape == (1, *SIZE) for one in maps)


# Losses and gate -------------------------------------------------------------


@pytest.mark.parametrize('kind', ['l1', 'l2', 'silog'])
def test_losses(kind):
    """L1, L2 and SILog of log-depth; zero with finite gradients for equal."""
    task = DepthTask(loss=kind)
    labels = torch.rand(6, 8) * 50 + 2
    output = (labels * 1.5).log()[None, None].requires_grad_()
    loss = task.loss(output, labels)
    factor = math.log(1.5)
    expected = dict(
        l1=factor, l2=factor**2, silog=math.sqrt(0.15) * factor)[kind]
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    equal = labels.log()[None, None].requires_grad_()
    loss = task.loss(equal, labels)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(equal.grad).all()
    if kind == 'silog':
        other = torch.rand(1, 1, 6, 8) * 50 + 2
        assert torch.allclose(
            task.loss(other.log(), labels),
            sig_loss(other, labels[None, None], eps=0.), rtol=1e-4)


def test_the_gate_keeps_single_views_where_teacher_and_source_agree():
    """Property 14, specification c.5: a small |log d_T - log d_A|."""
    frame = make_frame()
    view = frame.views[REFERENCE]
    method = CoTTA(task=TASK, reference_view=REFERENCE)
    assert method.anchor_threshold is None
    assert CoTTA().anchor_threshold == 0.69
    method.anchor_threshold = 0.  # any: the anchor is built
    ready(method)
    task, teacher = method.task, method.teacher.module
    for param in teacher.parameters():
        param.data.mul_(1.02)
    mean, single = task.ensemble(teacher, frame.views, REFERENCE, SIZE)
    average, alone = task.decide(mean), task.decide(single)
    anchor = task.view_maps(method.anchor, [view], view.x, SIZE)[0]
    apart = (single - anchor).abs()[0]
    middle = float(apart.median())
    for threshold, expected in (
            (math.exp(-middle), torch.where(apart < middle, alone, average)),
            (1.1, average), (-0.1, alone)):
        method.anchor_threshold = threshold
        labels, log = method.pseudo_label(frame, REFERENCE)
        assert (labels != expected).float().mean() < 1e-3  # rounding
        assert 0 < log['anchor_agreement'] <= 1
    method.anchor = None
    labels, log = method.pseudo_label(frame, REFERENCE)
    assert torch.equal(labels, average) and not log


def test_prediction_is_pasted_around_the_crop():
    sample = SegDataSample(
        metainfo=dict(ori_shape=(10, 20), crop_box=(4, 3, 6, 12)))
    task = DepthTask(min_depth=0.5)
    labels = torch.rand(6, 12) + 2
    task.attach(sample, labels)
    depth = sample.pred_depth_map.data
    assert depth.shape == (1, 10, 20)
    assert torch.equal(depth[0, 4:, 3:15], labels)
    assert int((depth != 0.5).sum()) == 72
    stored = task.picture(sample)
    assert stored.dtype.name == 'uint16'
    assert abs(stored[5, 5] / 256 - float(depth[0, 5, 5])) < 1 / 256
    batch = dict(
        inputs=[torch.zeros(3, 6, 12)],
        data_samples=[
            SegDataSample(
                metainfo=dict(ori_shape=(10, 20), crop_box=(4, 3, 6, 12)))
        ])
    assert Frame.from_batch(batch, lambda data, training: dict(
        data, inputs=torch.stack(data['inputs']))).ori_shape == (6, 12)


# Methods ---------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['ours', 'mmseg'])
def test_svdp_step(kind):
    """Properties 16, 18, 20, 22, 24: one step, in its order."""
    method = svdp(restore_prob=0.)
    optim = ready(method, kind=kind)
    frame = make_frame()
    before, teacher = snapshot(method.model), method.teacher.module
    u = method.uncertainty(frame.views[REFERENCE], SIZE)
    places = method.place(u, frame)
    expected, _ = method.pseudo_label(
        frame, REFERENCE, lambda v: method.prompted(teacher, v, places))
    method.rng.reset()
    result = method.step(frame, optim)
    assert not result.skipped
    assert torch.equal(result.labels, expected)
    assert result.labels.shape == SIZE and (result.labels > 0).all()
    assert result.log['alpha_prompt'] == pytest.approx(
        0.9 - 0.5 * float(u.mean()), abs=1e-6)
    after = snapshot(method.model)
    assert not torch.equal(before['visual_prompt.patch'],
                           after['visual_prompt.patch'])
    assert before['visual_prompt.patch'].shape[1] == TICKS
    moved = [k for k in before if not torch.equal(before[k], after[k])]
    assert len(moved) > len(before) / 2
    weights = dict(teacher.named_parameters())
    for key in moved:
        if not key.startswith('visual_prompt'):
            assert torch.allclose(
                weights[key], 0.9 * before[key] + 0.1 * after[key],
                atol=1e-6), key
    assert all(p.grad is None for p in teacher.parameters())


def test_the_other_methods_run():
    """CoTTA with each loss, VDP and the source, on the same frame."""
    frame = make_frame()
    for method in (
            CoTTA(task=dict(type='mmext.DepthTask', loss='l2'),
                  reference_view=REFERENCE, anchor_threshold=0.9),
            CoTTA(task=dict(type='mmext.DepthTask', loss='silog'),
                  reference_view=REFERENCE),
            VDP(task=TASK, reference_view=REFERENCE),
            SourceOnly(multi_view=True, task=TASK, reference_view=REFERENCE)):
        optim = ready(method)
        before = snapshot(method.model)
        result = method.step(frame, optim)
        assert not result.skipped and result.labels.shape == SIZE
        assert same(before, snapshot(method.model)) == (
            type(method) is SourceOnly)


def test_without_prompts_it_is_cotta():
    """Property 34: with an empty prompt SVDP equals CoTTA at its rates."""
    results = []
    for kind in (SVDP, CoTTA):
        options = dict(task=TASK, decay=0.9, reference_view=REFERENCE)
        if kind is SVDP:
            options.update(sparse_rate=0.02, prompt_std=0., prompt_grad=False)
        method = kind(**options)
        optim = ready(method)
        if kind is SVDP:  # its dropout passes draw from the same numbers
            method.uncertainty = lambda view, size: torch.rand(size)
        labels = [method.step(make_frame(s), optim).labels for s in range(2)]
        results.append((labels, snapshot(method.model)))
    for one, other in zip(*(labels for labels, _ in results)):
        assert torch.equal(one, other)
    results[0][1].pop('visual_prompt.patch')
    assert same(results[0][1], results[1][1])


def test_frames_that_teach_nothing():
    """Depth beyond the cap everywhere; a frame that is not finite."""
    method = svdp(task=dict(type='mmext.DepthTask', max_depth=0.01))
    optim = ready(method)
    before = snapshot(method.model)
    result = method.step(make_frame(), optim)
    assert not result.skipped and result.log['loss'] == 0
    assert torch.allclose(result.labels, torch.tensor(0.01))
    method = svdp()
    optim = ready(method)
    frame = make_frame()
    for view in frame.views:
        view.x[..., 3, 4] = float('nan')
    before = snapshot(method.model)
    assert 'loss' in method.step(frame, optim).skipped
    assert same(before, snapshot(method.model))


@pytest.mark.parametrize('name', ['bfloat16'])
def test_autocast_stays_near(name):
    """Property 42: networks in bfloat16, logarithms in float32."""
    method, other = svdp(), svdp()
    for one in (method, other):
        one.optim = ready(one)
    expected = method.step(make_frame(), method.optim)
    with torch.autocast('cpu', dtype=getattr(torch, name)):
        result = other.step(make_frame(), other.optim)
    assert result.labels.dtype == torch.float32 and not result.skipped
    apart = (result.labels.log() - expected.labels.log()).abs()
    assert apart.mean() < 0.05


# Mistakes --------------------------------------------------------------------


def test_task_and_model_must_fit():
    for method in (CoTTA(), Tent()):
        with pytest.raises(ConfigError, match='mmext.DepthTask'):
            method.prepare(build(), SIZE, 0)
    with pytest.raises(ConfigError, match='depth estimators'):
        svdp().prepare(build_toy(), SIZE, 0)
    for options in (dict(loss='mse'), dict(min_depth=0.),
                    dict(max_depth=1e-4), dict(max_depth=float('inf'))):
        with pytest.raises(ConfigError):
            TASK_UTILS.build(dict(type='mmext.DepthTask', **options))
