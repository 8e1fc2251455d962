# Copyright (c) mmext contributors. All rights reserved.
"""The estimator: prediction (property H40), losses, other backbones."""
import pytest
import torch
from torch import nn

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope

from mmext.evaluation.depth_measures import crop_mask
from mmext.models.depth import resize_prediction
from mmext.models.depth.label_watch import LabelWatch
from mmext.utils.user_error import ConfigError
from tests.tiny_depth import (MODELS_DIR, NO_LOSS, depth_config, depth_model,
                              depth_sample)


@pytest.mark.stack_subset
@pytest.mark.parametrize('channels', [3, 16])
@pytest.mark.parametrize('with_gt', [True, False])
@torch.no_grad()
def test_h40_predict_at_original_size(channels, with_gt):
    model = depth_model(in_channels=channels).eval()
    x = torch.randn(2, channels, 32, 64).sign()
    samples = [depth_sample(50, 90), depth_sample(47, 81)]
    if not with_gt:
        for sample in samples:
            del sample.gt_depth_map
    found = model(x, samples, mode='predict')
    for sample, size in zip(found, [(50, 90), (47, 81)]):
        for name in ('pred_depth_map', 'pred_uncertainty_map'):
            assert getattr(sample, name).data.shape == (1, *size)
        assert ('gt_depth_map' in sample) == with_gt
        assert bool((sample.pred_depth_map.data >= 1e-3).all())
    # each image by itself gives the same
    alone = model(x[1:], [depth_sample(47, 81)], mode='predict')[0]
    torch.testing.assert_close(alone.pred_depth_map.data,
                               found[1].pred_depth_map.data)


@torch.no_grad()
@pytest.mark.parametrize('channels', [3, 128])
def test_h40_from_raw_data_to_the_original_size(channels):
    """The shipped model with its preprocessor: pictures, or 0-1 spikes."""
    init_default_scope('mmseg')
    cfg = Config.fromfile(MODELS_DIR / 'dpt-tiny.py').model
    cfg.backbone.in_channels = channels
    model = MODELS.build(cfg).eval()
    top = 256 if channels == 3 else 2
    raw = torch.randint(top, (channels, 50, 90), dtype=torch.uint8)
    batch = dict(inputs=[raw], data_samples=[depth_sample(50, 90)])
    found = model.test_step(batch)[0]
    assert found.pred_depth_map.data.shape == (1, 50, 90)
    assert found.pred_uncertainty_map.data.shape == (1, 50, 90)


@torch.no_grad()
def test_h40_without_data_samples_and_without_uncertainty():
    model = depth_model().eval()
    x = torch.randn(2, 3, 40, 64)
    found = model(x, mode='predict')
    assert found[1].pred_depth_map.data.shape == (1, 40, 64)
    depth, uncertainty = model(x, mode='tensor')
    assert depth.shape == uncertainty.shape == (2, 1, 40, 64)
    plain = depth_model(uncertainty_head=None).eval()
    found = plain(x, mode='predict')
    assert 'pred_uncertainty_map' not in found[0]
    assert plain(x, mode='tensor')[1] is None


@torch.no_grad()
def test_a_crop_is_pasted_where_it_was_cut():
    model = depth_model().eval()
    x = torch.randn(1, 3, 32, 64)
    sample = depth_sample(60, 100, crop_box=(20, 10, 38, 80))
    found = model(x, [sample], mode='predict')[0]
    depth, uncertainty = model.depth_and_uncertainty(x)
    inside = torch.zeros(1, 60, 100, dtype=torch.bool)
    inside[:, 20:58, 10:90] = True
    out = found.pred_depth_map.data
    torch.testing.assert_close(
        out[inside].view(38, 80),
        resize_prediction(depth, (38, 80))[0, 0].clamp_min(1e-3))
    assert bool((out[~inside] == 1e-3).all())
    out = found.pred_uncertainty_map.data
    torch.testing.assert_close(out[inside].view(38, 80),
                               resize_prediction(uncertainty, (38, 80))[0, 0])
    assert bool((out[~inside] == 1).all())


@torch.no_grad()
def test_padding_and_flip_are_undone():
    model = depth_model().eval()
    x = torch.randn(1, 3, 32, 64)
    plain = model(x, [depth_sample(32, 64)], mode='predict')[0]
    flipped = model(
        x, [depth_sample(32, 64, flip=True, flip_direction='horizontal')],
        mode='predict')[0]
    torch.testing.assert_close(flipped.pred_depth_map.data,
                               plain.pred_depth_map.data.flip(2))
    padded = model(
        x, [depth_sample(30, 60, padding_size=[4, 0, 0, 2])],
        mode='predict')[0]
    torch.testing.assert_close(padded.pred_depth_map.data,
                               plain.pred_depth_map.data[:, :30, 4:])


