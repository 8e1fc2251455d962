# Copyright (c) mmext contributors. All rights reserved.
"""A picture that puts the predictions of several methods side by side."""
from pathlib import Path
from typing import Dict, List

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings

from mmext.engine.loops.adaptation_report import prediction_path
from mmext.registry import DATASETS


def _text(picture: np.ndarray, text: str) -> np.ndarray:
    strip = np.full((18, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42,
                (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([strip, picture])


def colour(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Paint a label map (BGR); 255 stays black."""
    table = np.zeros((256, 3), np.uint8)
    table[:len(palette)] = palette[:, ::-1]
    return table[labels]


def write_contact_sheet(config: str,
                        options: dict,
                        folders: Dict[str, Path],
                        path: Path,
                        width: int = 256) -> None:
    """Write one row per domain: image, label, then every method.

    Args:
        config (str): A config of the comparison, for its data set.
        options (dict): Overrides of the config.
        folders (dict[str, Path]): Method -> work folder of a run with
            ``train_cfg.save_predictions=True``.
        path (Path): The PNG to write.
        width (int): Width of one picture in pixels. Defaults to 256.
    """
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    import_modules_from_strings(['mmext'])
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    stream = DATASETS.build(cfg.train_dataloader.dataset)
    palette = np.array(stream.metainfo['palette'], np.uint8)
    rows: List[np.ndarray] = []
    last = stream.rounds
    for visit in stream.visits:
        if visit.round != last or visit.start == visit.stop:
            continue
        # Late in the visit, when there has been time to adapt.
        info = stream.get_data_info(visit.start +
                                    (visit.stop - visit.start) * 4 // 5)
        image = cv2.imread(info['img_path'], cv2.IMREAD_COLOR)
        height = round(width * image.shape[0] / image.shape[1])
        size = (width, height)
        cells = [_text(cv2.resize(image, size), visit.domain)]
        label = cv2.imread(info['seg_map_path'], cv2.IMREAD_UNCHANGED)
        maps = {'label': label}
        for name, folder in folders.items():
            file = prediction_path(str(folder), visit, info['img_path'])
            maps[name] = cv2.imread(file, cv2.IMREAD_UNCHANGED)
            if maps[name] is None:
                raise FileNotFoundError(f'{file} is missing; run again with '
                                        'train_cfg.save_predictions=True.')
        for name, labels in maps.items():
            small = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
            cells.append(_text(colour(small, palette), name))
        rows.append(np.hstack(cells))
    cv2.imwrite(str(path), np.vstack(rows))
