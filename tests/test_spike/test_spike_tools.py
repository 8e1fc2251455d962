# Copyright (c) mmext contributors. All rights reserved.
"""video_to_spikes, browse_spikes and spike_reconstruction, in process."""
import json

import numpy as np
import pytest

from mmext.spike import open_spikes, write_picture, write_spikes, write_video
from mmext.utils.user_error import ConfigError, UserError
from ..tool_fixtures import tool as load_tool


def pictures(count=5, size=(32, 48)):
    ramp = np.linspace(20, 200, size[1]).astype(np.uint8)
    return [
        np.roll(np.tile(ramp, (size[0], 1)), 2 * k, 1) for k in range(count)
    ]


@pytest.fixture
def video(tmp_path):
    path = tmp_path / 'clip.avi'
    write_video(path, pictures(), 25)
    return str(path)


def test_recording_of_a_video(tmp_path, video, capsys):
    tool = load_tool('dataset_converters/video_to_spikes')
    out = tmp_path / 'clip.dat'
    tool.main([
        '--video', video, '--ticks-per-frame', '8', '--frames', '4', '--out',
        str(out)
    ])
    assert '32 ticks of 32 x 48 pixels' in capsys.readouterr().out
    recording = open_spikes(out, (32, 48), ticks=32)
    assert 0.2 < recording.read().mean() < 0.7
    assert json.loads((tmp_path / 'clip.dat.json').read_text())['seed'] == 0
    browse = load_tool('visualization/browse_spikes')
    browse.main([
        str(out), '--size', '32', '48', '--out',
        str(tmp_path / 'look.png'), '--video',
        str(tmp_path / 'look.avi'), '--half-window', '4'
    ])
    told = capsys.readouterr().out
    assert '32 ticks of 32 x 48' in told and 'pictures' in told
    assert (tmp_path / 'look.png').stat().st_size > 100


@pytest.mark.parametrize('align', ['center', 'start'])
def test_windows_of_interpolated_pictures(tmp_path, align, capsys):
    tool = load_tool('dataset_converters/video_to_spikes')
    for k, picture in enumerate(pictures(9)):
        write_picture(tmp_path / f'rgb/f{k}.png', picture)
    # Every fourth picture is an original frame: 0, 4 and 8.
    out = tmp_path / 'spike'
    tool.main([
        '--folder',
        str(tmp_path / 'rgb'), '--interpolated', '4', '--ticks-per-frame',
        '16', '--window', '24', '--align', align, '--out',
        str(out)
    ])
    names = sorted(p.name for p in out.glob('*.npy'))
    assert names == ['f0.npy', 'f4.npy', 'f8.npy']
    assert open_spikes(out / 'f8.npy', (32, 48), ticks=24)
    # the same spikes, packed
    packed = tmp_path / 'packed'
    tool.main([
        '--folder',
        str(tmp_path / 'rgb'), '--interpolated', '4', '--ticks-per-frame',
        '16', '--window', '24', '--align', align, '--suffix', '.npz', '--out',
        str(packed)
    ])
    assert sorted(p.name for p in packed.iterdir()) == [
        'f0.npz', 'f4.npz', 'f8.npz', 'spikes.json'
    ]
    for path in packed.glob('*.npz'):
        plain = out / f'{path.stem}.npy'
        np.testing.assert_array_equal(
            open_spikes(path, (32, 48), ticks=24).read(),
            open_spikes(plain).read())
        assert path.stat().st_size < plain.stat().st_size / 6
    load_tool('visualization/browse_spikes').main(
        [str(out), '--out', str(tmp_path / 'look')])
    assert len(list((tmp_path / 'look').glob('*.png'))) == 3
    with pytest.raises(ConfigError, match='multiple of --interpolated'):
        tool.main([
            '--folder',
            str(tmp_path / 'rgb'), '--interpolated', '3', '--out',
            str(tmp_path / 'a.dat')
        ])


def test_streetworld_through_a_noisy_camera(tmp_path):
    tool = load_tool('dataset_converters/video_to_spikes')
    tool.main([
        '--streetworld', '3', '--size', '32', '64', '--frames', '2', '--fps',
        '1000', '--ticks-per-frame', '4', '--preset', 'scsim', '--out',
        str(tmp_path / 'a.npz')
    ])
    assert open_spikes(tmp_path / 'a.npz').shape == (8, 32, 64)


def test_frames_of_streetworld(tmp_path):
    """--gamma and --start mean what they mean for videos."""
    tool = load_tool('dataset_converters/video_to_spikes')
    common = [
        '--streetworld', '3', '--size', '16', '32', '--fps', '10', '--out', 'a'
    ]

    def frames(*options):
        return list(tool.frames_of(tool.parse_args([*common, *options])))

    plain = frames('--frames', '3')
    light = frames('--frames', '1', '--start', '2', '--gamma', '2.2')
    assert light[0].dtype == np.float32
    np.testing.assert_array_equal(light[0], np.float32((plain[2] / 255)**2.2))
    assert (plain[2] != plain[0]).any()