@torch.no_grad()
def test_inference_modes():
    x, size = torch.randn(1, 3, 64, 64), (64, 64)
    maps = {}
    for mode, options in (('whole', {}), ('whole_flip', {}),
                          ('slide', dict(crop_size=size, stride=size)),
                          ('slide_flip', dict(crop_size=size, stride=size))):
        model = depth_model(test_cfg=dict(mode=mode, **options)).eval()
        found = model(x, [depth_sample(*size)], mode='predict')[0]
        maps[mode] = torch.cat(
            [found.pred_depth_map.data, found.pred_uncertainty_map.data])
    torch.testing.assert_close(maps['slide'], maps['whole'])
    torch.testing.assert_close(maps['slide_flip'], maps['whole_flip'])
    assert not torch.allclose(maps['whole'], maps['whole_flip'])
    # two windows that overlap: mmseg's own estimator would not slide
    model = depth_model(
        test_cfg=dict(mode='slide', crop_size=(64, 32), stride=(64, 16)))
    found = model.eval()(x, [depth_sample(*size)], mode='predict')[0]
    assert not torch.allclose(found.pred_depth_map.data, maps['whole'][:1])


@torch.no_grad()
def test_saturated_depth_rings_unless_it_is_clamped_first():
    maps = torch.full((1, 1, 8, 8), 10.)
    maps[..., 4] = 1e8
    samples = [depth_sample(20, 20)]
    found = depth_model().postprocess_result(maps, samples)[0]
    assert float(found.pred_depth_map.data.min()) == pytest.approx(1e-3)
    safe = dict(clamp_first=True, max_depth=80.)
    model = depth_model(test_cfg=safe)
    found = model.postprocess_result(maps, samples)[0]
    assert float(found.pred_depth_map.data.min()) > 1
    assert 60 < float(found.pred_depth_map.data.max()) <= 80


class Recorder(nn.Module):
    """A loss that keeps what it was given."""

    def __init__(self, seen, name):
        super().__init__()
        self.seen, self.name = seen, name

    def forward(self, *args):
        self.seen[self.name] = args
        return args[0].mean()


@pytest.mark.stack_subset
def test_losses_of_the_supervised_training():
    """Resized to the ground truth, clamped, masked as the losses get it."""
    model = depth_model(train_cfg=dict(max_depth=40., crop='garg'))
    seen = {}
    model.decode_head.loss_depth = Recorder(seen, 'depth')
    model.uncertainty_head.loss_uncertainty = Recorder(seen, 'uncertainty')
    samples = [depth_sample(50, 90) for _ in range(2)]
    samples[0].gt_depth_map.data[0, 30, 50] = float('nan')
    x = torch.randn(2, 3, 32, 64)
    losses = model(x, samples, mode='loss')
    assert set(losses) == {'loss_depth', 'loss_uncertainty', 'depth_skipped'}
    assert losses['depth_skipped'] == 0
    pred, target, mask = seen['depth']
    assert pred.shape == target.shape == mask.shape == (2, 1, 50, 90)
    assert mask.dtype == torch.bool
    # Garg's rectangle of 50 x 90, then 1e-3 < d < 40
    rows, columns = mask.any(0)[0].any(1), mask.any(0)[0].any(0)
    assert rows.nonzero().min() >= int(0.40810811 * 50)
    assert rows.nonzero().max() < int(0.99189189 * 50)
    assert columns.nonzero().min() >= int(0.03594771 * 90)
    assert columns.nonzero().max() < int(0.96405229 * 90)
    assert not mask[0, 0, 30, 50]
    assert bool((target[mask] > 1e-3).all() & (target[mask] < 40).all())
    assert bool((pred >= 1e-3).all())
    assert seen['uncertainty'][0].shape == pred.shape
    for index, one in enumerate(seen['depth'], 1):
        assert seen['uncertainty'][index] is one
    model.parse_losses(losses)[0].backward()


