# Copyright (c) mmext contributors. All rights reserved.
"""Pictures of depth and spikes during validation and testing."""
import os.path as osp
from collections.abc import Mapping
from typing import Any, Optional, Sequence

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmext.registry import HOOKS, register_depth
from mmext.utils.user_error import ConfigError


def input_picture(inputs: Any, index: int, key: str = 'spike') -> np.ndarray:
    """One input of a depth estimator as its visualizer wants it.

    Args:
        inputs (Tensor | Sequence[Tensor] | Mapping): Of a batch, (3, H, W)
            in OpenCV's order of channels or (T, H, W) spikes each.
        index (int): Which one.
        key (str): Which of several modalities. Defaults to 'spike'.

    Returns:
        np.ndarray: (H, W, 3) R G B, or the spikes.
    """
    while isinstance(inputs, Mapping):
        inputs = inputs.get(key, next(iter(inputs.values())))
    one = torch.as_tensor(inputs[index]).detach().cpu().numpy()
    if len(one) != 3:
        return one
    # loaded by OpenCV: B G R
    return np.ascontiguousarray(one[::-1].transpose(1, 2, 0))


@register_depth(HOOKS)
class DepthVisualizationHook(Hook):
    """Draw what a depth estimator saw and what it predicted.

    mmseg's ``SegVisualizationHook`` reads the picture at ``img_path`` again;
    spikes are no picture, and drawn scenes have no file. This one shows the
    batch itself: spikes by playback, images as they are, beside depth, error
    and uncertainty (``mmext.DepthLocalVisualizer``).

    Args:
        draw (bool): Whether to draw at all; ``tools/test.py --show-dir``
            sets it. Defaults to False.
        interval (int): Draw the first sample of every so many batches in
            validation, and every so many samples in testing.
            Defaults to 50.
        show (bool): Open a window instead of writing. Defaults to False.
        wait_time (float): Seconds for the window. Defaults to 0.
        input_key (str): Which of several inputs is drawn.
            Defaults to 'spike'.

    Example:
        >>> default_hooks = dict(
        ...     visualization=dict(
        ...         type='mmext.DepthVisualizationHook', draw=True))
        >>> visualizer = dict(
        ...     type='mmext.DepthLocalVisualizer',
        ...     vis_backends=[dict(type='LocalVisBackend')])
    """

    priority = 'NORMAL'

    def __init__(self,
                 draw: bool = False,
                 interval: int = 50,
                 show: bool = False,
                 wait_time: float = 0.,
                 input_key: str = 'spike') -> None:
        if interval < 1:
            raise ConfigError('Expected interval of DepthVisualizationHook to '
                              f'be at least 1, but got {interval}.')
        self.draw, self.interval = draw, interval
        self.show, self.wait_time = show, wait_time
        self.input_key = input_key
        self._tested = 0

    def after_val_iter(self,
                       runner: Runner,
                       batch_idx: int,
                       data_batch: Any = None,
                       outputs: Optional[Sequence] = None) -> None:
        """Draw the first sample of a batch."""
        if self.draw and batch_idx % self.interval == 0:
            self._add(runner, 'val', data_batch, 0, outputs[0],
                      runner.iter + batch_idx)

    def after_test_iter(self,
                        runner: Runner,
                        batch_idx: int,
                        data_batch: Any = None,
                        outputs: Optional[Sequence] = None) -> None:
        """Draw the samples whose turn it is."""
        if not self.draw:
            return
        for index, sample in enumerate(outputs):
            if self._tested % self.interval == 0:
                self._add(runner, 'test', data_batch, index, sample,
                          self._tested)
            self._tested += 1

    def _add(self, runner: Runner, lead: str, data_batch: Any, index: int,
             sample: Any, step: int) -> None:
        path = sample.metainfo.get('spike_path') or sample.metainfo.get(
            'img_path') or 'frame'
        runner.visualizer.add_datasample(
            f'{lead}_{osp.splitext(osp.basename(path))[0]}',
            input_picture(data_batch['inputs'], index, self.input_key),
            data_sample=sample,
            show=self.show,
            wait_time=self.wait_time,
            step=step)
