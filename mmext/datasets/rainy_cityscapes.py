# Copyright (c) mmext contributors. All rights reserved.
"""Rain Cityscapes: Cityscapes with rain and haze rendered from its depth."""
from mmseg.datasets import CityscapesDataset

from mmext.registry import DATASETS
from .data_help import DataHelp
from .folder_checks import FolderChecks


@DATASETS.register_module()
class RainyCityscapesDataset(FolderChecks, CityscapesDataset):
    """Rain Cityscapes (Hu et al., CVPR 2019, "Depth-attentional features for
    single-image rain removal").

    The release has every selected image with several rain patterns and
    strengths, all four of which are part of the file name. The labels are
    those of Cityscapes.

    Args:
        alpha (float): Attenuation coefficient of the rain. Defaults to 0.03.
        beta (float): Attenuation coefficient of the haze.
            Defaults to 0.015.
        dropsize (float): Size of the drops. Defaults to 0.002.
        pattern (int): Number of the rain pattern. Defaults to 12. With the
            other three defaults this is the choice of SVDP's code.
        seg_map_suffix (str): Ending of the labels.
            Defaults to ``'_gtFine_labelTrainIds.png'``.
        **kwargs: See ``mmseg.datasets.BaseSegDataset``.

    Raises:
        FileNotFoundError: When the list is read, if folders, images of these
            settings or labels are missing.

    Example:
        >>> rain = dict(
        ...     type='mmext.RainyCityscapesDataset',
        ...     data_root='data/cityscapes',
        ...     data_prefix=dict(
        ...         img_path='leftImg8bit_rain/val',
        ...         seg_map_path='gtFine/val'),
        ...     test_mode=True,
        ...     pipeline=test_pipeline)
    """
    data_name = 'Rain Cityscapes'
    data_help = DataHelp(
        layout="""
cityscapes/                                  (data_root)
  leftImg8bit_rain/val/CITY/*_leftImg8bit_rain_alpha_ALPHA_beta_BETA_
      dropsize_SIZE_pattern_NUMBER.png       (one file name)
  gtFine/val/CITY/*_gtFine_labelTrainIds.png
with the settings alpha, beta, dropsize and pattern""",
        source="""
Register at https://www.cityscapes-dataset.com, download
leftImg8bit_trainval_rain.zip and gtFine_trainvaltest.zip, unpack both into
data/cityscapes. Then make the labelTrainIds files:
pip install cityscapesscripts
CITYSCAPES_DATASET=data/cityscapes csCreateTrainIdLabelImgs""")

    def __init__(self,
                 alpha: float = 0.03,
                 beta: float = 0.015,
                 dropsize: float = 0.002,
                 pattern: int = 12,
                 seg_map_suffix: str = '_gtFine_labelTrainIds.png',
                 **kwargs) -> None:
        self.rain = dict(
            alpha=alpha, beta=beta, dropsize=dropsize, pattern=pattern)
        settings = '_'.join(f'{k}_{v}' for k, v in self.rain.items())
        kwargs.setdefault('img_suffix', f'_leftImg8bit_rain_{settings}.png')
        super().__init__(seg_map_suffix=seg_map_suffix, **kwargs)
