# Copyright (c) mmext contributors. All rights reserved.
"""Five fine-grained data sets with the splits of the VPT project."""
import json
import os.path as osp
from typing import Dict, List, NamedTuple, Tuple, Union

from mmengine import fileio

from mmext.registry import DATASETS
from mmext.utils.user_error import BadFileError, ConfigError
from .data_help import classification_help, missing_data_error
from .listed_images import ListedImages


class _Task(NamedTuple):
    title: str
    num_classes: int
    folder: str  # below data_root
    images: str  # what the names in the lists are relative to


#: Task -> its data. The order is that of the labels in the joint setting.
FGVC_TASKS: Dict[str, _Task] = dict(
    cars=_Task('Stanford Cars', 196, 'StanfordCars', ''),
    cub=_Task('CUB-200-2011', 200, 'CUB_200_2011', 'images'),
    dogs=_Task('Stanford Dogs', 120, 'StanfordDogs', 'Images'),
    flowers=_Task('Oxford Flowers', 102, 'OxfordFlowers', ''),
    nabirds=_Task('NABirds', 555, 'nabirds', 'images'))

SPLITS = ('train', 'val', 'test')


@DATASETS.register_module()
class FGVCDataset(ListedImages):
    """CUB, NABirds, Flowers, Dogs or Cars as split by VPT (arXiv 2203.12119).

    A list is a JSON object, image name -> class id of the original data set.
    Labels are the positions of these ids in sorted order. They are taken
    from ``train.json`` for every split: in a list that lacks a class, its own
    order would shift all later labels.

    Args:
        task (str): ``'cars'``, ``'cub'``, ``'dogs'``, ``'flowers'`` or
            ``'nabirds'``.
        data_root (str): The folder of all five.
            Defaults to ``'data/fgvc'``.
        split (str): ``'train'``, ``'val'`` or ``'test'``.
            Defaults to ``'train'``.
        **kwargs: See ``mmpretrain.datasets.BaseDataset``.

    Raises:
        ConfigError: If there is no such task or split, or, when the list is
            read, if its classes are not those of the data set.
        FileNotFoundError: When the list is read, if it or its images are
            missing.

    Example:
        >>> dict(
        ...     type='mmext.FGVCDataset',
        ...     task='cub',
        ...     split='val',
        ...     pipeline=test_pipeline)
    """
    data_help = classification_help(
        layout="""
data/fgvc/                                   (data_root)
  FOLDER/{train,val,test}.json               {"NAME": CLASS ID, ...}
  CUB_200_2011/images/NAME
  nabirds/images/NAME
  StanfordDogs/Images/NAME
  StanfordCars/NAME
  OxfordFlowers/NAME""",
        source="""
Images, from the official pages:
  CUB      https://data.caltech.edu/records/65de6-vp158
  NABirds  https://dl.allaboutbirds.org/nabirds
  Dogs     http://vision.stanford.edu/aditya86/ImageNetDogs
  Flowers  https://www.robots.ox.ac.uk/~vgg/data/flowers
  Cars     https://ai.stanford.edu/~jkrause/cars/car_dataset.html
The lists train.json, val.json and test.json of the VPT project are linked
from https://github.com/KMnP/vpt (section "Datasets preperation").""")

    def __init__(self,
                 task: str,
                 data_root: str = 'data/fgvc',
                 split: str = 'train',
                 **kwargs) -> None:
        if task not in FGVC_TASKS:
            raise ConfigError(
                f'FGVCDataset expects task to be one of {list(FGVC_TASKS)}, '
                f'but got {task!r}.')
        if split not in SPLITS:
            raise ConfigError(f'FGVCDataset expects split to be one of '
                              f'{SPLITS}, but got {split!r}.')
        found = FGVC_TASKS[task]
        self.task = task
        self.split = split
        self.data_name = found.title
        super().__init__(
            num_classes=found.num_classes,
            data_root=data_root,
            ann_file=osp.join(found.folder, f'{split}.json'),
            data_prefix=osp.join(found.folder, found.images),
            **kwargs)

    def read_list(self) -> List[Tuple[str, int]]:
        """Name and label of each image.

        Raises:
            FileNotFoundError: If there is no ``train.json``.
            BadFileError: If a list is damaged, or the classes are not those
                of the data set.
        """
        train_list = osp.join(osp.dirname(self.ann_file), 'train.json')
        if not fileio.exists(train_list):
            raise missing_data_error(
                self.data_name,
                train_list,
                self.data_help,
                problem='lacks the list that numbers its classes')
        listed = _read(self.ann_file)
        known = listed if self.split == 'train' else _read(train_list)
        ids = sorted(set(known.values()))
        if len(ids) != self.num_classes:
            raise BadFileError(
                f'{self.data_name} has {self.num_classes} classes, but '
                f'{train_list} has {len(ids)}. Expected the lists of VPT for '
                'this data set.')
        label_of = {id_: label for label, id_ in enumerate(ids)}
        unknown = sorted(set(listed.values()) - set(ids), key=str)
        if unknown:
            raise BadFileError(
                f'{self.ann_file} has class ids that {train_list} lacks, '
                f'such as {unknown[:3]}. Expected lists of one origin.')
        return [(name, label_of[id_]) for name, id_ in listed.items()]


def _read(path: str) -> Dict[str, Union[int, str]]:
    """A list as VPT wrote it: class ids that are all numbers or all texts."""
    try:
        content = json.loads(fileio.get_text(path))
    except ValueError as error:  # of JSON, or of bytes that are no text
        raise BadFileError(f'{path}: expected a JSON object of image names '
                           f'and class ids, but it cannot be read: {error}. '
                           'Copy the list again.') from error
    if not isinstance(content, dict):
        raise BadFileError(
            f'{path}: expected a JSON object of image names and '
            f'class ids, but got a {type(content).__name__}.')
    kinds = sorted({type(id_).__name__ for id_ in content.values()})
    if len(kinds) > 1 or not set(kinds) <= {'int', 'str'}:
        raise BadFileError(
            f'{path}: expected class ids that are all whole numbers or all '
            f'texts, but got {" and ".join(kinds)}.')
    return content
