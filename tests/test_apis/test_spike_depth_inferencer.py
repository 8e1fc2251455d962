# Copyright (c) mmext contributors. All rights reserved.
"""Recordings in, depth out."""
import warnings

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

pytest.importorskip('mmseg')

from mmext.apis.spike_depth_inferencer import SpikeDepthInferencer
from mmext.spike import Light, SpikeCamera, read_depth_png, write_spikes
from mmext.utils.result_names import result_names
from mmext.utils.user_error import (BadFileError, ConfigError,
                                    MissingFileError, UserError)
from ..depth_fixtures import make_frame
from ..tiny_depth import depth_config

SIZE, TICKS = (40, 64), 16


def config(channels=TICKS):
    model = depth_config(in_channels=channels)
    model.data_preprocessor = dict(
        type='mmext.SpikeDataPreprocessor', size=(32, 64))
    model.backbone.img_size = (32, 64)
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='mmext.LoadSpikeFromFile', length=TICKS),
        dict(type='mmext.KBCrop', size=(32, 64)),
        dict(type='mmext.LoadDepth'),
        dict(type='mmext.PackDepthInputs', keys='spike')
    ]
    return Config(
        dict(
            model=model,
            default_scope='mmseg',
            test_dataloader=dict(dataset=dict(pipeline=pipeline))))


def model_of(cfg):
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.cfg = cfg
    return model


@pytest.fixture(scope='module')
def inferencer():
    return SpikeDepthInferencer(model_of(config()), device='cpu', size=SIZE)


def test_recordings(inferencer, tmp_path):
    spikes = make_frame(0, SIZE, 3 * TICKS)[2]
    write_spikes(tmp_path / 'in' / 'a.dat', spikes)
    write_spikes(tmp_path / 'in' / 'b.npy', spikes[:TICKS])
    out = inferencer(
        str(tmp_path / 'in'),
        every=TICKS,
        batch_size=2,
        out_dir=str(tmp_path / 'out'))
    found = out['predictions']
    assert [one['name'] for one in found
            ] == ['a_000000', 'a_000016', 'a_000032', 'b_000000']
    assert [one['begin'] for one in found] == [0, 16, 32, 0]
    for one in found:
        assert one['depth'].shape == one['uncertainty'].shape == SIZE
        assert np.isfinite(one['depth']).all()
        assert (one['depth'][:8] == np.float32(1e-3)).all()  # not in the crop
    # what is kept of a long recording is a picture for each window
    assert all(one['picture'].shape == SIZE for one in inferencer._shown)
    # One more line of batching, an array, and a single window.
    single = inferencer(spikes)['predictions']
    assert len(single) == 1
    np.testing.assert_allclose(
        single[0]['depth'], found[0]['depth'], rtol=1e-4)
    np.testing.assert_allclose(found[3]['depth'], found[0]['depth'], rtol=1e-4)
    name = str(tmp_path / 'out' / 'a_000016')
    stored = read_depth_png(f'{name}_depth.png', 256.)
    expected = found[1]['depth'].clip(max=65535 / 256)
    assert np.abs(stored - expected).max() <= 0.5 / 256 + 1e-5
    assert cv2.imread(f'{name}_colour.png').shape == (*SIZE, 3)
    assert cv2.imread(
        f'{name}_panel.png').shape == out['visualization'][1].shape
    samples = inferencer([spikes], return_datasamples=True)['predictions']
    assert samples[0].pred_depth_map.data.shape == (1, *SIZE)


def test_recordings_of_one_name_keep_their_results(inferencer, tmp_path):
    for seed, name in enumerate(['a/x.dat', 'a/x.npz', 'c/x.dat']):
        write_spikes(tmp_path / name, make_frame(seed, SIZE, TICKS)[2])
    out = tmp_path / 'out'
    found = inferencer(
        [str(tmp_path / 'a'), str(tmp_path / 'c')],
        out_dir=str(out))['predictions']
    names = ['a_x_dat_000000', 'a_x_npz_000000', 'c_x_dat_000000']
    assert [one['name'] for one in found] == names
    for one in found:
        stored = read_depth_png(str(out / f'{one["name"]}_depth.png'), 256.)
        expected = one['depth'].clip(max=65535 / 256)
        assert np.abs(stored - expected).max() <= 0.5 / 256 + 1e-5


