# Copyright (c) mmext contributors. All rights reserved.
"""ELPV: defects of solar cells in electroluminescence images."""
from typing import Dict, Iterator, List, Tuple

from mmengine import list_from_file

from mmext.registry import DATASETS
from mmext.utils.user_error import BadFileError, ConfigError
from .data_help import DataHelp
from .listed_images import ListedImages
from .subset import stratified_order

_TYPES = ('mono', 'poly')
_LEVELS = ('0', '1/3', '2/3', '1')
#: Number of classes -> their names.
CLASSES: Dict[int, Tuple[str, ...]] = {
    2: ('functional', 'defective'),
    4: tuple(f'defect {level}' for level in _LEVELS),
    8: tuple(f'{cell} {level}' for cell in _TYPES for level in _LEVELS)
}
#: Split -> its part of the stratified order of all 2,624 cells.
SPLITS = dict(
    train=slice(0, 800),
    val=slice(800, 1000),
    trainval=slice(0, 1000),
    test=slice(1000, None))


@DATASETS.register_module()
class ELPVDataset(ListedImages):
    """2,624 grey photos of solar cells with a probability of a defect.

    Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective
    Solar Cells in Electroluminescence Imagery", EU PVSEC 2018; Deitsch et
    al., Solar Energy 185, 2019. 300x300 pixels; a probability of 0, 1/3,
    2/3 or 1; 1,074 monocrystalline and 1,550 polycrystalline cells. The data
    are CC BY-NC-SA 4.0 and come inside a Python package.

    There is no official split. Ours is as VTAB-1k's: 800 training, 200
    validation and 1,624 test images, drawn in the proportions of the eight
    classes, so that it is the same for every ``num_classes``.

    Args:
        num_classes (int): 2 (defective from a probability of 1/2), 4 (the
            probabilities) or 8 (these, by type of cell). Defaults to 2.
        data_root (str): Folder with ``labels.csv``. Defaults to
            ``'data/elpv/elpv_dataset/data'``, which is where the archive of
            the package puts it.
        split (str): ``'train'``, ``'val'``, ``'trainval'`` or ``'test'``.
            Defaults to ``'train'``.
        seed (int): Seed of the split. Defaults to 0.
        **kwargs: See ``mmpretrain.datasets.BaseDataset``.

    Raises:
        ConfigError: If there is no such split or number of classes.
        FileNotFoundError: When the list is read, if it or its images are
            missing.

    Example:
        >>> dict(
        ...     type='mmext.ELPVDataset',
        ...     num_classes=8,
        ...     split='test',
        ...     pipeline=test_pipeline)
    """
    data_name = 'ELPV'
    data_help = DataHelp(
        layout="""
data/elpv/elpv_dataset/data/                 (data_root)
  labels.csv                                 images/cell0001.png 1.0 mono
  images/cell0001.png""",
        source="""
It is in a package on PyPI (91 MB), which need not be installed:
pip download --no-deps --only-binary=:all: -d downloads elpv-dataset==1.0.0.post1
python -m zipfile -e downloads/elpv_dataset-1.0.0.post1-py3-none-any.whl data/elpv""",  # noqa: E501
        alternative='')

    def __init__(self,
                 num_classes: int = 2,
                 data_root: str = 'data/elpv/elpv_dataset/data',
                 split: str = 'train',
                 seed: int = 0,
                 **kwargs) -> None:
        if num_classes not in CLASSES:
            raise ConfigError('ELPVDataset expects num_classes to be one of '
                              f'{list(CLASSES)}, but got {num_classes!r}.')
        if split not in SPLITS:
            raise ConfigError(f'ELPVDataset expects split to be one of '
                              f'{list(SPLITS)}, but got {split!r}.')
        self.split = split
        self.seed = seed
        kwargs.setdefault('metainfo', dict(classes=CLASSES[num_classes]))
        super().__init__(
            num_classes=num_classes,
            data_root=data_root,
            ann_file='labels.csv',
            data_prefix='',
            **kwargs)

    def read_list(self) -> List[Tuple[str, int]]:
        """Name and label of each image of the split, in the file's order."""
        cells = list(self._cells())
        fine = [4 * cell + level for _, level, cell in cells]
        order = stratified_order(fine, self.seed)[SPLITS[self.split]]
        samples = []
        for index in sorted(order):
            name, level, _ = cells[index]
            label = {2: int(level >= 2), 4: level, 8: fine[index]}
            samples.append((name, label[self.num_classes]))
        return samples

    def _cells(self) -> Iterator[Tuple[str, int, int]]:
        """Name, level of the defect (0 to 3) and number of the type."""
        for number, line in enumerate(list_from_file(self.ann_file), 1):
            try:
                name, probability, cell = line.split()
                level = 3 * float(probability)
                if abs(level - round(level)) > 0.1 or not 0 <= level < 3.1:
                    raise ValueError
                yield name, round(level), _TYPES.index(cell)
            except ValueError:
                raise BadFileError(
                    f'{self.ann_file}, line {number}: expected an image, a '
                    "probability and a type, such as 'images/cell0001.png "
                    f"1.0 mono', but got {line!r}.") from None
