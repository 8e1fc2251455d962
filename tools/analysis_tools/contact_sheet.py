# Copyright (c) mmext contributors. All rights reserved.
r"""A picture that puts the predictions of several methods side by side."""
import os.path as osp
from pathlib import Path
from typing import Any, Dict, List, Tuple

import cv2
import numpy as np
from mmengine.registry import init_default_scope

from mmext.engine.hooks.depth_visualization_hook import input_picture
from mmext.engine.loops.adaptation_report import prediction_path
from mmext.engine.loops.stream_loader import stream_dataloader
from mmext.models.depth.depth_task import PNG_SCALE
from mmext.registry import DATASETS
from mmext.spike import preview, read_depth_png
from mmext.spike.preview import with_title
from mmext.utils.config_io import load_config, merge_options
from mmext.utils.user_error import MissingFileError
from mmext.visualization import colour_depth

Pictures = Tuple[np.ndarray, Dict[str, np.ndarray]]


def colour(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Paint a label map (BGR); 255 stays black."""
    table = np.zeros((256, 3), np.uint8)
    table[:len(palette)] = palette[:, ::-1]
    return table[labels]


def class_pictures(stream: Any, index: int, files: Dict[str, str]) -> Pictures:
    """Image of a frame; its label and the predictions, painted."""
    palette = np.array(stream.metainfo['palette'], np.uint8)
    info = stream.get_data_info(index)
    maps = {
        name: colour(cv2.imread(file, cv2.IMREAD_UNCHANGED), palette)
        for name, file in dict(label=info['seg_map_path'], **files).items()
    }
    return cv2.imread(info['img_path'], cv2.IMREAD_COLOR), maps


def depth_pictures(stream: Any, index: int, files: Dict[str, str],
                   **limits: float) -> Pictures:
    """What the network saw of a frame; depth and predictions, painted."""
    data = stream[index]
    inputs, samples = data['inputs'], data['data_samples']
    if not isinstance(samples, (list, tuple)):
        inputs, samples = [inputs], [samples]
    # the largest view that is not mirrored
    seen = max((_seen(inputs[i]) for i, sample in enumerate(samples)
                if not sample.metainfo.get('flip')),
               key=lambda picture: picture.size)
    sample = samples[0]
    maps = {
        name: colour_depth(read_depth_png(file, PNG_SCALE), **limits)
        for name, file in files.items()
    }
    if 'gt_depth_map' in sample:
        truth = colour_depth(sample.gt_depth_map.data[0].numpy(), **limits)
        maps = dict(truth=truth, **maps)
    box = sample.metainfo.get('crop_box')
    if box is None:
        return seen, maps
    top, left, height, width = (int(number) for number in box)
    whole = np.zeros((*sample.metainfo['ori_shape'][:2], 3), np.uint8)
    whole[top:top + height,
          left:left + width] = cv2.resize(seen, (width, height))
    return whole, maps


def _seen(one: Any) -> np.ndarray:
    """One view in B G R; spikes by playback."""
    picture = input_picture([one], 0)
    if picture.shape[-1] != 3:
        picture = np.repeat(preview(picture, stretch=True)[..., None], 3, 2)
    return np.ascontiguousarray(picture[..., ::-1])


def write_contact_sheet(config: str,
                        options: dict,
                        folders: Dict[str, Path],
                        path: Path,
                        width: int = 256,
                        depth: bool = False) -> None:
    """Write one row per domain: image, label, then every method.

    Args:
        config (str): A config of the comparison, for its data set.
        options (dict): Overrides of the config.
        folders (dict[str, Path]): Method -> work folder of a run with
            ``train_cfg.save_predictions=True``.
        path (Path): The PNG to write.
        width (int): Width of one picture in pixels. Defaults to 256.
        depth (bool): Whether the methods predict depth, not classes; drawn
            between the limits of the config's visualizer.
            Defaults to False.

    Raises:
        MissingFileError: If a prediction is not there.
    """
    cfg = load_config(config)
    merge_options(cfg, options)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    stream = DATASETS.build(stream_dataloader(cfg.train_dataloader)['dataset'])
    limits = {
        key: value
        for key, value in (cfg.get('visualizer') or {}).items()
        if key in ('min_depth', 'max_depth')
    }
    rows: List[np.ndarray] = []
    for visit in stream.visits:
        if visit.round != stream.rounds or visit.start == visit.stop:
            continue
        # Late in the visit, when there has been time to adapt.
        index = visit.start + (visit.stop - visit.start) * 4 // 5
        name = stream.get_data_info(index).get('img_path') or f'{index:06d}'
        files = {
            method: prediction_path(str(folder), visit, name)
            for method, folder in folders.items()
        }
        for file in files.values():
            if not osp.isfile(file):
                raise MissingFileError(f'{file} is missing; run again with '
                                       'train_cfg.save_predictions=True.')
        image, maps = depth_pictures(stream, index, files, **limits) \
            if depth else class_pictures(stream, index, files)
        height = round(width * image.shape[0] / image.shape[1])
        size = (width, height)
        cells = [with_title(cv2.resize(image, size), visit.domain)]
        for title, picture in maps.items():
            small = cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST)
            cells.append(with_title(small, title))
        rows.append(np.hstack(cells))
    cv2.imwrite(str(path), np.vstack(rows))