def test_names_of_recordings():
    array = np.zeros((1, 2, 4), np.uint8)
    for inputs, names in (
        (['a/left.dat', 'a/right.dat'], ['left', 'right']),
        (['a/1/left.dat', 'a/2/left.dat', 'b.npy'], ['1_left', '2_left', 'b']),
        (['left.dat', 'a/left.dat'], ['left', 'a_left']),
        (['x.dat', 'x.npz', './x.dat'], ['x_dat', 'x_npz', 'x_dat']),
        ([array, 'array0.dat', array], ['array0', 'array0_dat', 'array2']),
    ):
        assert result_names(inputs) == names
    with pytest.raises(ConfigError, match='both be called a_x. Rename'):
        result_names(['a/x.dat', 'b/x.dat', 'a_x.dat'])


def test_a_stage_3_recipe_without_a_loader(inferencer, tmp_path):
    # Its pipeline draws streets: the network tells how many ticks it takes.
    stage3 = config()
    stage3.test_dataloader = None
    stage3.model = dict(
        type='mmext.CrossDomainAdapter', model=stage3.model, warmup_iters=0)
    weights = inferencer.model.state_dict()
    torch.save(dict(state_dict=weights), tmp_path / 'weights.pth')
    wrapped = SpikeDepthInferencer(
        stage3, str(tmp_path / 'weights.pth'), device='cpu')
    assert wrapped.length == TICKS
    spikes = make_frame(0, (32, 64), TICKS)[2]
    found = wrapped(spikes)['predictions'][0]['depth']
    expected = inferencer(spikes)['predictions'][0]['depth']
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize('temporal,channels', [
    (dict(type='mmext.SpikeSE', channels=TICKS), TICKS),
    (dict(
        type='mmext.SpikeUNet',
        in_channels=TICKS,
        widths=(4, 4),
        up_widths=(4, )), 3),
])
def test_a_temporal_module_tells_how_many_ticks_it_takes(temporal, channels):
    cfg = config(channels)
    cfg.model.temporal = temporal
    cfg.test_dataloader = None
    inferencer = SpikeDepthInferencer(model_of(cfg), device='cpu')
    assert inferencer.length == TICKS
    spikes = make_frame(0, (32, 64), TICKS)[2]
    assert np.isfinite(inferencer(spikes)['predictions'][0]['depth']).all()


def test_options_of_the_config_and_of_the_loader(tmp_path):
    """Size of the pipeline, rows of the data set, silence by argument."""
    cfg = config()
    dataset = cfg.test_dataloader.dataset
    dataset.spike_options = dict(flipud=False, size=(1, 8))
    dataset.pipeline[1].size = SIZE
    lenient = SpikeDepthInferencer(
        model_of(cfg), device='cpu', allow_silent=True)
    spikes = make_frame(0, SIZE, TICKS)[2]
    write_spikes(tmp_path / 'up.dat', spikes, flipud=False)
    write_spikes(tmp_path / 'dark.dat', np.zeros_like(spikes))
    with pytest.warns(UserWarning, match='no spike') as caught:
        found = lenient(
            [str(tmp_path / 'up.dat'), spikes,
             str(tmp_path / 'dark.dat')])['predictions']
    assert len([one for one in caught if 'no spike' in str(one.message)]) == 1
    np.testing.assert_allclose(found[0]['depth'], found[1]['depth'], rtol=1e-4)
    assert np.isfinite(found[2]['depth']).all()
    # Arguments replace those of the config.
    strict = SpikeDepthInferencer(
        lenient.model, device='cpu', check=False, size=SIZE[::-1])
    with pytest.raises(BadFileError, match='40 x 64'):
        write_spikes(tmp_path / 'a.npy', spikes)
        strict(str(tmp_path / 'a.npy'))


def test_a_wrong_bit_order_is_noticed(inferencer, tmp_path):
    """Section 7: once for a recording, however many windows it has."""
    light = np.cumsum(
        np.cumsum(np.random.default_rng(1).normal(size=SIZE), 0), 1)
    light = (light - light.min()) / (light.max() - light.min())
    spikes = SpikeCamera(gain=0.9).expose([Light(light, 2 * TICKS)])
    for order in ('little', 'big'):
        path = tmp_path / f'{order}.dat'
        write_spikes(path, spikes, bitorder=order)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            inferencer(str(path), every=TICKS)
        told = [str(one.message) for one in caught]
        told = [one for one in told if one.startswith(str(path))]
        assert ['bit order' in one for one in told] == [True] * (
            order == 'big')


