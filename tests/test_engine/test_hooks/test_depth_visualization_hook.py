# Copyright (c) mmext contributors. All rights reserved.
"""Which samples are drawn, and what the visualizer gets."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import HOOKS
from mmengine.structures import BaseDataElement

from mmext.engine.hooks import DepthVisualizationHook
from mmext.utils.user_error import ConfigError


def runner():
    """A runner whose visualizer notes what it is given."""
    drawn = []
    return SimpleNamespace(
        iter=100,
        drawn=drawn,
        visualizer=SimpleNamespace(
            add_datasample=lambda name, image, **options: drawn.append(
                (name, image, options['step']))))


def sample(name='a', key='spike_path'):
    return BaseDataElement(metainfo={key: f'folder/{name}.npy'})


def test_spikes_and_images():
    """A tensor, a list and paired inputs; images come in OpenCV's order."""
    hook, run = DepthVisualizationHook(draw=True, interval=1), runner()
    spikes = [torch.ones(16, 4, 6, dtype=torch.uint8)]
    image = torch.arange(3).view(1, 3, 1, 1).expand(1, 3, 4, 6)
    for inputs in (spikes, dict(rgb=image, spike=spikes), image):
        hook.after_val_iter(run, 0, dict(inputs=inputs), [sample()])
    assert [d[1].shape for d in run.drawn] == [(16, 4, 6), (16, 4, 6),
                                               (4, 6, 3)]
    assert run.drawn[2][1][0, 0].tolist() == [2, 1, 0]
    assert isinstance(run.drawn[0][1], np.ndarray)
    assert run.drawn[0][0] == 'val_a' and run.drawn[0][2] == 100


def test_every_so_many():
    """Of batches in validation, of samples in testing; none by default."""
    hook = HOOKS.build(
        dict(type='mmdepth.DepthVisualizationHook', draw=True, interval=3))
    run, batch = runner(), dict(inputs=torch.zeros(2, 16, 4, 6))
    for index in range(4):
        hook.after_test_iter(
            run, index, batch,
            [sample(f'{index}{k}', 'img_path') for k in range(2)])
    assert [d[0] for d in run.drawn] == ['test_00', 'test_11', 'test_30']
    assert [d[2] for d in run.drawn] == [0, 3, 6]
    for index in range(4):
        hook.after_val_iter(run, index, batch, [sample(str(index))] * 2)
    assert [d[0] for d in run.drawn[3:]] == ['val_0', 'val_3']
    silent = DepthVisualizationHook()
    silent.after_val_iter(run, 0, batch, [sample()])
    silent.after_test_iter(run, 0, batch, [sample()])
    assert len(run.drawn) == 5
    with pytest.raises(ConfigError, match='interval'):
        DepthVisualizationHook(interval=0)
