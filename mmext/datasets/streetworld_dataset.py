# Copyright (c) mmext contributors. All rights reserved.
"""StreetWorld without files: frames are drawn when they are asked for."""
from functools import lru_cache
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets import BaseSegDataset

from mmext.registry import DATASETS, TRANSFORMS
from mmext.utils.arguments import as_tuple
from mmext.utils.user_error import ConfigError
from .streetworld import (CLASSES, PALETTE, Drive, Frame, Intrinsics,
                          StreetWorld, apply_weather, plan)

_KEYS = ('img', 'gt_seg_map', 'gt_depth_map')


@lru_cache(maxsize=4)
def cached_world(town: int, size: Tuple[int, int], focal: Optional[float],
                 drive: Tuple[Tuple[str, float], ...]) -> StreetWorld:
    """A town; the last ones are kept, as frames come town by town."""
    return StreetWorld(town, Intrinsics(*size, focal=focal),
                       Drive(**dict(drive)))


@lru_cache(maxsize=2)
def _frame(town: int, t: float, domain: str, strength: float, seed: int,
           *camera) -> Frame:
    """The last frames are kept: a pipeline may ask for one twice."""
    frame = cached_world(town, *camera).render(t, domain in ('night', 'dusk'))
    return apply_weather(frame, domain, strength, seed)


