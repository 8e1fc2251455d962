# Copyright (c) mmext contributors. All rights reserved.
"""Backbone, decoder, heads; properties H9 to H12 of the specification."""
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner.checkpoint import load_state_dict

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from mmext.models.depth import (DPTDepthHead, DPTHybrid, DPTReassemble,
                                DPTUncertaintyHead, affine_inverse)
from mmext.utils.user_error import ConfigError
from tests.tiny_depth import NO_LOSS, depth_model

OUTDOOR = dict(scale=6.016e-5, shift=0.00579)
INDOOR = dict(scale=3.05e-4, shift=0.1378)


@pytest.mark.stack_subset
@pytest.mark.parametrize('constants, at_zero, saturated', [
    (OUTDOOR, 172.7, -96.3),
    (INDOOR, 7.26, -451.9),
])
def test_h9_inversion_is_monotone_and_finite(constants, at_zero, saturated):
    raw = torch.linspace(saturated, 5000, 1001)
    depth = affine_inverse(raw, **constants)
    assert bool((depth[1:] < depth[:-1]).all())
    extreme = torch.tensor([-3e38, saturated, 0., 3e38], requires_grad=True)
    depth = affine_inverse(extreme, **constants)
    assert bool((depth >= 0).all()) and bool(depth.isfinite().all())
    torch.testing.assert_close(depth[:2], torch.full((2, ), 1e8))
    torch.testing.assert_close(
        depth[2], torch.tensor(at_zero), rtol=1e-3, atol=0)
    depth.sum().backward()
    assert extreme.grad[0] == extreme.grad[1] == 0


def test_h9_depth_is_float32_under_autocast():
    head = DPTDepthHead((4, 4, 4, 4),
                        8,
                        4,
                        reassemble=None,
                        loss_depth=NO_LOSS,
                        init_bias=-2000.)
    second = DPTUncertaintyHead(8, 4, NO_LOSS)
    levels = [torch.randn(1, 4, n, n) for n in (16, 8, 4, 2)]
    with torch.autocast('cpu', torch.bfloat16):
        paths = head.decode(levels)
        depth, uncertainty = head.depth(paths[0]), second(paths[0])
        raw = head.output(paths[0])
    assert paths[0].dtype == torch.bfloat16
    # bfloat16 has no numbers between 1992 and 2000
    assert raw.dtype == torch.float32 and raw.unique().numel() > 2
    assert depth.dtype == uncertainty.dtype == torch.float32
    # 1e8 m would be infinite in float16
    assert bool((depth == 1e8).all())


def test_public_weights_end_in_a_relu():
    """``non_negative=True``: no depth beyond that of a raw value of 0."""
    raw = torch.tensor([-300., 0., 500.])
    options = dict(in_channels=(8, 8, 8, 8), channels=8, hidden=4,
                   reassemble=None)
    signed = DPTDepthHead(**options).metres(raw)
    clamped = DPTDepthHead(**options, non_negative=True).metres(raw)
    assert signed[0] > clamped[0] == signed[1]
    assert torch.equal(clamped[1:], signed[1:])


def test_without_inversion_the_head_predicts_metres():
    raw = torch.randn(5)
    torch.testing.assert_close(
        affine_inverse(raw, 2., 3., invert=False), 2 * raw + 3)


@pytest.mark.stack_subset
@pytest.mark.parametrize('size', [(32, 32), (64, 96), (70, 100), (20, 33)])
def test_h10_output_has_the_size_of_the_input(size):
    model = depth_model()
    with torch.no_grad():
        depth, uncertainty = model.depth_and_uncertainty(
            torch.randn(1, 3, *size))
    assert depth.shape == uncertainty.shape == (1, 1, *size)


@torch.no_grad()
def test_h10_all_multiples_of_32():
    """Of the network without any padding, up to the size of its grid."""
    model = depth_model(size_divisor=1)
    for height in range(32, 161, 32):
        for width in range(32, 161, 32):
            depth, uncertainty = model.depth_and_uncertainty(
                torch.randn(1, 3, height, width))
            assert depth.shape == uncertainty.shape == (1, 1, height, width)


def test_h10_the_network_itself_says_what_it_takes():
    backbone = DPTHybrid('tiny', img_size=64)
    with pytest.raises(ConfigError, match=r'multiples of 32.*70 x 96'):
        backbone(torch.zeros(1, 3, 70, 96))
    with pytest.raises(ConfigError, match=r'\(B, 3, H, W\).*in_channels'):
        backbone(torch.zeros(1, 128, 64, 64))


def test_padding_repeats_the_border():
    """What was not seen is no third value among spikes."""
    model = depth_model()
    x = torch.randn(1, 3, 40, 64).sign()
    padded = model._pad(x)
    assert padded.shape == (1, 3, 64, 64)
    assert torch.equal(padded[:, :, 40:], x[:, :, 39:].expand(-1, -1, 24, -1))
    assert set(padded.unique().tolist()) == {-1., 1.}


def test_h11_two_models_share_no_features():
    """Alternately and at the same time, each gives what it gives alone."""
    models = [depth_model(seed=seed).eval() for seed in (0, 1)]
    inputs = [torch.randn(1, 3, 64, 64) for _ in models]

    @torch.no_grad()
    def run(index):
        seen = {}
        model = models[index]
        hooks = [
            getattr(model.decode_head, name).register_forward_hook(
                lambda _, __, out, name=name: seen.update({name: out}))
            for name in ('layer_4', 'path_4')
        ]
        depth, uncertainty = model.depth_and_uncertainty(inputs[index])
        for hook in hooks:
            hook.remove()
        return [depth, uncertainty, seen['layer_4'], seen['path_4']]

    alone = [run(index) for index in (0, 1)]
    assert not torch.equal(alone[0][2], alone[1][2])
    turns = [run(index) for index in (0, 1, 0, 1)]
    with ThreadPoolExecutor(2) as pool:
        turns += pool.map(run, (0, 1))
    for number, found in enumerate(turns):
        for a, b in zip(found, alone[number % 2]):
            assert torch.equal(a, b)


