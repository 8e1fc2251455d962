# Copyright (c) mmext contributors. All rights reserved.
"""One data preprocessor in training, testing and inference."""
import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmext.apis.spike_depth_inferencer import SpikeDepthInferencer
from mmext.utils.config_build import model_config
from mmext.utils.user_error import ConfigError
from tests.tiny_depth import ROOT
from .stage_models import TICKS, build

SMALL = dict(type='mmext.SpikeDataPreprocessor', size=(32, 64))
INNER = dict(CrossModalityDistiller='student', CrossDomainAdapter='model')


@pytest.mark.parametrize('kind', INNER)
@pytest.mark.parametrize('given', [
    dict(SMALL, size=(96, 160)),
    dict(SMALL, normalize_rgb=False),
    dict(type='BaseDataPreprocessor'),
])
def test_two_data_preprocessors_that_differ(kind, given):
    """The runner took one of them, and the inferencer the other."""
    with pytest.raises(
            ConfigError,
            match=f'data_preprocessor and model.{INNER[kind]}.'
            'data_preprocessor to be the same'):
        build(
            kind,
            model_options=dict(data_preprocessor=SMALL),
            data_preprocessor=given)


@pytest.mark.parametrize('given, own', [
    (None, SMALL),
    (SMALL, None),
    (SMALL, SMALL),
    (dict(type='mmdepth.SpikeDataPreprocessor', size=[32, 64]), SMALL),
])
def test_one_data_preprocessor(given, own):
    model = build(
        'CrossDomainAdapter',
        model_options=dict(data_preprocessor=own),
        data_preprocessor=given)
    assert model.data_preprocessor.size == (32, 64)


def stage_3(**options):
    """The shipped config, smaller, as a user sets it."""
    cfg = Config.fromfile(ROOT / 'configs' / 'bicross' /
                          'bicross_streetworld.py')
    cfg.merge_from_dict(
        dict(
            options, **{
                'model.model.backbone.in_channels': TICKS,
                'model.losses': ['sup'],
                'load_from': None
            }))
    cfg.test_dataloader = None
    return cfg


def test_the_size_of_the_estimator_alone_is_refused():
    """Found by running: test.py took 96 x 160, and inference 32 x 64."""
    init_default_scope('mmseg')
    cfg = stage_3(**{'model.model.data_preprocessor.size': [32, 64]})
    with pytest.raises(ConfigError, match=r'\(96, 160\).*\[32, 64\]'):
        MODELS.build(model_config(cfg))
    cfg = stage_3(
        **{
            'model.model.data_preprocessor.size': [32, 64],
            'data_preprocessor.size': [32, 64]
        })
    assert MODELS.build(model_config(cfg)).data_preprocessor.size == (32, 64)


def test_the_inferencer_takes_what_the_runner_takes(tmp_path):
    cfg = stage_3(**{
        'data_preprocessor.size': [32, 64],
        'model.model.data_preprocessor': None
    })
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(model_config(cfg)).eval()
    path = str(tmp_path / 'it.pth')
    torch.save(dict(state_dict=model.state_dict()), path)
    inferencer = SpikeDepthInferencer(cfg, path, device='cpu', check=False)
    assert inferencer.model.data_preprocessor.size == (32, 64)
    torch.manual_seed(1)
    spikes = torch.rand(TICKS, 40, 80).gt(0.5).to(torch.uint8)
    found = inferencer(spikes.numpy())['predictions'][0]['depth']
    with torch.no_grad():
        inputs = model.data_preprocessor(dict(inputs=[spikes]))['inputs']
        depth = model.estimator.depth_and_uncertainty(inputs)[0]
    assert inputs.shape[2:] == (32, 64) and found.shape == (40, 80)
    assert np.median(found) == pytest.approx(float(depth.median()), rel=0.05)
