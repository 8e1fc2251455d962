# Copyright (c) mmext contributors. All rights reserved.
"""What SpikeDepthInferencer takes, and what it says of the rest."""
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

from mmext.apis.spike_depth_inferencer import SpikeDepthInferencer
from mmext.spike import read_depth_png
from mmext.spike.depth_files import tell_clipped
from mmext.utils.config_io import find_config, load_config, package_root
from mmext.utils.user_error import ConfigError, UserError
from ..depth_fixtures import make_frame
from ..tiny_segmentors import tiny_config
from .test_spike_depth_inferencer import SIZE, TICKS, config, model_of


@pytest.fixture(scope='module')
def inferencer():
    return SpikeDepthInferencer(model_of(config()), device='cpu')


def test_tensors_are_taken(inferencer):
    spikes = make_frame(0, SIZE, TICKS)[2]
    expected = inferencer(spikes)['predictions'][0]['depth']
    tensor = torch.from_numpy(spikes)
    for kind in (torch.uint8, torch.bool, torch.bfloat16):
        found = inferencer(tensor.to(kind))['predictions'][0]
        np.testing.assert_array_equal(found['depth'], expected)
        assert found['name'] == 'array0_000000'


def test_other_inputs_are_refused(inferencer, monkeypatch):
    monkeypatch.setattr(inferencer, 'forward', lambda *_, **__: 1 / 0)
    spikes = make_frame(0, SIZE, TICKS)[2]
    for inputs, kind in (((one for one in [spikes]), 'generator'),
                         (None, 'NoneType'), ([spikes, 3], 'int')):
        with pytest.raises(ConfigError, match=f'array or tensor.*got {kind}'):
            inferencer(inputs)
    for one in (spikes[None], torch.from_numpy(spikes[None])):
        with pytest.raises(ConfigError, match=r'\(T, H, W\).*\(1, 16, 40, 64'):
            inferencer(one)


@pytest.mark.parametrize('name,hint', [
    ('show', 'Nothing is shown .* out_dir'),
    ('outdir', "mean 'out_dir'"),
    ('batchsize', "mean 'batch_size'"),
])
def test_unknown_options(inferencer, name, hint, monkeypatch):
    monkeypatch.setattr(inferencer, 'forward', lambda *_, **__: 1 / 0)
    with pytest.raises(ConfigError, match=f"no option '{name}'. .*{hint}"):
        inferencer(make_frame(0, SIZE, TICKS)[2], **{name: True})


def test_models_that_take_no_spikes():
    cfg = config()
    cfg.model = tiny_config('segformer')
    with pytest.raises(ConfigError, match='model is a EncoderDecoder'):
        SpikeDepthInferencer(model_of(cfg), device='cpu')
    # whatever its pipeline says
    with pytest.raises(ConfigError, match='in_channels=3'):
        SpikeDepthInferencer(model_of(config(3)), device='cpu')


def test_depth_that_16_bits_do_not_hold_is_told(inferencer, tmp_path):
    spikes = make_frame(0, SIZE, TICKS)[2]
    windows = [spikes, spikes]
    depth = inferencer(spikes)['predictions'][0]['depth']
    scale = 2 * 65535 / float(depth.max())
    with pytest.warns(UserWarning, match='are farther than') as caught:
        inferencer(windows, out_dir=str(tmp_path), depth_scale=scale)
    text, = (
        str(one.message) for one in caught if 'farther' in str(one.message))
    far = 2 * (depth > depth.max() / 2).sum()
    assert text.startswith(f'{far} of {2 * depth.size} pixels')
    stored = read_depth_png(tmp_path / 'array0_000000_depth.png', scale)
    assert stored.max() == pytest.approx(65535 / scale)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        inferencer(spikes, depth_scale=scale)  # nothing is written
        inferencer(spikes, out_dir=str(tmp_path), depth_scale=scale / 2.1)


def test_scale_that_would_do():
    """12.8 m need a scale of at most 5119."""
    near, far = np.full((2, 3), 1.), np.full((2, 3), 12.8)
    far[0, 0] = np.inf  # no depth, as in the file
    with pytest.warns(UserWarning, match='5 of 12 .*12.8 m.* most 5119'):
        tell_clipped([near, far], 10000)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        tell_clipped([near, far], 5119)
        tell_clipped([], 256)


def test_configs_by_the_name_that_bases_have():
    name = 'bicross/bicross_streetworld.py'
    path = find_config(f'mmext::{name}')
    assert path == package_root() / 'configs' / name
    assert 'stages' in load_config(f'mmext::{name}')
    with pytest.raises(UserError, match=f'Did you mean configs/{name}'):
        find_config('mmext::bicross/bicros_streetworld.py')
