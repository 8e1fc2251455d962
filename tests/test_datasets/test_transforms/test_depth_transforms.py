# Copyright (c) mmext contributors. All rights reserved.
"""Depth transforms and the spike data preprocessor."""
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmseg')

from mmengine.registry import TRANSFORMS

from mmext.datasets.transforms.depth_geometry import (KBCrop, RandomDepthFlip,
                                                      RandomTimeReversal,
                                                      ResizeSpike,
                                                      SpikeStrongAug,
                                                      SpikeToSigned)
from mmext.datasets.transforms.depth_loading import (LoadDepth,
                                                     LoadSpikeFromFile,
                                                     PackDepthInputs)
from mmext.models.depth import SpikeDataPreprocessor
from mmext.spike import (nearest_index, resize_spikes, strong_view, write_pfm,
                         write_spikes)
from mmext.utils.user_error import BadFileError, ConfigError
from ...depth_fixtures import make_frame


def sample(size=(12, 16), ticks=8):
    """A sample whose arrays all say where a pixel came from."""
    place = np.arange(size[0] * size[1]).reshape(size)
    return dict(
        img=np.repeat(place[..., None], 3, -1).astype(np.uint8),
        spike=np.stack([(place >> n) & 1
                        for n in range(ticks)]).astype(np.uint8),
        gt_depth_map=place.astype(np.float32),
        ori_shape=size,
        img_shape=size)


def same_place(results):
    """Image, spikes and depth still agree."""
    place = results['gt_depth_map']
    np.testing.assert_array_equal(results['img'][..., 0], place)
    spikes = results['spike']
    if results.get('time_reversed'):
        spikes = spikes[::-1]
    value = sum(spikes[n].astype(int) << n for n in range(len(spikes)))
    np.testing.assert_array_equal(value, place)


@pytest.mark.parametrize('direction', ['horizontal', 'vertical'])
def test_views_are_consistent(direction):
    for steps in ([KBCrop(
        (8, 10))], [RandomDepthFlip(1.,
                                    direction)], [RandomTimeReversal(1.)], [
                                        KBCrop((8, 10)),
                                        RandomDepthFlip(1., direction),
                                        RandomTimeReversal(1.)
                                    ]):
        results = sample()
        for step in steps:
            results = step(results)
        same_place(results)
    results = RandomDepthFlip(0.)(sample())
    assert not results['flip'] and results['flip_direction'] is None
    assert not RandomTimeReversal(0.)(sample())['time_reversed']
    packed = PackDepthInputs()(RandomDepthFlip(1., direction)(sample()))
    assert packed['data_samples'].flip_direction == direction


def test_crop_of_what_was_loaded():
    results = sample()
    depth = results.pop('gt_depth_map')
    cropped = KBCrop((8, 10))(results)
    assert cropped['crop_box'] == (4, 3, 8, 10)
    assert cropped['img'].shape[:2] == cropped['img_shape'] == (8, 10)
    assert depth.shape == cropped['ori_shape'] == (12, 16)
    # Odd margins are rounded as int() does.
    assert KBCrop((8, 13))(sample())['crop_box'][1] == 1
    with pytest.raises(BadFileError, match='12 x 16'):
        KBCrop((13, 10))(sample())
    with pytest.raises(ConfigError, match='before'):
        KBCrop((4, 4))(cropped)
    with pytest.raises(ConfigError, match='Load something'):
        KBCrop((4, 4))(dict())


def test_h32_signs_after_resizing():
    """Property H32: -1 and +1 exactly, in both places where it is done."""
    spikes = make_frame(0)[2]
    results = ResizeSpike((32, 48))(dict(spike=spikes))
    signed = SpikeToSigned()(dict(results))['spike']
    assert signed.dtype == np.int8 and set(np.unique(signed)) == {-1, 1}
    with pytest.raises(ConfigError, match='signed already'):
        SpikeToSigned()(dict(spike=signed))
    prepare = SpikeDataPreprocessor((32, 48))
    for given in (spikes, results['spike'], signed):
        out = prepare(dict(inputs=[torch.from_numpy(given)]))['inputs']
        assert out.dtype == torch.float32
        np.testing.assert_array_equal(out[0], signed)


@pytest.mark.parametrize('old, new', [(352, 384), (1216, 384), (864, 384),
                                      (250, 224), (640, 224), (13, 5),
                                      (5, 13)])
def test_nearest_is_the_legacy_one(old, new):
    rows = torch.arange(old, dtype=torch.float32).view(1, 1, old, 1)
    expected = F.interpolate(rows, (new, 1), mode='nearest').flatten()
    np.testing.assert_array_equal(nearest_index(old, new), expected)
    exact = np.arange(new) * old // new
    # float32 may fall below a whole number, as it does in torch.
    assert np.abs(exact - nearest_index(old, new)).max() <= 1
    spikes = torch.randint(0, 2, (2, 3, old, 4), dtype=torch.uint8)
    assert torch.equal(
        resize_spikes(spikes, (new, 4)),
        F.interpolate(spikes.float(), (new, 4), mode='nearest').byte())


