# Copyright (c) mmext contributors. All rights reserved.
"""ACDC: driving scenes in fog, at night, in rain and in snow."""
from mmseg.datasets import CityscapesDataset

from mmext.registry import DATASETS
from .data_help import DataHelp
from .folder_checks import FolderChecks


@DATASETS.register_module()
class ACDCDataset(FolderChecks, CityscapesDataset):
    """ACDC, with the 19 classes of Cityscapes.

    ACDC (Sakaridis et al., ICCV 2021, arXiv 2104.13395) has four adverse
    conditions of 400 training images each, 1920x1080, under
    ``rgb_anon/CONDITION/SPLIT/SEQUENCE/*_rgb_anon.png`` with labels (training
    ids, 255 ignored) under ``gt/CONDITION/SPLIT/SEQUENCE/
    *_gt_labelTrainIds.png``. One data set is one condition and split. The
    order is that of the sorted file names.

    Args:
        img_suffix (str): Ending of the images.
            Defaults to ``'_rgb_anon.png'``.
        seg_map_suffix (str): Ending of the labels.
            Defaults to ``'_gt_labelTrainIds.png'``.
        **kwargs: See ``mmseg.datasets.BaseSegDataset``. Without a
            ``seg_map_path`` in ``data_prefix`` no label is needed.

    Raises:
        FileNotFoundError: When the list is read, if folders, images or
            labels are missing.

    Example:
        >>> fog = dict(
        ...     type='mmext.ACDCDataset',
        ...     data_root='data/acdc',
        ...     data_prefix=dict(
        ...         img_path='rgb_anon/fog/train',
        ...         seg_map_path='gt/fog/train'),
        ...     test_mode=True,
        ...     pipeline=test_pipeline)
    """
    data_name = 'ACDC'
    data_help = DataHelp(
        layout="""
acdc/                                        (data_root)
  rgb_anon/{fog,night,rain,snow}/train/SEQUENCE/*_rgb_anon.png
  gt/{fog,night,rain,snow}/train/SEQUENCE/*_gt_labelTrainIds.png""",
        source="""
Register at https://acdc.vision.ee.ethz.ch, download
rgb_anon_trainvaltest.zip and gt_trainval.zip, unpack both into data/acdc
(or set data_root of every domain to where they are).""")

    def __init__(self,
                 img_suffix: str = '_rgb_anon.png',
                 seg_map_suffix: str = '_gt_labelTrainIds.png',
                 **kwargs) -> None:
        super().__init__(
            img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)
