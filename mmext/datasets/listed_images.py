# Copyright (c) mmext contributors. All rights reserved.
"""Classification data sets whose images and labels are named in a list."""
import os.path as osp
from abc import abstractmethod
from typing import Iterable, List, Tuple

from mmengine import fileio
from mmpretrain.datasets import BaseDataset

from mmext.utils.user_error import BadFileError
from .data_help import DataHelp, missing_data_error, unreadable_sample_error


class ListedImages(BaseDataset):
    """Base of the data sets that read a list of image names and labels.

    When the list is read it checks that list and images are there and that
    the labels fit the classes; when a sample is read and its pipeline fails,
    it adds the name of the file to the error. A derived class gives
    :meth:`read_list` and the two attributes.

    Args:
        num_classes (int): Labels are 0 to this minus 1. The names of the
            classes are these numbers, unless ``metainfo`` names them.
        **kwargs: See ``mmpretrain.datasets.BaseDataset``.

    Attributes:
        data_name (str): What the data set is called in messages.
        data_help (DataHelp): Its layout and where to get it.
    """
    data_name: str
    data_help: DataHelp

    def __init__(self, num_classes: int, **kwargs) -> None:
        self.num_classes = num_classes
        metainfo = dict(classes=tuple(map(str, range(num_classes))))
        metainfo.update(kwargs.pop('metainfo', None) or {})
        super().__init__(metainfo=metainfo, **kwargs)

    @abstractmethod
    def read_list(self) -> Iterable[Tuple[str, int]]:
        """Read the list.

        Returns:
            Iterable[tuple[str, int]]: Name of each image below
            ``data_prefix['img_path']``, and its label.
        """

    def load_data_list(self) -> List[dict]:
        """List the samples, in the order of the list.

        Returns:
            list[dict]: ``img_path`` and ``gt_label`` of each image.

        Raises:
            FileNotFoundError: If the list or its images are missing.
            BadFileError: If the list is damaged, or a label does not fit.
        """
        if not fileio.exists(self.ann_file):
            raise missing_data_error(self.data_name, self.ann_file,
                                     self.data_help)
        samples = []
        for name, label in self.read_list():
            if not 0 <= label < self.num_classes:
                raise BadFileError(
                    f'{self.data_name} has {self.num_classes} classes, but '
                    f'{name} has the label {label} in {self.ann_file}. Is '
                    'the list that of another data set?')
            samples.append(
                dict(img_path=osp.join(self.img_prefix, name), gt_label=label))
        # one image tells a missing folder; looking for all of a large test
        # set would take minutes on a network disk
        if not samples or not fileio.exists(samples[0]['img_path']):
            raise missing_data_error(
                self.data_name,
                samples[0]['img_path'] if samples else self.ann_file,
                self.data_help,
                problem='has no image of its list'
                if samples else 'has an empty list')
        return samples

    def prepare_data(self, idx: int) -> dict:
        """Run the pipeline on one sample.

        Args:
            idx (int): Index of the sample.

        Returns:
            dict: What the pipeline gives.

        Raises:
            UnreadableSampleError: If the pipeline fails; names the file and
                gives the original error, which is also its cause.
        """
        try:
            return super().prepare_data(idx)
        except Exception as error:
            path = self.get_data_info(idx)['img_path']
            raise unreadable_sample_error(self.data_name, idx, error,
                                          dict(image=path)) from error