def test_strong_view():
    rng = np.random.RandomState(0)
    spikes = (rng.random_sample((40, 32, 32)) < 0.5).astype(np.uint8)
    shuffled = strong_view(spikes, rng, silence=0, erase_prob=0)
    assert (shuffled != spikes).any()
    for begin in range(0, 40, 16):
        np.testing.assert_array_equal(shuffled[begin:begin + 16].sum(0),
                                      spikes[begin:begin + 16].sum(0))
    fewer = strong_view(spikes, rng, chunk=0, erase_prob=0)
    assert 0.07 < 1 - fewer.sum() / spikes.sum() < 0.13
    assert (fewer <= spikes).all()
    ones = np.ones((4, 100, 100), np.int8)
    for _ in range(5):
        erased = strong_view(ones, rng, chunk=0, silence=0) == -1
        assert (erased == erased[0]).all()
        assert 0.008 < erased[0].mean() < 0.055
    assert set(np.unique(strong_view(ones, rng))) == {-1, 1}
    results = SpikeStrongAug(silence=0.5)(dict(spike=spikes))
    assert results['spike'].sum() < 0.7 * spikes.sum()
    with pytest.raises(ConfigError, match='0 to 1'):
        SpikeStrongAug(silence=2)
    with pytest.raises(ConfigError, match="no option 'drop'"):
        SpikeStrongAug(drop=0.1)


def test_strong_view_of_flipped_arrays_and_batches():
    ones = np.ones((4, 100, 100), np.uint8)[:, ::-1]
    ones.flags.writeable = False
    view = strong_view(ones, np.random.RandomState(0), silence=0)
    assert view.dtype == np.uint8 and set(np.unique(view)) == {0, 1}
    batch = torch.ones(2, 4, 100, 100)
    erased = strong_view(batch, chunk=0, silence=0) == -1
    assert (batch == 1).all() and (erased == erased[:, :1]).all()
    # one rectangle for each cube
    assert not torch.equal(erased[0], erased[1])
    kept = strong_view(batch, chunk=0, silence=0, erase_prob=0)
    assert torch.equal(kept, batch) and kept is not batch
    for wrong in (dict(chunk=-1), dict(erase_area=(0.5, 0.1)),
                  dict(erase_ratio=(0, 1))):
        with pytest.raises(ConfigError):
            strong_view(batch, **wrong)


def test_windows_of_a_recording(tmp_path):
    spikes = make_frame(0, (8, 16), 40)[2]
    path = str(tmp_path / 'long.dat')
    write_spikes(path, spikes)

    def load(**options):
        item = options.pop('item', dict())
        step = LoadSpikeFromFile(length=16, size=(8, 16), **options)
        return step(dict(item, spike_path=path))

    for begin, first in (('start', 0), ('center', 12), (7, 7)):
        results = load(begin=begin)
        np.testing.assert_array_equal(results['spike'],
                                      spikes[first:first + 16])
        assert results['spike_begin'] == first
        assert results['ori_shape'] == (8, 16)
    assert load(item=dict(spike_begin=3))['spike_begin'] == 3
    found = {load(begin='center', jitter=5)['spike_begin'] for _ in range(40)}
    assert found <= set(range(7, 18)) and len(found) > 3
    assert load(begin=24, jitter=99)['spike_begin'] <= 24
    with pytest.raises(BadFileError, match='has 40 ticks'):
        load(begin=30)
    with pytest.raises(BadFileError, match='8 x 16'):
        load(item=dict(ori_shape=(8, 8)))
    with pytest.raises(ConfigError, match='begin'):
        LoadSpikeFromFile(begin='end')
    for options, message in (
        (dict(begin=-3), 'begin'),
        (dict(begin=True), 'begin'),
        (dict(length='128'), 'length'),
        (dict(jitter=-1), 'jitter'),
        (dict(siez=(3, 4)), "Did you mean 'size'"),
        (dict(size=64), 'height and width'),
        (dict(bitorder='middle'), "'middle'"),
    ):
        with pytest.raises(ConfigError, match=message):
            LoadSpikeFromFile(**options)
    with pytest.raises(ConfigError, match='spike_path'):
        LoadSpikeFromFile()(dict(img_path='a.png'))


