# Copyright (c) mmext contributors. All rights reserved.
"""Foggy Cityscapes: Cityscapes with fog rendered from its depth."""
from mmseg.datasets import CityscapesDataset

from mmext.registry import DATASETS
from .data_help import DataHelp
from .folder_checks import FolderChecks


@DATASETS.register_module()
class FoggyCityscapesDataset(FolderChecks, CityscapesDataset):
    r"""Foggy Cityscapes (Sakaridis et al., IJCV 2018, arXiv 1708.07819).

    The image at depth d is attenuated by :math:`t = e^{-\beta d}`; the
    release has every image at :math:`\beta` = 0.005, 0.01 and 0.02 per
    metre (visibility of about 600, 300 and 150 m). The labels are those of
    Cityscapes.

    Args:
        beta (float): Attenuation coefficient in 1/m, which is part of the
            file name. Defaults to 0.01.
        seg_map_suffix (str): Ending of the labels.
            Defaults to ``'_gtFine_labelTrainIds.png'``.
        **kwargs: See ``mmseg.datasets.BaseSegDataset``.

    Raises:
        FileNotFoundError: When the list is read, if folders, images of this
            ``beta`` or labels are missing.

    Example:
        >>> fog = dict(
        ...     type='mmext.FoggyCityscapesDataset',
        ...     beta=0.02,
        ...     data_root='data/cityscapes',
        ...     data_prefix=dict(
        ...         img_path='leftImg8bit_foggy/val',
        ...         seg_map_path='gtFine/val'),
        ...     test_mode=True,
        ...     pipeline=test_pipeline)
    """
    data_name = 'Foggy Cityscapes'
    data_help = DataHelp(
        layout="""
cityscapes/                                  (data_root)
  leftImg8bit_foggy/val/CITY/*_leftImg8bit_foggy_beta_BETA.png
  gtFine/val/CITY/*_gtFine_labelTrainIds.png
with BETA one of 0.005, 0.01, 0.02 (the setting beta)""",
        source="""
Register at https://www.cityscapes-dataset.com, download
leftImg8bit_trainvaltest_foggy.zip and gtFine_trainvaltest.zip, unpack both
into data/cityscapes. Then make the labelTrainIds files:
pip install cityscapesscripts
CITYSCAPES_DATASET=data/cityscapes csCreateTrainIdLabelImgs""")

    def __init__(self,
                 beta: float = 0.01,
                 seg_map_suffix: str = '_gtFine_labelTrainIds.png',
                 **kwargs) -> None:
        self.beta = beta
        kwargs.setdefault('img_suffix', f'_leftImg8bit_foggy_beta_{beta}.png')
        super().__init__(seg_map_suffix=seg_map_suffix, **kwargs)