def test_shipped_losses():
    """The base configs name the losses; empty ground truth is no NaN."""
    for name in ('dpt-tiny', 'dpt-hybrid'):
        cfg = depth_config(name=name, losses=True)
        assert cfg.decode_head.loss_depth.type == 'mmext.SigLoss'
        assert cfg.uncertainty_head.loss_uncertainty.type == \
            'mmext.UncertaintyLoss'
    model = depth_model(losses=True)
    x, sample = torch.randn(1, 3, 32, 64), depth_sample(50, 90)
    losses = model(x, [sample], mode='loss')
    assert losses.pop('depth_skipped') == 0
    assert all(0 < value.item() < 10 for value in losses.values())
    sample.gt_depth_map.data.zero_()
    losses = model(x, [sample], mode='loss')
    assert losses.pop('depth_skipped') == 1
    sum(losses.values()).backward()
    assert all(value.item() == 0 for value in losses.values())
    assert all(
        bool(p.grad.isfinite().all()) for p in model.parameters()
        if p.grad is not None)


@pytest.fixture
def log(caplog):
    """What the package logs in this test."""
    logger = MMLogger.get_instance('depth_estimator')
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_labels_out_of_range_are_counted_and_told_once(log):
    """A wrong depth_scale: section 7, a counted skip with what to do."""
    model = depth_model(losses=True)
    x = torch.randn(2, 3, 32, 64)
    samples = [depth_sample(50, 90) for _ in range(2)]
    samples[0].gt_depth_map.data *= 256
    found = model(x, samples, mode='loss')
    assert found['depth_skipped'] == 0.5 and 'No depth' not in log.text
    # one pixel has no variance, two have
    for pixels, skipped in ((1, 0.5), (2, 0)):
        samples[0].gt_depth_map.data[0, 30, 40:40 + pixels] = 9.
        assert model(x, samples, mode='loss')['depth_skipped'] == skipped
    samples[1].gt_depth_map.data *= 256
    samples[0].gt_depth_map.data.fill_(float('nan'))
    for _ in range(3):
        found = model(x, samples, mode='loss')
        assert found['depth_skipped'] == 1 and found['loss_depth'] == 0
        assert log.text.count('No depth between 0.001 and 80 m') == 1
    for part in ("the crop 'garg'", 'all 2 images', 'depth_scale',
                 'max_depth and crop of train_cfg', 'depth_skipped'):
        assert part in log.text
    depth = samples[1].gt_depth_map.data
    assert f'from {depth[depth > 0].min():.4g} to {depth.max():.4g} m' in \
        log.text
    assert model.parse_losses(found)[0] == 0


def test_empty_batches_are_looked_for_now_and_then(log):
    """The first ten and every hundredth: no waiting for a GPU in between."""
    watch, cfg = LabelWatch(), dict(min_depth=1e-3, max_depth=80., crop=None)
    target = torch.zeros(1, 1, 4, 4)
    full, empty = target == 0, target > 0
    for _ in range(10):
        assert watch(target, full, cfg) == 0
    for _ in range(90):
        assert watch(target, empty, cfg) == 1 and not log.text
    assert watch(target, empty, cfg) == 1
    assert 'm anywhere in all 1' in log.text
    assert 'are 0 everywhere' in log.text


@pytest.mark.parametrize('crop,size', [('garg', (375, 1242)),
                                       ('eigen', (375, 1242)),
                                       ('nyu', (480, 640)), (None, (40, 70))])
def test_training_crops_as_the_metric_does(crop, size):
    model = depth_model(train_cfg=dict(crop=crop))
    target = torch.full((2, 1, *size), 5.)
    target[1, 0, 200:] = 0
    expected = torch.from_numpy(crop_mask(crop, *size)) & (target > 0)
    assert torch.equal(model.target_mask(target), expected)
    if crop == 'nyu':
        with pytest.raises(ConfigError, match='480 x 640'):
            model.target_mask(target[..., 1:])


@pytest.mark.parametrize('clamp_first', [False, True])
def test_losses_of_saturated_depth(clamp_first):
    """Bicubic resizing of 1e8 m beside 10 m rings, of 80 m hardly."""
    model = depth_model(
        train_cfg=dict(max_depth=80., crop=None, clamp_first=clamp_first))
    seen = {}
    model.decode_head.loss_depth = Recorder(seen, 'depth')
    depth = torch.full((1, 1, 8, 8), 10., requires_grad=True)
    with torch.no_grad():
        depth[..., 4] = 1e8
    losses = model.supervised_losses(depth, None, [depth_sample(20, 20)])
    assert set(losses) == {'loss_depth', 'depth_skipped'}
    pred = seen['depth'][0]
    if clamp_first:
        assert 1 < float(pred.min()) and float(pred.max()) < 100
    else:
        assert float(pred.min()) == pytest.approx(1e-3)
        assert float(pred.max()) > 5e7
    losses['loss_depth'].backward()
    assert bool(depth.grad[..., 4].any()) != clamp_first
    assert bool(depth.grad[..., 0].all())