def test_a_memory_map_is_copied_where_it_is_packed(tmp_path):
    """Only what is left of it; torch warns of what cannot be written."""
    path = tmp_path / 'a.npy'
    write_spikes(path, make_frame(0, (8, 16), 40)[2])
    results = LoadSpikeFromFile(length=16)(dict(spike_path=str(path)))
    assert not results['spike'].flags.writeable
    own = results['spike'].copy()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        packed = PackDepthInputs()(results)['inputs']
        same = PackDepthInputs()(dict(results, spike=own))['inputs']
    assert torch.equal(packed, same)
    assert not np.shares_memory(packed.numpy(), results['spike'])
    same[0, 0, 0] = 7  # what is writable already is not copied
    assert own[0, 0, 0] == 7


def test_depth_files(tmp_path):
    """NaN, infinity and negative depth are no depth."""
    depth = np.array([[1, np.nan, np.inf], [-np.inf, -2, 0]], np.float32)
    clean = [[1, 0, 0], [0, 0, 0]]
    write_pfm(tmp_path / 'a.pfm', depth)
    np.save(tmp_path / 'a.npy', depth)
    for end in ('pfm', 'npy'):
        results = LoadDepth()(dict(depth_map_path=str(tmp_path / f'a.{end}')))
        np.testing.assert_array_equal(results['gt_depth_map'], clean)
    assert LoadDepth(2.)(results)['gt_depth_map'][0, 0] == 0.5
    (tmp_path / 'b.npy').write_bytes(b'\x93NUMPY')
    with pytest.raises(BadFileError, match='damaged'):
        LoadDepth.read(str(tmp_path / 'b.npy'))
    np.savez(tmp_path / 'z.npz', depth=depth)
    (tmp_path / 'z.npz').rename(tmp_path / 'z.npy')
    with pytest.raises(BadFileError, match='Expected a .npy array'):
        LoadDepth.read(str(tmp_path / 'z.npy'))
    for scale in (0, -1, float('nan'), float('inf'), '256', True):
        with pytest.raises(ConfigError, match='positive number'):
            LoadDepth(scale)
        with pytest.raises(ConfigError, match='positive number'):
            LoadDepth.read(str(tmp_path / 'a.npy'), scale)
    np.save(tmp_path / 'c.npy', np.zeros((2, 3, 3)))
    with pytest.raises(BadFileError, match='a picture of it'):
        LoadDepth.read(str(tmp_path / 'c.npy'))
    with pytest.raises(ConfigError, match='what a metre is'):
        LoadDepth.read('d.png')
    with pytest.raises(ConfigError, match='.pfm'):
        LoadDepth.read('d.exr', 1.)


def test_preprocessor_takes_nested_batches():
    rgb = [torch.full((3, 4, 6), 255, dtype=torch.uint8) for _ in range(2)]
    rgb[0][0] = 0  # blue, in OpenCV's order
    spike = [torch.ones(8, 4, 6, dtype=torch.uint8) for _ in range(2)]
    samples = [PackDepthInputs()(sample())['data_samples'] for _ in range(2)]
    batch = dict(
        inputs=dict(source=dict(rgb=rgb, spike=spike), target=spike),
        data_samples=dict(source=samples, target=samples))
    out = SpikeDataPreprocessor((8, 12))(batch, training=True)
    assert out['inputs']['source']['rgb'].shape == (2, 3, 8, 12)
    assert out['inputs']['source']['rgb'][0, :, 0, 0].tolist() == [1, 1, -1]
    assert out['inputs']['target'].shape == (2, 8, 8, 12)
    assert (out['inputs']['target'] == 1).all()
    for part in ('source', 'target'):
        assert out['data_samples'][part][1].img_shape == (8, 12)
    plain = SpikeDataPreprocessor(normalize_rgb=False, bgr_to_rgb=False)
    assert plain(dict(inputs=rgb))['inputs'][0, 0].max() == 0
    with pytest.raises(ConfigError, match='one size'):
        plain(dict(inputs=[rgb[0], rgb[1][:, 1:]]))
    mixed = SpikeDataPreprocessor((4, 4))
    assert mixed(dict(inputs=[rgb[0], rgb[1][:,
                                             1:]]))['inputs'].shape == (2, 3,
                                                                        4, 4)


def test_pack():
    packed = PackDepthInputs(('rgb', 'spike'))(sample())
    assert packed['inputs']['rgb'].shape == (3, 12, 16)
    assert packed['data_samples'].gt_depth_map.data.shape == (1, 12, 16)
    one = PackDepthInputs('rgb')(sample())
    assert one['inputs'].dtype == torch.uint8
    with pytest.raises(ConfigError, match='LoadImageFromFile'):
        PackDepthInputs('rgb')(dict(spike=np.zeros((1, 2, 2))))
    with pytest.raises(ConfigError, match="'rgb', 'spike'"):
        PackDepthInputs('depth')
    for name in ('KBCrop', 'LoadDepth', 'SpikeToSigned', 'RandomDepthFlip'):
        assert TRANSFORMS.get(f'mmdepth.{name}') is TRANSFORMS.get(
            f'mmext.{name}')
