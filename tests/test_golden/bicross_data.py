# Copyright (c) mmext contributors. All rights reserved.
"""Loading and scoring of BiCross against the recorded arrays.

Properties H28, H32 and H33 of the method's specification.
"""
import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.config import ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from mmext.evaluation.depth_measures import crop_mask, measures
from mmext.evaluation.depth_metric import DepthMetric
from mmext.models.depth import BiCrossDepthEstimator, SpikeDataPreprocessor
from mmext.spike import write_depth_png
from .bicross_files import cube, load


def _sample(data, tmp_path):
    """The recorded files, as a data set names them."""
    paths = dict(
        img_path=tmp_path / 'rgb.png',
        spike_path=tmp_path / 'spike.npy',
        depth_map_path=tmp_path / 'depth.png')
    cv2.imwrite(str(paths['img_path']), data['rgb_u8'][..., ::-1])
    spikes = cube(data['spike_bits'], tuple(data['spike_shape']))
    np.save(paths['spike_path'], spikes)
    write_depth_png(paths['depth_map_path'],
                    data['depth_u16'].astype(np.float64) / 256, 256)
    return dict({
        key: str(path)
        for key, path in paths.items()
    },
                depth_scale=256.)


def _run(data, tmp_path, *last):
    init_default_scope('mmseg')
    ticks = int(data['spike_shape'][0])
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='mmext.LoadSpikeFromFile', length=ticks), *last,
        dict(type='mmext.PackDepthInputs', keys=('rgb', 'spike'))
    ]
    return Compose(steps)(_sample(data, tmp_path))


def test_h28_loading(tmp_path):
    """Property H28: spikes exactly, RGB without and with anti-aliasing,
    depth exactly, cropped in training and whole in testing; H32: signs."""
    data = load('preproc_crop_resize')
    crop = dict(
        type='mmext.KBCrop', size=tuple(int(n) for n in data['crop_hw']))
    depth = dict(type='mmext.LoadDepth')
    packed = _run(data, tmp_path, depth, crop)
    sample = packed['data_samples']
    np.testing.assert_array_equal(sample.gt_depth_map.data[0],
                                  data['out_depth_train'])
    assert sample.crop_box[:2] == tuple(data['crop_top_left'])
    tested = _run(data, tmp_path, crop, depth)['data_samples']
    assert tuple(tested.gt_depth_map.shape) == tuple(
        data['out_depth_test_shape'])

    size = tuple(int(n) for n in data['net_input_hw'])
    for antialias, name in ((False, 'no_antialias'), (True, 'antialias')):
        batch = dict(
            inputs={
                k: [v]
                for k, v in packed['inputs'].items()
            },
            data_samples=[sample])
        batch = SpikeDataPreprocessor(size, antialias=antialias)(batch)
        inputs = batch['inputs']
        np.testing.assert_allclose(
            inputs['rgb'][0], data[f'out_rgb_{name}'], 1e-5, 1e-6)
        np.testing.assert_array_equal(inputs['spike'][0], data['out_spike'])
    assert batch['data_samples'][0].img_shape == size
    assert set(inputs['spike'].unique().tolist()) == {-1, 1}
    # In the loader's workers, the same.
    resized = _run(data, tmp_path, crop,
                   dict(type='mmext.ResizeSpike', size=size),
                   dict(type='mmext.SpikeToSigned'))['inputs']['spike']
    assert resized.dtype == torch.int8
    np.testing.assert_array_equal(resized, data['out_spike'])


def test_h33_evaluation():
    """Property H33: paste and clamp, mask, metrics of images, their mean."""
    data = load('metrics_eval')
    size, box = data['gt_depth'].shape[1:], data['crop_hw']
    pred = torch.from_numpy(data['pred_net'])[:, None]
    box = (size[0] - box[0], (size[1] - box[1]) // 2, *box)
    names = [str(name) for name in data['metric_names']]
    metric = DepthMetric(names + ['val_sig'], max_depth=float(data['dmax']))
    estimator = _Paste()
    samples = []
    for one, truth in zip(pred, data['gt_depth']):
        meta = dict(ori_shape=size, crop_box=box)
        depth, = estimator._at_original_size(one[None], meta)
        samples.append(
            dict(
                pred_depth_map=dict(data=depth),
                gt_depth_map=dict(data=truth)))
    for index, sample in enumerate(samples):
        truth = data['gt_depth'][index]
        mask = metric.mask(truth)
        np.testing.assert_array_equal(mask, data['eval_mask'][index])
        rows, columns = np.nonzero(crop_mask('garg', *size))
        assert (rows.min(), rows.max() + 1) == tuple(data['garg_rows'])
        assert (columns.min(), columns.max() + 1) == tuple(data['garg_cols'])
        full = sample['pred_depth_map']['data'][0].clamp(
            metric.min_depth, metric.max_depth)
        expected = data['pred_full_clamped'][index]
        # Resized from all predictions: the rounding of the largest.
        largest = float(np.abs(data['pred_net'][index]).max())
        np.testing.assert_allclose(
            full, expected, rtol=1e-5, atol=max(1e-6, 2.4e-7 * largest))
        found = measures(metric.score(sample)['sums'])
        np.testing.assert_allclose([found[name] for name in names],
                                   data['per_image'][index], 1e-5)
        np.testing.assert_allclose(found['val_sig'],
                                   data['val_loss_per_image'][index], 1e-5)
    metric.process(None, samples)
    found = metric.evaluate(len(samples))
    np.testing.assert_allclose([found[name] for name in names], data['mean'],
                               1e-5)
    assert found['num_images'] == len(samples)
    np.testing.assert_allclose(found['val_sig'],
                               data['val_loss_per_image'].mean(), 1e-5)


class _Paste(BiCrossDepthEstimator):
    """The part of the estimator after its network."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.test_cfg = ConfigDict(self.test_defaults)