def test_bad_settings_and_samples():
    for options, match in (
        (dict(test_cfg=dict(mode='tiles')), "'tiles'"),
        (dict(train_cfg=dict(crop='middle')), "'middle'"),
        (dict(train_cfg=dict(max_dept=9)), r"max_depth.*got \['max_dept'\]"),
        (dict(train_cfg=dict(min_depth=9, max_depth=3)), '9 and 3'),
    ):
        with pytest.raises(ConfigError, match=match):
            depth_model(**options)
    cfg = depth_config()
    cfg.decode_head = dict(
        type='mmseg.FCNHead', in_channels=64, channels=8, num_classes=1)
    with pytest.raises(ConfigError, match=r'FCNHead has no decode\(\)'):
        MODELS.build(cfg)
    model = depth_model()
    with pytest.raises(ConfigError, match='1 of 1 have none.*LoadDepth'):
        empty = depth_sample(4, 4)
        del empty.gt_depth_map
        model.stack_targets([empty])
    with pytest.raises(ConfigError, match='one size.*KBCrop'):
        model.stack_targets([depth_sample(4, 4), depth_sample(5, 4)])


# Backbones of the hosts; three channels or a spike stream -------------------

TOKENS = dict(out_channels=(8, 16, 24, 24), factors=(4, 2, 1, 0.5))
BACKBONES = {
    'mmseg ResNet':
    (dict(type='mmseg.ResNet', depth=18, base_channels=8,
          in_channels=16), (8, 16, 32, 64), None),
    'mmpretrain Swin': (dict(
        type='mmpretrain.SwinTransformer',
        arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
        img_size=64,
        in_channels=16,
        window_size=2,
        out_indices=(0, 1, 2, 3)), (8, 16, 32, 64), None),
    'mmpretrain ViT': (dict(
        type='mmpretrain.VisionTransformer',
        arch=dict(
            embed_dims=24, num_layers=4, num_heads=2, feedforward_channels=48),
        img_size=64,
        in_channels=16,
        out_indices=(0, 1, 2, 3),
        out_type='featmap'), (24, ) * 4, dict(TOKENS, readout='ignore')),
    'mmseg ViT with class token': (dict(
        type='mmseg.VisionTransformer',
        img_size=(64, 64),
        in_channels=16,
        embed_dims=24,
        num_layers=4,
        num_heads=2,
        mlp_ratio=2,
        out_indices=(0, 1, 2, 3),
        output_cls_token=True), (24, ) * 4, dict(TOKENS, readout='project')),
}


@pytest.mark.stack_subset
@pytest.mark.parametrize('name', BACKBONES)
def test_other_backbones(name):
    """The head says what they give; odd sizes work, too."""
    backbone, in_channels, reassemble = BACKBONES[name]
    pytest.importorskip(backbone['type'].split('.')[0])
    init_default_scope('mmseg')
    cfg = depth_config(backbone=dict(backbone))
    cfg.decode_head = dict(
        type='mmext.DPTDepthHead',
        in_channels=in_channels,
        channels=16,
        hidden=8,
        reassemble=reassemble,
        loss_depth=NO_LOSS)
    cfg.uncertainty_head.update(channels=16, hidden=8)
    model = MODELS.build(cfg).eval()
    height, width = (64, 64) if 'mmpretrain ViT' in name else (64, 96)
    depth, uncertainty = model.depth_and_uncertainty(
        torch.randn(1, 16, height, width - 5).sign())
    assert depth.shape == uncertainty.shape == (1, 1, height, width - 5)
    (depth.log().mean() + uncertainty.mean()).backward()


def test_a_neck_may_come_between():
    init_default_scope('mmseg')
    cfg = depth_config(
        backbone=dict(BACKBONES['mmseg ResNet'][0]),
        neck=dict(
            type='mmseg.FPN',
            in_channels=[8, 16, 32, 64],
            out_channels=16,
            num_outs=4))
    cfg.decode_head.update(in_channels=(16, ) * 4, reassemble=None)
    model = MODELS.build(cfg)
    depth, _ = model.depth_and_uncertainty(torch.randn(1, 16, 64, 64))
    assert depth.shape == (1, 1, 64, 64)
