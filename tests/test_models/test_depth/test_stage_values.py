# Copyright (c) mmext contributors. All rights reserved.
"""Values with which a stage would train the wrong way, or stop midway."""
import math

import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from mmengine.registry import MODELS, init_default_scope

from mmext.models.depth import DPTDepthHead
from mmext.models.depth.depth_task import DepthTask
from mmext.utils.user_error import ConfigError
from tests.tiny_depth import NO_LOSS, depth_config
from .stage_models import TICKS, adapter, build, distiller, domains, pairs


@pytest.mark.parametrize('options, message', [
    (dict(ckd=dict(weight=-1)), 'ckd.weight is a number of at least 0'),
    (dict(ckd=dict(weight='a')), 'ckd.weight'),
    (dict(ckd=dict(hidden='a')), 'ckd.hidden is a whole number'),
    (dict(ckd=dict(out_channels=0)), 'ckd.out_channels'),
    (dict(ckd=dict(temperature='a')), 'ckd.temperature'),
    (dict(ckd=dict(temperature=0)), 'positive temperature'),
    (dict(ckd=64), 'ckd to be a dict'),
    (dict(fkd=dict(weight=-0.01)), 'fkd.weight is a number of at least 0'),
    (dict(fkd=dict(weight='abc')), "fkd.weight.*'abc'"),
    (dict(fkd=dict(weight=math.nan)), 'fkd.weight'),
    (dict(fkd=dict(pixel_filter=True)), 'fkd.pixel_filter.*True'),
    (dict(fkd=dict(pixel_filter=dict(rgb_q='a'))), 'fkd.pixel_filter'),
    (dict(fkd=dict(connector=64)), 'fkd.connector.*64'),
    (dict(fkd=dict(connector=dict(in_channels=8))), 'fkd.connector'),
    (dict(fkd=dict(connector=dict(in_channels=8, out_channels='a'))),
     'fkd.connector.out_channels'),
])
def test_impossible_values_of_stage_2(options, message):
    with pytest.raises(ConfigError, match=message):
        build('CrossModalityDistiller', **options)


@pytest.mark.parametrize('options, message', [
    (dict(scp=dict(weight=-1)), 'scp.weight is a number of at least 0'),
    (dict(scp=dict(weight='a')), 'scp.weight'),
    (dict(scp=dict(threshold=-1)), 'threshold.*-1'),
    (dict(scp=dict(threshold=math.nan)), 'threshold.*nan'),
    (dict(scp=dict(threshold=True)), 'threshold.*True'),
    (dict(scp=dict(threshold=[0.5])), 'threshold'),
    (dict(scp=dict(threshold=dict(type='quantile', q='a'))), "'a'"),
    (dict(sca=dict(weight=-1)), 'sca.weight'),
    (dict(sca=dict(beta=-1)), 'sca.beta is a number of at least 0'),
    (dict(sca=dict(hidden='a')), 'sca.hidden is a whole number'),
    (dict(sca=dict(in_channels='a')), 'sca.in_channels.*or None'),
    (dict(warmup_iters=-1), 'warmup_iters is a whole number of at least 0'),
    (dict(warmup_iters=1.5), 'warmup_iters'),
    (dict(warmup_weight=-1), 'warmup_weight is a number of at least 0'),
    (dict(strong_aug=dict(type='mmext.SpikeStrongView', chunks=4)),
     "no option 'chunks'. Did you mean 'chunk'"),
    (dict(strong_aug=dict(type='mmext.SpikeStrongView', silence='a')),
     'silence'),
    (dict(strong_aug=dict(type='mmext.SpikeStrongView', chunk='a')),
     'chunk of 0 or more'),
    (dict(strong_aug=dict(type='mmext.SpikeStrongView', erase_area=0.1)),
     'erase_area'),
])
def test_impossible_values_of_stage_3(options, message):
    with pytest.raises(ConfigError, match=message):
        build('CrossDomainAdapter', **options)