def test_reconstruction_of_a_video(tmp_path, video, capsys):
    tool = load_tool('analysis_tools/spike_reconstruction')
    tool.main([
        video, '--frames', '3', '--ticks-per-frame', '16', '--half-windows',
        '2', '8', '--presets', 'ideal', '--out',
        str(tmp_path / 'out')
    ])
    rows = json.loads(
        (tmp_path / 'out/reconstruction.json').read_text())['rows']
    assert len(rows) == 4
    playback = {
        r['half_window']: r['mae']
        for r in rows if r['method'] == 'playback'
    }
    # A longer window knows the rate better; at most one spike is wrong.
    assert playback[8] < playback[2] < 1 / 5
    assert (tmp_path / 'out/reconstruction.jpg').stat().st_size > 1000


def test_mistakes_are_explained(tmp_path, video):
    convert = load_tool('dataset_converters/video_to_spikes')
    browse = load_tool('visualization/browse_spikes')
    out = str(tmp_path / 'a.dat')
    for tool, arguments, message in (
        (convert, ['--video', 'no.mp4', '--out', out], 'none at no.mp4'),
        (convert, ['--video', video, '--out', out, '--gain',
                   '9'], 'Lower.*--clip'),
        (convert, ['--video', video, '--out', out, '--window', '0'], 'window'),
        (browse, [str(tmp_path / 'b.dat')], 'none at'),
        (browse, [str(tmp_path)], 'recordings'),
    ):
        with pytest.raises(UserError, match=message):
            tool.main(arguments)
    assert not (tmp_path / 'a.dat').exists()


@pytest.mark.parametrize('options', [
    '--interpolated 0', '--interpolated -1', '--start -1', '--frames 0',
    '--frames -3', '--size 0 0', '--size -3 5', '--window -1',
    '--ticks-per-frame 0', '--seed -1', '--gamma 0', '--gamma nan',
    '--streetworld -1', '--streetworld 1 --fps 0', '--streetworld 1 --fps nan',
    '--streetworld 1 --size 0 64', '--streetworld 1 --size 15 64'
])  # yapf: disable
def test_options_with_nothing_to_simulate(options, tmp_path):
    tool = load_tool('dataset_converters/video_to_spikes')
    source = [] if 'streetworld' in options else ['--folder', str(tmp_path)]
    name = options.split()[-3 if 'size' in options else -2]
    with pytest.raises(ConfigError, match=f'Expected {name} '):
        tool.parse_args([*source, *options.split(), '--out', 'a.dat'])


def test_windows_go_to_a_folder(tmp_path):
    tool = load_tool('dataset_converters/video_to_spikes')
    (tmp_path / 'file').write_text('')
    for out in ('clip.dat', 'a.NPY', str(tmp_path / 'file')):
        with pytest.raises(ConfigError, match='Expected --out to be a folder'):
            tool.parse_args(
                ['--video', 'a.mp4', '--window', '8', '--out', out])
    with pytest.raises(ConfigError, match='--suffix .npz only with --window'):
        tool.parse_args(
            ['--video', 'a.mp4', '--suffix', '.npz', '--out', 'a.npz'])


def test_windows_of_pictures_with_one_name(tmp_path):
    """The second would replace the first: nothing is written."""
    tool = load_tool('dataset_converters/video_to_spikes')
    for k, name in enumerate(['0.png', '0.jpg', '1.png']):
        write_picture(tmp_path / 'rgb' / name, pictures(3, (8, 16))[k])
    command = [
        '--folder',
        str(tmp_path / 'rgb'), '--window', '8', '--out',
        str(tmp_path / 'spike')
    ]
    with pytest.raises(ConfigError, match=r'0\.(jpg|png) and 0\..*--pattern'):
        tool.main(command)
    assert not (tmp_path / 'spike').exists()
    tool.main([*command, '--pattern', '*.png'])
    names = {path.name for path in (tmp_path / 'spike').glob('*.npy')}
    assert names == {'0.npy', '1.npy'}


@pytest.mark.parametrize('window', [True, False])
def test_a_start_behind_the_last_picture(tmp_path, window):
    tool = load_tool('dataset_converters/video_to_spikes')
    for k, picture in enumerate(pictures(2, (8, 16))):
        write_picture(tmp_path / 'rgb' / f'{k}.png', picture)
    options = ['--window', '8'] if window else []
    out = tmp_path / ('spike' if window else 'a.npy')
    with pytest.raises(ConfigError, match='--start to be below 2.*got 2'):
        tool.main([
            '--folder',
            str(tmp_path / 'rgb'), '--start', '2', *options, '--out',
            str(out)
        ])
    assert not out.exists()


def test_previews_of_recordings_with_one_name(tmp_path):
    for name in ('x.npy', 'x.npz', 'y.npy'):
        write_spikes(tmp_path / 'in' / name,
                     np.eye(64, dtype=np.uint8).reshape(64, 4, 16))
    load_tool('visualization/browse_spikes').main(
        [str(tmp_path / 'in'), '--out',
         str(tmp_path / 'out')])
    names = {path.name for path in (tmp_path / 'out').iterdir()}
    assert names == {'x_npy.png', 'x_npz.png', 'y.png'}


@pytest.mark.parametrize(
    'options', ['--ticks 0', '--ticks -3', '--begin -1', '--fps nan'])
def test_browsing_needs_ticks(options):
    tool = load_tool('visualization/browse_spikes')
    with pytest.raises(ConfigError, match=f'{options.split()[0]} '):
        tool.parse_args(['a.npy', *options.split()])
