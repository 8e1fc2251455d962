# Copyright (c) mmext contributors. All rights reserved.
"""VTAB-1k: nineteen tasks of 1000 training images each."""
from typing import Dict, Iterator, Tuple

from mmengine import list_from_file

from mmext.registry import DATASETS
from mmext.utils.user_error import BadFileError, ConfigError
from .data_help import classification_help
from .listed_images import ListedImages

#: Folder of each task -> number of classes, in the order of the benchmark:
#: seven natural, four specialised and eight structured tasks.
VTAB_TASKS: Dict[str, int] = dict(
    cifar=100,
    caltech101=102,
    dtd=47,
    oxford_flowers102=102,
    oxford_iiit_pet=37,
    svhn=10,
    sun397=397,
    patch_camelyon=2,
    eurosat=10,
    resisc45=45,
    diabetic_retinopathy=5,
    clevr_count=8,
    clevr_dist=6,
    dmlab=6,
    kitti=4,
    dsprites_loc=16,
    dsprites_ori=16,
    smallnorb_azi=18,
    smallnorb_ele=9)

SPLITS = ('train800', 'val200', 'train800val200', 'test')


@DATASETS.register_module()
class VTABDataset(ListedImages):
    """One task of VTAB-1k (Zhai et al., arXiv 1910.04867).

    1000 training images of which 200 serve to choose settings, tested on
    the full test set of the task. The layout is the common one of the
    adapter literature: a folder a task with four lists, each line
    ``images/SPLIT/NAME.jpg LABEL``.

    Args:
        task (str): The folder, a key of ``VTAB_TASKS``.
        data_root (str): The folder of all tasks.
            Defaults to ``'data/vtab-1k'``.
        split (str): ``'train800'``, ``'val200'``, ``'train800val200'`` or
            ``'test'``. Settings are chosen with the first two, final runs
            train on the third. Defaults to ``'train800val200'``.
        **kwargs: See ``mmpretrain.datasets.BaseDataset``.

    Raises:
        ConfigError: If there is no such task or split.
        FileNotFoundError: When the list is read, if it or its images are
            missing.

    Example:
        >>> dict(
        ...     type='mmext.VTABDataset',
        ...     task='dtd',
        ...     split='test',
        ...     pipeline=test_pipeline)
    """
    data_help = classification_help(
        layout="""
data/vtab-1k/                                (data_root)
  TASK/{train800,val200,train800val200,test}.txt
  TASK/images/{train800,val200,train800val200,test}/000000.jpg
one line of a list: images/train800/000000.jpg 7
TASK: """ + '\n'.join(', '.join(list(VTAB_TASKS)[i:i + 5])
                      for i in range(0, len(VTAB_TASKS), 5)),
        source="""
data/vtab-source/get_vtab1k.py of github.com/ZhangYuanhan-AI/NOAH writes this
layout from TensorFlow Datasets (some tasks ask for a manual download).
Several projects on adapters pass it on as an archive; unpack it into
data/vtab-1k (or set data_root).""")

    def __init__(self,
                 task: str,
                 data_root: str = 'data/vtab-1k',
                 split: str = 'train800val200',
                 **kwargs) -> None:
        if task not in VTAB_TASKS:
            raise ConfigError(
                f'VTABDataset expects task to be one of {list(VTAB_TASKS)}, '
                f'but got {task!r}.')
        if split not in SPLITS:
            raise ConfigError(f'VTABDataset expects split to be one of '
                              f'{SPLITS}, but got {split!r}.')
        self.task = task
        self.split = split
        self.data_name = f'VTAB-1k {task}'
        super().__init__(
            num_classes=VTAB_TASKS[task],
            data_root=data_root,
            ann_file=f'{task}/{split}.txt',
            data_prefix=task,
            **kwargs)

    def read_list(self) -> Iterator[Tuple[str, int]]:
        """Yield name and label of each line.

        Raises:
            BadFileError: If a line is not ``NAME LABEL``.
        """
        for number, line in enumerate(list_from_file(self.ann_file), 1):
            if not line.strip():
                continue
            name, _, label = line.strip().rpartition(' ')
            if not name or not label.isdigit():
                raise BadFileError(
                    f'{self.ann_file}, line {number}: expected an image and '
                    f"a label, such as 'images/test/000000.jpg 3', but got "
                    f'{line!r}.')
            yield name.strip(), int(label)
