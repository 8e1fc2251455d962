# Copyright (c) mmext contributors. All rights reserved.
"""Several classification data sets with one label space."""
from bisect import bisect_right
from itertools import accumulate
from typing import Any, Dict, List, Mapping, Sequence, Union

import numpy as np
from mmengine.dataset import force_full_init
from mmengine.registry import DATASETS as ROOT_DATASETS

from mmext.registry import DATASETS
from mmext.utils.user_error import ConfigError


@DATASETS.register_module()
class JointLabelDataset:
    r"""Data sets one after another; their classes follow one another, too.

    Class c of data set t becomes :math:`c + \sum_{s<t} C_s`. This is the
    multi-task setting of MoSA's code: five FGVC sets, Cars, CUB, Dogs,
    Flowers and NABirds with offsets 0, 196, 396, 516 and 618, under one
    classifier of 1173 outputs, which is told no task.

    Every data sample is tagged with the metainfo ``task``, the name of its
    data set.

    Args:
        datasets (Mapping[str, dict | Dataset]): Name -> config of a data set
            (or a built one), in the order of the labels. Each needs
            ``metainfo['classes']``.
        lazy_init (bool): Leave the data sets uninitialised until the first
            use or :meth:`full_init`. Defaults to False.

    Raises:
        ConfigError: If there is no data set or one has no classes.

    Example:
        >>> dataset = dict(
        ...     type='mmext.JointLabelDataset',
        ...     datasets=dict(
        ...         cars=dict(type='mmext.FGVCDataset', task='cars', ...),
        ...         cub=dict(type='mmext.FGVCDataset', task='cub', ...)))
    """

    def __init__(self,
                 datasets: Mapping[str, Union[dict, Any]],
                 lazy_init: bool = False) -> None:
        if not datasets:
            raise ConfigError(
                'JointLabelDataset expects at least one data set, but got '
                f'{datasets!r}. Give datasets=dict(NAME=dict(type=...), ...).')
        self.datasets: Dict[str, Any] = {
            str(name):
            ROOT_DATASETS.build(item) if isinstance(item, dict) else item
            for name, item in datasets.items()
        }
        self.tasks = list(self.datasets)
        classes = []
        for name, dataset in self.datasets.items():
            names = dataset.metainfo.get('classes')
            if not names:
                raise ConfigError(
                    'JointLabelDataset needs the classes of each data set, '
                    f'but {name!r} has none. Give it '
                    'metainfo=dict(classes=(...)).')
            classes.append([f'{name}/{c}' for c in names])
        self._offsets = [0, *accumulate(map(len, classes))]
        self._classes = tuple(c for part in classes for c in part)
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """The classes, each as ``'DATA SET/CLASS'``, and the tasks."""
        return dict(classes=self._classes, tasks=tuple(self.tasks))

    @property
    def CLASSES(self) -> Sequence[str]:
        """Names of the classes, as mmpretrain asks for them."""
        return self._classes

    @property
    def label_offsets(self) -> Dict[str, int]:
        """Data set -> the first of its labels."""
        return dict(zip(self.tasks, self._offsets))

    def full_init(self) -> None:
        """Read the lists of all data sets."""
        if self._fully_initialized:
            return
        for dataset in self.datasets.values():
            dataset.full_init()
        self._starts = [0, *accumulate(len(d) for d in self.datasets.values())]
        self._fully_initialized = True

    def _locate(self, idx: int) -> tuple:
        """Number of the data set and position in it."""
        if idx < 0:
            idx += len(self)
        if not 0 <= idx < len(self):
            raise IndexError(f'Expected an index below {len(self)}, the '
                             f'number of samples, but got {idx}.')
        part = bisect_right(self._starts, idx) - 1
        return part, idx - self._starts[part]

    @force_full_init
    def get_data_info(self, idx: int) -> dict:
        """Annotation of a sample, its ``gt_label`` in the joint space."""
        part, local = self._locate(idx)
        info = self.datasets[self.tasks[part]].get_data_info(local)
        return dict(
            info,
            gt_label=int(info['gt_label']) + self._offsets[part],
            task=self.tasks[part])

    @force_full_init
    def get_cat_ids(self, idx: int) -> List[int]:
        """Joint class of a sample, in a list."""
        return [self.get_data_info(idx)['gt_label']]

    @force_full_init
    def get_gt_labels(self) -> np.ndarray:
        """Joint classes of all samples."""
        return np.array(
            [self.get_data_info(i)['gt_label'] for i in range(len(self))])

    @force_full_init
    def __len__(self) -> int:
        return self._starts[-1]

    @force_full_init
    def __getitem__(self, idx: int) -> dict:
        part, local = self._locate(idx)
        item = self.datasets[self.tasks[part]][local]
        sample = item['data_samples']
        # a label is moved once: the pipeline makes a new sample each time
        sample.set_gt_label(sample.gt_label + self._offsets[part])
        sample.set_metainfo(dict(task=self.tasks[part]))
        return item

    def __repr__(self) -> str:
        parts = ', '.join(f'{name} from {offset}'
                          for name, offset in self.label_offsets.items())
        return (f'{type(self).__name__} of {len(self._classes)} classes '
                f'({parts})')