@TRANSFORMS.register_module()
class RenderStreetWorld(BaseTransform):
    """Draw the frame that a `StreetWorldDataset` item describes.

    It stands where `LoadImageFromFile` and `LoadAnnotations` stand in other
    pipelines; the image has OpenCV's channel order, as they give it. To score
    at the full size, load the image, resize, then load the labels, as with
    files; the frame is drawn once.

    Required Keys:

    - streetworld (dict): town, t, domain, size, focal, drive, strength, seed

    Added Keys:

    - img (np.uint8, (H, W, 3), B G R), img_shape, ori_shape
    - gt_seg_map (np.uint8, (H, W))
    - gt_depth_map (np.float32, (H, W), metres, 0 in the sky), if asked for
    - seg_fields (list): extended by the maps
    - camera_pose (np.float64, (4, 4)), camera_matrix (np.float64, (3, 3))

    Args:
        keys (Sequence[str]): Which of 'img', 'gt_seg_map' and
            'gt_depth_map' to add. Defaults to ('img', 'gt_seg_map').
        to_float32 (bool): Whether the image is float32. Defaults to False.

    Examples:
        >>> pipeline = [
        ...     dict(type='mmext.RenderStreetWorld', keys=('img', )),
        ...     dict(type='Resize', scale=(256, 128), keep_ratio=True),
        ...     dict(type='mmext.RenderStreetWorld', keys=('gt_seg_map', )),
        ...     dict(type='PackSegInputs')
        ... ]
    """

    def __init__(self,
                 keys: Sequence[str] = ('img', 'gt_seg_map'),
                 to_float32: bool = False) -> None:
        self.keys = as_tuple(keys)
        unknown = [k for k in self.keys if k not in _KEYS]
        if unknown or not self.keys:
            raise ConfigError(f'Expected keys to be some of {_KEYS}, but got '
                              f'{keys}.')
        self.to_float32 = to_float32

    def transform(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Add the arrays to ``results``.

        Args:
            results (dict): An item of `StreetWorldDataset`.

        Returns:
            dict: The same, with the keys above.

        Raises:
            KeyError: If the item is not from `StreetWorldDataset`.
        """
        if 'streetworld' not in results:
            raise KeyError(
                'RenderStreetWorld needs the items of '
                "mmext.StreetWorldDataset (key 'streetworld'); other data "
                'sets start with LoadImageFromFile')
        item = results['streetworld']
        frame = _frame(item['town'], item['t'], item['domain'],
                       item['strength'], item['seed'], item['size'],
                       item['focal'], item['drive'])
        fields = results.setdefault('seg_fields', [])
        if 'img' in self.keys:
            results['img'] = frame.image.astype(
                'float32' if self.to_float32 else 'uint8')
            results['img_shape'] = frame.labels.shape
            results['ori_shape'] = frame.labels.shape
            results['camera_pose'] = frame.pose.copy()
            results['camera_matrix'] = frame.intrinsics.matrix
        if 'gt_seg_map' in self.keys:
            results['gt_seg_map'] = self._mapped(frame.labels,
                                                 results.get('label_map'))
            fields.append('gt_seg_map')
        if 'gt_depth_map' in self.keys:
            results['gt_depth_map'] = frame.depth.copy()
            fields.append('gt_depth_map')
        return results

    @staticmethod
    def _mapped(labels: np.ndarray,
                label_map: Optional[Dict[int, int]]) -> np.ndarray:
        """Train ids after the data set's own choice of classes."""
        table = np.arange(256, dtype=np.uint8)
        for old, new in (label_map or {}).items():
            table[old] = new
        return table[labels]

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(keys={self.keys}, '
                f'to_float32={self.to_float32})')


@DATASETS.register_module()
class StreetWorldDataset(BaseSegDataset):
    """Frames of StreetWorld with Cityscapes' 19 classes, no files needed.

    The frames are those that ``tools/dataset_converters/streetworld.py``
    writes for the same domain, split, number and seed; in memory they need
    no PNG round trip. Start the pipeline with ``mmext.RenderStreetWorld``.

    Args:
        domain (str): 'clear', 'fog', 'night', 'rain', 'snow' or 'dusk'.
            Defaults to 'clear'.
        split (str): 'train' or 'val': different towns. Defaults to 'train'.
        frames (int): How many frames. Defaults to 100.
        per_town (int, optional): Frames in one town. Defaults to None, see
            ``mmext.datasets.streetworld.plan``.
        seed (int): Which world. Defaults to 0.
        strength (float): How bad the weather is. Defaults to 1.
        size (tuple[int, int]): Height and width in pixels.
            Defaults to (256, 512).
        focal (float, optional): Focal length in pixels. Defaults to None,
            0.9 times the width.
        drive (dict, optional): Arguments of
            ``mmext.datasets.streetworld.Drive``, such as
            ``dict(height=1.2, speed=14)``. Defaults to None.
        **kwargs: See ``mmseg.datasets.BaseSegDataset``.

    Example:
        >>> dict(
        ...     type='mmext.StreetWorldDataset',
        ...     domain='fog',
        ...     frames=25,
        ...     pipeline=[
        ...         dict(type='mmext.RenderStreetWorld'),
        ...         dict(type='PackSegInputs')
        ...     ])
    """
    METAINFO = dict(classes=CLASSES, palette=[list(c) for c in PALETTE])

    def __init__(self,
                 domain: str = 'clear',
                 split: str = 'train',
                 frames: int = 100,
                 per_town: Optional[int] = None,
                 seed: int = 0,
                 strength: float = 1.,
                 size: Tuple[int, int] = (256, 512),
                 focal: Optional[float] = None,
                 drive: Optional[Dict[str, float]] = None,
                 **kwargs) -> None:
        self.domain = domain
        self.split = split
        self.strength = float(strength)
        self.seed = int(seed)
        self._camera = dict(
            size=tuple(size),
            focal=focal,
            drive=tuple(sorted((drive or {}).items())))
        # Wrong values stop here, not in a worker.
        Intrinsics(*self._camera['size'], focal=focal)
        Drive(**(drive or {}))
        self._plan = plan(domain, split, frames, per_town, self.seed)
        kwargs.setdefault('img_suffix', '')
        kwargs.setdefault('seg_map_suffix', '')
        super().__init__(**kwargs)

    def load_data_list(self) -> List[dict]:
        """One item a frame; nothing is read.

        Returns:
            list[dict]: Items with the key ``streetworld`` and a name as
            ``img_path``.
        """
        return [
            dict(
                img_path=f'streetworld/{self.domain}/{self.split}/'
                f'{spec.name}.png',
                seg_map_path=None,
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[],
                streetworld=dict(
                    town=spec.town,
                    t=spec.t,
                    domain=self.domain,
                    strength=self.strength,
                    seed=self.seed,
                    **self._camera)) for spec in self._plan
        ]
