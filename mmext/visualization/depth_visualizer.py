# Copyright (c) mmext contributors. All rights reserved.
"""The visualizer of depth estimators."""
from typing import Any, Optional

import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.visualization import Visualizer

from mmext.registry import VISUALIZERS, register_depth
from mmext.spike import write_picture
from .depth_pictures import depth_panel


@register_depth(VISUALIZERS)
class DepthLocalVisualizer(Visualizer):
    """Draw image or spikes, depth, error and uncertainty of a sample.

    Args:
        name (str): Of the instance. Defaults to 'visualizer'.
        min_depth (float): Depth of the warmest colour. Defaults to 1.
        max_depth (float): Depth of the coldest colour; indoor 10.
            Defaults to 80.
        most_error (float): Relative error of the last colour.
            Defaults to 0.5.
        most_uncertainty (float): The same for the uncertainty.
            Defaults to 1.
        **kwargs: See ``mmengine.visualization.Visualizer``.

    Example:
        >>> visualizer = dict(
        ...     type='mmext.DepthLocalVisualizer',
        ...     vis_backends=[dict(type='LocalVisBackend')])
    """

    def __init__(self,
                 name: str = 'visualizer',
                 min_depth: float = 1.,
                 max_depth: float = 80.,
                 most_error: float = 0.5,
                 most_uncertainty: float = 1.,
                 **kwargs) -> None:
        super().__init__(name, **kwargs)
        self.limits = dict(
            min_depth=min_depth,
            max_depth=max_depth,
            most_error=most_error,
            most_uncertainty=most_uncertainty)

    @master_only
    def add_datasample(self,
                       name: str,
                       image: Optional[np.ndarray],
                       data_sample: Any = None,
                       draw_gt: bool = True,
                       draw_pred: bool = True,
                       show: bool = False,
                       wait_time: float = 0,
                       out_file: Optional[str] = None,
                       step: int = 0) -> np.ndarray:
        """Draw a sample and give it to the backends.

        Args:
            name (str): What to call it.
            image (np.ndarray, optional): (H, W, 3) R G B, or spikes (T, H,
                W) of 0 and 1.
            data_sample (SegDataSample, optional): With ``gt_depth_map``,
                ``pred_depth_map``, ``pred_uncertainty_map``.
            draw_gt (bool): Draw truth and error. Defaults to True.
            draw_pred (bool): Draw the prediction. Defaults to True.
            show (bool): Open a window. Defaults to False.
            wait_time (float): Seconds for the window. Defaults to 0.
            out_file (str, optional): Write the picture there instead of
                giving it to the backends. Defaults to None.
            step (int): Of the run. Defaults to 0.

        Returns:
            np.ndarray: (H', W', 3) uint8, R G B.
        """
        if image is not None and image.ndim == 3 and image.shape[-1] == 3:
            image = np.ascontiguousarray(image[..., ::-1])
        fields = dict(
            target='gt_depth_map' if draw_gt else None,
            pred='pred_depth_map' if draw_pred else None,
            uncertainty='pred_uncertainty_map' if draw_pred else None)
        maps = {key: _map(data_sample, field) for key, field in fields.items()}
        drawn = depth_panel(image, **maps, **self.limits)
        picture = np.ascontiguousarray(drawn[..., ::-1])
        self.set_image(picture)
        if show:
            self.show(picture, win_name=name, wait_time=wait_time)
        if out_file is not None:
            write_picture(out_file, drawn)
        else:
            self.add_image(name, picture, step)
        return picture


def _map(sample: Any, field: Optional[str]) -> Optional[np.ndarray]:
    if sample is None or field is None or field not in sample:
        return None
    data = torch.as_tensor(sample.get(field).data)
    return data.detach().float().cpu().numpy().reshape(data.shape[-2:])
