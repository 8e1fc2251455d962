# Copyright (c) mmext contributors. All rights reserved.
"""stereo_spikes on a pair of a few pixels, in process."""
import json
import sys

import cv2
import numpy as np
import pytest
import torch

from mmext.spike import StereoSlide, write_pfm, write_picture
from mmext.utils.user_error import BadFileError, ConfigError, MissingFileError
from ..tool_fixtures import tool as load_tool

SIZE = (32, 64)
CAMERA = ['--focal', '50', '--baseline', '100', '--offset', '2']
QUICK = [
    '--places', '0.5', '--half-windows', '4', '16', '--presets', 'ideal',
    'spikecv_video'
]


def tool(folder, *options):
    load_tool('analysis_tools/stereo_spikes').main(
        [str(folder / 'left.png'), '--out',
         str(folder / 'out'), *options])
    return json.loads((folder / 'out' / 'stereo.json').read_text())


@pytest.fixture
def pair(tmp_path):
    """A near lower half and a far upper one, of the same blots."""
    rng = np.random.default_rng(0)
    blots = cv2.resize(
        rng.uniform(30, 220, (SIZE[0] // 8, SIZE[1] // 4)), SIZE[::-1])
    left = np.tile(blots[:SIZE[0] // 2], (2, 1)).astype(np.uint8)
    disparity = np.full(SIZE, 2, np.float32)
    disparity[SIZE[0] // 2:] = 10
    disparity[:4, :4] = np.inf
    right = StereoSlide(left, disparity).view(1.).picture
    write_picture(tmp_path / 'left.png', left)
    write_picture(tmp_path / 'right.png', right)
    np.savez(tmp_path / 'disparity.npz', disparity)
    write_pfm(tmp_path / 'disparity.pfm', disparity)
    return tmp_path


def test_blur_grows_with_nearness(pair, capsys):
    found = tool(pair, '--disparity', str(pair / 'disparity.npz'), '--right',
                 str(pair / 'right.png'), *CAMERA, *QUICK, '--speeds', '0',
                 '80')
    rows = {
        (r['speed'], r['camera'], r['method'], r['half_window']): r
        for r in found['rows']
    }
    assert len(rows) == 2 * 2 * 2 * 2
    # 80 m/s are 4 mm a tick, a 25th of the baseline and of 10 pixels.
    fast = rows[80, 'ideal', 'playback', 16]
    assert fast['pixels_per_tick'] == pytest.approx(0.4)
    still = rows[0, 'ideal', 'playback', 16]
    assert still['pixels_per_tick'] == 0
    # Without motion only counting errs, at both depths alike.
    assert still['near']['mae'] < 1 / 33 and still['far']['mae'] < 1 / 33
    assert abs(still['near']['psnr'] - still['far']['psnr']) < 1.5
    assert fast['near']['psnr'] < fast['far']['psnr'] - 3
    short = rows[80, 'ideal', 'playback', 4]
    assert fast['near']['psnr'] < short['near']['psnr']
    assert found['near_from'] == 10
    assert found['right_view']['psnr'] == 100
    assert found['settings']['left'] == 'left.png'
    assert 'depth' not in capsys.readouterr().out
    picture = cv2.imread(str(pair / 'out' / 'stereo.jpg'))
    assert picture.shape == (3 * (18 + SIZE[0]), 3 * SIZE[1], 3)
    assert picture.std() > 20


def test_other_files_and_one_speed(pair):
    rows = tool(pair, '--disparity', str(pair / 'disparity.pfm'), *CAMERA,
                '--places', '0', '1', '--speeds', '5', '--half-windows', '2',
                '--presets', 'scsim')['rows']
    assert [r['method'] for r in rows] == ['playback', 'interval']
    assert all(np.isfinite(r['all']['psnr']) for r in rows)


def test_depth_of_a_model(pair, capsys):
    pytest.importorskip('mmseg')
    from mmext.models.depth import BiCrossDepthEstimator  # noqa: F401
    from ..tiny_depth import depth_config, depth_model
    torch.manual_seed(0)
    model = depth_model(in_channels=16)
    torch.save(dict(state_dict=model.state_dict()), pair / 'model.pth')
    config = depth_config(in_channels=16)
    config.data_preprocessor = dict(
        type='mmext.SpikeDataPreprocessor', size=SIZE)
    # as the recipe of stage 3 has it, in a wrapper and without a loader
    (pair / 'config.py').write_text(
        "default_scope = 'mmseg'\n"
        "model = dict(type='mmext.CrossDomainAdapter', warmup_iters=0, "
        f"losses=('sup', ), model={config.to_dict()!r})\n")
    found = tool(pair, '--disparity', str(pair / 'disparity.npz'),
                 *CAMERA, *QUICK, '--speeds', '5', '--config',
                 str(pair / 'config.py'), '--checkpoint',
                 str(pair / 'model.pth'))
    assert [r['camera'] for r in found['depth']] == ['ideal', 'spikecv_video']
    for row in found['depth']:
        assert 0 < row['all']['abs_rel'] < 10
    # Depth is 100 / 24 m near and 100 / 8 m far; half of the pixels is each.
    constant = found['constant_depth']
    assert min(constant['near']['abs_rel'], constant['far']['abs_rel']) == 0
    assert 'one depth for all pixels' in capsys.readouterr().out
    picture = cv2.imread(str(pair / 'out' / 'stereo.jpg'))
    assert picture.shape[0] == 4 * (18 + SIZE[0])


def test_mistakes_are_explained(pair):
    good = ['--disparity', str(pair / 'disparity.npz'), *CAMERA]
    np.save(pair / 'small.npy', np.ones((30, 64), np.float32))
    np.save(pair / 'empty.npy', np.full(SIZE, np.inf, np.float32))
    np.save(pair / 'negative.npy', np.full(SIZE, -9., np.float32))
    (pair / 'torn.npz').write_bytes(b'PK')

    def of(name):
        return ['--disparity', str(pair / name), *CAMERA]

    for options, kind, message in (
        (of('none.npz'), MissingFileError, 'none at .*none.npz'),
        (of('torn.npz'), BadFileError, 'Write the file again'),
        (of('small.npy'), ConfigError, r'\(32, 64\).*\(30, 64\)'),
        (of('empty.npy'), ConfigError, 'finite'),
        (of('negative.npy'), ConfigError, 'Check --offset'),
        ([*good, '--right', str(pair / 'r.png')], MissingFileError, 'none at'),
        ([*good, '--baseline', '0'], ConfigError, 'baseline'),
        ([*good, '--half-windows', '0'], ConfigError, 'half windows'),
        ([*good, '--config', 'a.py'], ConfigError, '--checkpoint'),
        ([*good, '--places', '99', '--speeds', '0'], ConfigError, '0 to 1'),
    ):
        with pytest.raises(kind, match=message):
            tool(pair, *options)
    assert not (pair / 'out').exists()
    assert 'skimage' not in sys.modules
