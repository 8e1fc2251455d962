# Copyright (c) mmext contributors. All rights reserved.
"""Clear errors for data sets that read pairs of files from folders."""
from typing import List

from mmengine import fileio

from .data_help import DataHelp, missing_data_error, unreadable_sample_error


class FolderChecks:
    """Mix-in for data sets derived from mmseg's ``BaseSegDataset``.

    Put it before the host's class. When the file list is read it checks that
    the folders are there, that there is at least one image, and that every
    image has its label; when a sample is read and its pipeline fails, it
    adds the names of the files to the error.

    A data set is labelled if its ``data_prefix`` has a ``seg_map_path``.

    Attributes:
        data_name (str): What the data set is called in messages.
        data_help (DataHelp): Its layout and where to get it.
    """
    data_name: str
    data_help: DataHelp

    def load_data_list(self) -> List[dict]:
        """List the samples, sorted by file name.

        Returns:
            list[dict]: Data infos as of the host's class.

        Raises:
            FileNotFoundError: If a folder is missing, holds no image, or
                images lack their labels.
        """
        image_dir = self.data_prefix.get('img_path') or ''
        label_dir = self.data_prefix.get('seg_map_path')
        for folder in (image_dir, label_dir):
            if folder is not None and not fileio.isdir(
                    folder, backend_args=self.backend_args):
                raise missing_data_error(self.data_name, folder,
                                         self.data_help)
        data_list = super().load_data_list()
        if not data_list:
            raise missing_data_error(
                self.data_name,
                image_dir,
                self.data_help,
                problem=f'has no file *{self.img_suffix}')
        if label_dir is not None:
            self._check_labels(data_list)
        return data_list

    def _check_labels(self, data_list: List[dict]) -> None:
        missing = [
            info['seg_map_path'] for info in data_list if not fileio.exists(
                info['seg_map_path'], backend_args=self.backend_args)
        ]
        if missing:
            raise missing_data_error(
                self.data_name,
                missing[:3],
                self.data_help,
                problem=f'lacks the labels of {len(missing)} of '
                f'{len(data_list)} images. Add them, or leave seg_map_path '
                'out of data_prefix and LoadAnnotations out of the pipeline '
                'to run without labels')

    def prepare_data(self, idx: int) -> dict:
        """Run the pipeline on one sample.

        Args:
            idx (int): Index of the sample.

        Returns:
            dict: What the pipeline gives.

        Raises:
            UnreadableSampleError: If the pipeline fails; names the files and
                gives the original error, which is also its cause.
        """
        try:
            return super().prepare_data(idx)
        except Exception as error:
            info = self.get_data_info(idx)
            raise unreadable_sample_error(
                self.data_name, idx, error,
                dict(
                    image=info.get('img_path'),
                    label=info.get('seg_map_path', 'none'))) from error
