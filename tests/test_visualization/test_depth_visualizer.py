# Copyright (c) mmext contributors. All rights reserved.
"""Pictures of depth."""
import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement, PixelData

from mmext.utils.user_error import ConfigError
from mmext.visualization import colour, colour_depth, colour_error, depth_panel


def test_colours():
    depth = np.array([[0, np.nan, 1, 9, 80, 500]], np.float32)
    drawn = colour_depth(depth)
    assert not drawn[0, :2].any()  # no depth
    assert (drawn[0, 4] == drawn[0, 5]).all()  # beyond the scale
    blue, _, red = drawn[0, 2].tolist()
    assert red > blue  # near is warm
    error = colour_error(depth * 2, depth, 1.)
    assert not error[0, 0].any()
    assert (error[0, 2] == error[0, 3]).all()
    assert (colour(np.full((1, 1), 3.), 3, 3) >= 0).all()
    with pytest.raises(ConfigError, match='turbo'):
        colour(depth, 0, 1, 'rainbow')


def test_panel():
    depth = np.full((20, 30), 5.)
    spikes = (np.arange(8 * 600).reshape(8, 20, 30) % 2).astype(np.uint8)
    whole = depth_panel(spikes, depth, depth, depth / 10)
    assert whole.shape == (2 * 38, 3 * 30, 3)
    assert depth_panel(pred=depth).shape == (38, 30, 3)
    # An image of another size, such as a crop, is brought to that of depth.
    assert depth_panel(
        np.zeros((10, 10, 3), np.uint8), pred=depth).shape == (38, 60, 3)
    with pytest.raises(ConfigError):
        depth_panel()


def test_visualizer(tmp_path):
    pytest.importorskip('mmseg')
    visualizer = VISUALIZERS.build(
        dict(
            type='mmdepth.DepthLocalVisualizer',
            name='depth',
            vis_backends=[dict(type='LocalVisBackend')],
            save_dir=str(tmp_path)))
    sample = BaseDataElement()
    for field in ('gt_depth_map', 'pred_depth_map', 'pred_uncertainty_map'):
        sample.set_data({field: PixelData(data=torch.full((1, 20, 30), 4.))})
    image = np.zeros((20, 30, 3), np.uint8)
    image[..., 0] = 200  # red
    drawn = visualizer.add_datasample('one', image, sample, step=3)
    assert drawn[30, 15].tolist() == [200, 0, 0]
    assert list(tmp_path.rglob('one_3.png'))
    path = tmp_path / 'out.png'
    visualizer.add_datasample(
        'two', None, sample, draw_gt=False, out_file=str(path))
    assert cv2.imread(str(path)).shape == (38, 60, 3)
