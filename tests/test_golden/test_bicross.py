# Copyright (c) mmext contributors. All rights reserved.
"""BiCross against numbers recorded from the authors' code and from public
simulators of spike cameras.

The folder is ``$MMEXT_GOLDEN/bicross``; sizes and options are read from its
files, so that another recording of the same format works too. Every file has
its test here; the last test fails if one has none.
"""
import numpy as np
import pytest

from mmext.spike import (PRESETS, SpikeCamera, interval, interval_all,
                         open_spikes, playback, playback_all, read_pfm,
                         repair_big_endian, to_signed, to_uint8, unpack_frames,
                         write_pfm, write_spikes)
from .bicross_data import test_h28_loading  # noqa: F401
from .bicross_data import test_h33_evaluation
from .bicross_files import ROOT, cube, load
from .bicross_losses import (test_h1_sig, test_h3_uncertainty,
                             test_h4_contrastive, test_h5_ssi,
                             test_h19_thresholds, test_h23_reversal)
from .bicross_networks import (test_h6_decoder, test_h7_reassemble,
                               test_h8_full_width, test_h9_inversion,
                               test_temporal_modules)
from .bicross_stages import (test_h13_embeddings_and_teacher_gradients,
                             test_h13_stage2_masks, test_h13_stage2_step,
                             test_h17_warmup, test_h18_counts_of_every_step,
                             test_h18_self_training, test_h23_alignment_step)

pytestmark = pytest.mark.skipif(
    not any(ROOT.glob('*.npz')),
    reason=f'no golden numbers in {ROOT}; set MMEXT_GOLDEN to the folder '
    'that holds bicross/')

# File -> its test; add a file here together with its test.
CONSUMED = {
    'spike_simulation': 'test_h31_simulators and the tests that follow it',
    'preproc_respike': 'test_h30_respike and test_h30_pfm',
    'preproc_crop_resize': 'test_h28_loading',
    'metrics_eval': 'test_h33_evaluation',
    'dpt_decoder': 'test_h6_decoder and test_h9_inversion',
    'dpt_reassemble': 'test_h7_reassemble',
    'dpt_hybrid_formula': 'test_h8_full_width',
    'neuromorphic_heads': 'test_temporal_modules',
    'loss_sig': 'test_h1_sig',
    'loss_uncertainty': 'test_h3_uncertainty',
    'loss_contrastive': 'test_h4_contrastive',
    'loss_ssi': 'test_h5_ssi',
    'stage3_threshold_cases': 'test_h19_thresholds',
    'stage2_cfkd_step': 'test_h13_stage2_step and the two beside it',
    'stage3_warmup': 'test_h17_warmup',
    'stage3_ugmt_steps': 'test_h18_self_training and the one beside it',
    'stage3_glfa_step': 'test_h23_alignment_step and test_h23_reversal',
}
# Simulator arrays whose names carry the settings.
VIDEO, IMAGE = 'vts_spikes_th', 'img_to_spike_gain'


@pytest.fixture(scope='module')
def simulation():
    return load('spike_simulation')


@pytest.fixture(scope='module')
def respike():
    return load('preproc_respike')


def _after(data, start):
    return [(k, float(k[len(start):])) for k in data if k.startswith(start)]


def test_h31_simulators(simulation):
    """SpikeCV for videos, SPCS: every spike, and the counts."""
    shape = tuple(simulation['shape_thw'])
    frames = simulation['frames_u8']
    cases = _after(simulation, VIDEO)
    assert cases
    for key, threshold in cases:
        end = key[len('vts_spikes'):]
        camera = SpikeCamera.from_preset(
            'spikecv_video',
            threshold=threshold,
            start=simulation[f'vts_init{end}'])
        spikes = camera.expose_frames(frames)
        np.testing.assert_array_equal(spikes, cube(simulation[key], shape))
        np.testing.assert_array_equal(
            spikes.sum(0), simulation[f'vts_count{end}'])
    camera = SpikeCamera.from_preset(
        'spcs', threshold=float(simulation['spcs_theta']))
    assert camera.precision == 'fixed'
    np.testing.assert_array_equal(
        camera.expose_frames(frames), cube(simulation['spcs_spikes'], shape))