def test_taps_have_the_shapes_of_the_specification():
    """layer_4 is the reassembled map, path_4 the fusion of it."""
    model, seen = depth_model(), {}
    for name in ('layer_3', 'layer_4', 'path_1', 'path_4'):
        getattr(model.decode_head, name).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: out.shape[1:]}))
    model.depth_and_uncertainty(torch.randn(1, 3, 96, 160))
    assert seen == dict(
        layer_3=(64, 6, 10),
        layer_4=(64, 3, 5),
        path_1=(32, 48, 80),
        path_4=(32, 6, 10))


@pytest.mark.stack_subset
def test_h12_replacing_the_stem_changes_nothing_else():
    model = depth_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.backbone.replace_stem(128)
    stem = f'backbone.{DPTHybrid.stem_key}'
    after = model.state_dict()
    assert after[stem].shape == (16, 128, 7, 7)
    assert model.backbone.in_channels == 128
    assert model.backbone.stem.eps == 1e-6  # random, not published weights
    assert list(after) == list(before)
    for key in before:
        assert key == stem or torch.equal(before[key], after[key])
    model.depth_and_uncertainty(torch.randn(1, 128, 32, 32).sign())


def test_h12_rgb_checkpoint_in_a_spike_model():
    """Exactly one key does not fit, and the log says what that means."""
    rgb = depth_model().state_dict()
    model = depth_model(seed=1, in_channels=128)
    own = model.backbone.stem.weight.clone()
    logger, records = MMLogger.get_instance('h12'), []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger.addHandler(handler)
    load_state_dict(model, rgb, strict=False, logger=logger)
    text = '\n'.join(records)
    assert text.count('size mismatch') == 1
    assert 'missing keys' not in text and 'unexpected key' not in text
    assert 'in_channels=3' in text and 'stage 2' in text
    assert torch.equal(model.backbone.stem.weight, own)
    for key, value in model.state_dict().items():
        assert key.endswith(DPTHybrid.stem_key) or torch.equal(value, rgb[key])
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict(rgb)
    assert str(error.value).count('size mismatch') == 1


@pytest.mark.stack_subset
def test_every_trainable_parameter_trains():
    """So that DDP needs no search for unused ones; six never do."""
    model = depth_model(in_channels=16)
    assert not list(model.buffers())
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert len(frozen) == 6
    assert all('vit.norm' in n or 'fusion_4.unit1' in n for n in frozen)
    depth, uncertainty = model.depth_and_uncertainty(
        torch.randn(1, 16, 64, 64))
    (depth.log().mean() + uncertainty.mean()).backward()
    assert all(p.grad is not None for p in model.parameters()
               if p.requires_grad)


def test_init_weights_keeps_what_timm_initialised():
    model = depth_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.init_weights()
    assert all(
        torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_position_embedding_of_another_size():
    """A network for 96 x 160 takes other sizes, and its own unchanged."""
    backbone = DPTHybrid('tiny', img_size=(96, 160))
    assert backbone._pos_embed((6, 10)) is backbone.vit.pos_embed
    assert backbone._pos_embed((10, 6)).shape == (1, 61, 64)


def test_reassemble_of_a_plain_vit():
    module = DPTReassemble((8, ) * 4, (4, 5, 6, 7), (4, 2, 1, 0.5))
    token, grid = torch.randn(2, 8), torch.randn(2, 8, 4, 6)
    found = module([(grid, token)] * 4)
    assert [tuple(one.shape) for one in found] == [(2, 4, 16, 24),
                                                   (2, 5, 8, 12), (2, 6, 4, 6),
                                                   (2, 7, 2, 3)]
    with pytest.raises(ConfigError, match='output_cls_token=True'):
        module([grid] * 4)


@pytest.mark.parametrize('build, match', [
    (lambda: DPTHybrid('huge'), "one of .*'base', 'tiny'.*'huge'"),
    (lambda: DPTHybrid(dict(embed_dims=8)), 'three stages'),
    (lambda: DPTHybrid('tiny', out_indices=(3, 4)), 'ascending order'),
    (lambda: DPTHybrid('tiny', img_size=50), 'multiples of 32'),
    (lambda: DPTReassemble((8, ), (8, 8)), 'as many in_channels'),
    (lambda: DPTReassemble((8, ), (8, ), (3.5, )), 'whole number'),
    (lambda: DPTReassemble((8, ), (8, ), (1, ), 'sum'), "'project', 'add'"),
    (lambda: DPTDepthHead((8, 8), loss_depth=NO_LOSS), 'four levels'),
    (lambda: DPTDepthHead(scale=0, loss_depth=NO_LOSS), 'positive scale'),
])
def test_bad_settings(build, match):
    with pytest.raises(ConfigError, match=match):
        build()


def test_levels_that_do_not_fit_the_head():
    head = DPTDepthHead((4, 4, 4, 4), 8, 4, None, loss_depth=NO_LOSS)
    with pytest.raises(ConfigError, match=r'\[4, 4, 4, 4\].*\[5, 5, 5, 5\]'):
        head([torch.randn(1, 5, n, n) for n in (16, 8, 4, 2)])
    with pytest.raises(ConfigError, match='a class token'):
        head([(torch.randn(1, 4, 4, 4), torch.randn(1, 4))] * 4)