def test_mistakes(inferencer, tmp_path):
    with pytest.raises(BadFileError, match='at least 16 ticks'):
        inferencer(make_frame(0, SIZE, 8)[2])
    with pytest.raises(ConfigError, match='0 and 1'):
        inferencer(np.full((TICKS, *SIZE), 7))
    with pytest.raises(ConfigError, match='Time is the first axis'):
        inferencer(np.zeros((TICKS, *SIZE, 1), np.uint8))
    for value in (255, 0.5, -1):  # black at first, bright later
        rates = np.zeros((TICKS, *SIZE), np.float32)
        rates[1] = 1
        rates[-1] = value
        for array in (rates, rates.astype(np.int16)):
            if array.max() > 1 or array.min() < 0 or array.dtype.kind == 'f':
                with pytest.raises(ConfigError, match='0 and 1 in array0'):
                    inferencer(array)
    with pytest.raises(MissingFileError, match='no'):
        inferencer(str(tmp_path))
    write_spikes(tmp_path / 'dark.npy', np.zeros((TICKS, *SIZE), np.uint8))
    with pytest.raises(BadFileError, match='all'):
        inferencer(str(tmp_path / 'dark.npy'))
    late = make_frame(0, SIZE, 2 * TICKS)[2]
    late[TICKS:] = 0
    with pytest.raises(BadFileError, match='ticks 16 to 31 of array1 are 0'):
        inferencer([late[:TICKS], late], begin=0, every=TICKS)
    model = inferencer.model
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'weights.pth')
    again = SpikeDepthInferencer(model, str(tmp_path / 'weights.pth'), 'cpu')
    assert again.model is model
    plain = config(3)
    plain.test_dataloader = None
    with pytest.raises(ConfigError, match='in_channels=3'):
        SpikeDepthInferencer(model_of(plain), device='cpu')
    with pytest.raises(ConfigError):
        SpikeDepthInferencer(config(8), str(tmp_path / 'weights.pth'), 'cpu')
    with pytest.raises(ConfigError, match='cfg is its config'):
        SpikeDepthInferencer(torch.nn.Identity())


def test_random_or_spoilt_weights_are_refused(inferencer, tmp_path):
    with pytest.raises(ConfigError, match='random depth'):
        SpikeDepthInferencer(config(), device='cpu')
    spoilt = {
        key: value * float('nan') if value.is_floating_point() else value
        for key, value in inferencer.model.state_dict().items()
    }
    torch.save(dict(state_dict=spoilt), tmp_path / 'nan.pth')
    with pytest.raises(ConfigError, match='nan.pth is spoilt'):
        SpikeDepthInferencer(config(), str(tmp_path / 'nan.pth'), 'cpu')
    with pytest.raises(ConfigError, match="Did you mean 'size'"):
        SpikeDepthInferencer(inferencer.model, device='cpu', siez=SIZE)
    cfg = config()
    cfg.test_dataloader.dataset.spike_options = dict(filpud=False)
    model = model_of(cfg)
    with pytest.raises(ConfigError, match="Did you mean 'flipud'"):
        SpikeDepthInferencer(model, device='cpu')


def test_options_are_checked_before_the_first_window(inferencer, tmp_path,
                                                     monkeypatch):
    monkeypatch.setattr(inferencer, 'forward', lambda *_, **__: 1 / 0)
    spikes = make_frame(0, SIZE, TICKS)[2]
    (tmp_path / 'file').write_text('')
    for options, message in (
        (dict(begin=-5), 'begin.*-5'),
        (dict(begin='0'), 'begin'),
        (dict(every=0), 'every'),
        (dict(every=1.5), 'every'),
        (dict(batch_size=0), 'batch_size'),
        (dict(batch_size=-1), 'batch_size'),
        (dict(batch_size='2'), 'batch_size'),
        (dict(depth_scale=0), 'depth_scale'),
        (dict(depth_scale=float('nan')), 'depth_scale'),
        (dict(max_depth=0), 'max_depth'),
        (dict(out_dir=str(tmp_path / 'file')), 'out_dir'),
        (dict(out_dir=str(tmp_path / 'file/in')), 'out_dir'),
    ):
        with pytest.raises(UserError, match=message):
            inferencer(spikes, **options)