@pytest.mark.parametrize('options, message', [
    (dict(train_cfg=dict(max_depth='eighty')), "of train_cfg.*'eighty'"),
    (dict(train_cfg=dict(max_depth=None)), 'of train_cfg'),
    (dict(train_cfg=dict(min_depth=0)), 'of train_cfg'),
    (dict(test_cfg=dict(max_depth='a')), 'of test_cfg'),
    (dict(test_cfg=dict(max_depth=math.nan)), 'of test_cfg'),
    (dict(size_divisor=0), 'size_divisor'),
])
def test_impossible_values_of_an_estimator(options, message):
    init_default_scope('mmseg')
    with pytest.raises(ConfigError, match=message):
        MODELS.build(depth_config(**options))


@pytest.mark.parametrize('loss, options', [
    ('SigLoss', dict(loss_weight=-1)),
    ('SigLoss', dict(eps=-0.1)),
    ('SSILoss', dict(alpha=-1)),
    ('SSILoss', dict(scales=0)),
    ('UncertaintyLoss', dict(loss_weight='a')),
    ('ContrastiveLoss', dict(loss_weight=-1)),
    ('MaskedFeatureLoss', dict(loss_weight=-1)),
    ('DomainAdversarialLoss', dict(in_channels=4, beta=-1)),
    ('DomainAdversarialLoss', dict(in_channels=4, loss_weight=-1)),
])
def test_negative_weights_of_losses(loss, options):
    with pytest.raises(ConfigError, match=f'{list(options)[-1]} is a '):
        MODELS.build(dict(type=f'mmext.{loss}', **options))


def test_shift_of_the_head():
    """Inverse metres: below 0, a new head begins behind everything."""
    for value in (-1, 'a', math.nan):
        with pytest.raises(ConfigError, match='shift is a number'):
            DPTDepthHead(shift=value, loss_depth=NO_LOSS)
    assert DPTDepthHead(
        shift=-1., invert=False, loss_depth=NO_LOSS).shift == -1


def test_what_stays_possible():
    """Nothing of a loss, all weights whole, no warm-up, no limit."""
    model = adapter(
        scp=dict(weight=0, threshold=0), sca=dict(weight=1, beta=0))
    losses = model(**domains(), mode='loss')
    assert losses['loss_scp'] == 0 and losses['scp_skipped'] in (0, 1)
    model = distiller(
        ckd=dict(weight=0.),
        fkd=dict(weight=1, connector=dict(in_channels=32, out_channels=32)))
    assert 'loss_ckd' not in model(**pairs(), mode='loss')
    init_default_scope('mmseg')
    model = MODELS.build(
        depth_config(
            train_cfg=dict(max_depth=math.inf), test_cfg=dict(max_depth=None)))
    assert model.train_cfg.max_depth == math.inf


def test_limits_of_the_task_of_adaptation():
    for options in (dict(max_depth='a'), dict(max_depth=math.inf),
                    dict(min_depth=None)):
        with pytest.raises(ConfigError, match='DepthTask'):
            DepthTask(**options)


SE = dict(type='mmext.SpikeSE')
UNET = dict(type='mmext.SpikeUNet', widths=(4, 4), up_widths=(4, ))


@pytest.mark.parametrize('temporal, message', [
    (SE, 'gives 128 channels.*temporal.channels=16'),
    (UNET, 'gives 3 channels.*temporal.out_channels=16'),
])
def test_a_temporal_module_that_the_backbone_does_not_fit(temporal, message):
    with pytest.raises(ConfigError, match=message):
        build('CrossModalityDistiller', model_options=dict(temporal=temporal))


@pytest.mark.parametrize('temporal, channels, name', [
    (SE, 128, 'channels'),
    (UNET, 3, 'in_channels'),
])
def test_a_temporal_module_on_other_ticks(temporal, channels, name):
    """Found by running: mat1 and mat2 shapes cannot be multiplied."""
    init_default_scope('mmseg')
    student = depth_config(
        losses=True, in_channels=channels, temporal=temporal)
    model = MODELS.build(
        dict(
            type='mmext.CrossModalityDistiller',
            student=student,
            ckd=dict(weight=0),
            fkd=dict(weight=0)))
    with pytest.raises(
            ConfigError,
            match=f'takes 128 moments, but the inputs have {TICKS}. Set '
            f'temporal.{name}={TICKS}'), torch.no_grad():
        model(**pairs(), mode='loss')