def test_h31_simulators_of_one_picture(simulation):
    """SpikeCV for pictures with its hard reset, short SpikingSIM."""
    shape = tuple(simulation['shape_thw'])
    still = simulation['frames_u8'][0]
    cases = _after(simulation, IMAGE)
    assert cases
    for key, gain in cases:
        camera = SpikeCamera.from_preset('spikecv_image', gain=gain)
        np.testing.assert_array_equal(
            camera.expose_frames([still], ticks_per_frame=shape[0]),
            cube(simulation[key], shape))
    camera = SpikeCamera.from_preset(
        'spikingsim', start=simulation['spikingsim_init'])
    np.testing.assert_array_equal(
        camera.expose_frames([still], ticks_per_frame=shape[0]),
        cube(simulation['spikingsim_spikes'], shape))
    assert {'spikecv_video', 'spikecv_image', 'spcs',
            'spikingsim'} <= set(PRESETS)


def test_h31_closed_form(simulation):
    """N_n = floor((V_0 + sum I) / theta) for the recorded residual cubes."""
    shape = tuple(simulation['shape_thw'])
    light = np.cumsum(simulation['frames_u8'].astype(np.int64), 0)
    total = light // int(simulation['spcs_theta'])
    spikes = np.diff(total, axis=0, prepend=0)
    np.testing.assert_array_equal(spikes, cube(simulation['spcs_spikes'],
                                               shape))


def test_h29_dat_bytes(simulation, tmp_path):
    shape = tuple(simulation['shape_thw'])
    spikes = cube(simulation['spcs_spikes'], shape)
    for key, flip in (('spcs_dat_bytes', False), ('dat_flip_bytes', True)):
        path = tmp_path / f'{key}.dat'
        write_spikes(path, spikes, flipud=flip)
        assert path.read_bytes() == simulation[key].tobytes()
        found = open_spikes(path, shape[1:], ticks=shape[0], flipud=flip)
        np.testing.assert_array_equal(found.read(), spikes)


def test_h31_playback(simulation):
    spikes = cube(simulation['spcs_spikes'], tuple(simulation['shape_thw']))
    key, half = int(simulation['tfp_key']), int(simulation['tfp_half_win'])
    np.testing.assert_array_equal(
        to_uint8(playback(spikes, key, half), truncate=True),
        simulation['tfp_image'])
    np.testing.assert_array_equal(
        to_uint8(playback_all(spikes, half), truncate=True),
        simulation['tfp_all'])


def test_h31_interval(simulation):
    spikes = cube(simulation['spcs_spikes'], tuple(simulation['shape_thw']))
    # One key tick for both methods.
    key, half = int(simulation['tfp_key']), int(simulation['tfi_half_win'])
    np.testing.assert_array_equal(
        to_uint8(interval(spikes, key, half, compat=True), truncate=True),
        simulation['tfi_image'])
    np.testing.assert_array_equal(
        to_uint8(interval_all(spikes, half, compat=True), truncate=True),
        simulation['tfi_all'])


def test_h30_respike(respike, tmp_path):
    shape = tuple(respike['shape_thw'])
    scene = cube(respike['scene_bits'], shape)
    path = tmp_path / 'camera.dat'
    path.write_bytes(respike['dat_bytes'].tobytes())
    np.testing.assert_array_equal(open_spikes(path, shape[1:]).read(), scene)
    naive = cube(respike['naive_big_endian_bits'], shape)
    data = respike['dat_bytes'].reshape(shape[0], -1)
    np.testing.assert_array_equal(
        unpack_frames(data, shape[1:], 'big', flipud=False), naive)
    np.testing.assert_array_equal(repair_big_endian(naive), scene)
    np.save(tmp_path / 'naive.npy', naive)
    found = open_spikes(tmp_path / 'naive.npy', shape[1:], repair=True)
    official = respike['official_out']
    np.testing.assert_array_equal(
        to_signed(found.read(0, len(official)), np.int8), official)
    assert bool(respike['official_equals_scene'])


def test_h30_pfm(respike, tmp_path):
    path = tmp_path / 'depth.pfm'
    for key in ('pfm_bytes', 'pfm_bytes_big_endian'):
        path.write_bytes(respike[key].tobytes())
        np.testing.assert_array_equal(read_pfm(path), respike['pfm_depth'])
        write_pfm(path, respike['pfm_depth'], key == 'pfm_bytes')
        assert path.read_bytes() == respike[key].tobytes()


def test_every_file_has_its_test():
    """Every array file of the folder is read above."""
    missing = sorted({p.stem for p in ROOT.glob('*.npz')} - set(CONSUMED))
    assert not missing, f'no test for {", ".join(missing)}'
