# Copyright (c) mmext contributors. All rights reserved.
"""A part of a data set, drawn with a seed: few labels, or a held-out part."""
import copy
from typing import Any, List, Optional, Sequence, Union

import numpy as np
from mmengine.dataset import force_full_init
from mmengine.registry import DATASETS as ROOT_DATASETS

from mmext.registry import DATASETS
from mmext.utils.user_error import ConfigError


def stratified_order(labels: Sequence[int], seed: int = 0) -> np.ndarray:
    r"""Order samples so that every prefix has the classes in proportion.

    Each class is shuffled on its own; the sample of rank r among the
    :math:`n_c` of its class gets the key :math:`r / n_c`, and samples are
    sorted by it, the classes of equal keys in a shuffled order. So the first
    C samples hold each of the C classes once, any longer prefix has about the
    proportions of the whole, and a shorter prefix is part of a longer one.

    Args:
        labels (Sequence[int]): The class of each sample, shape (n, ).
        seed (int): Seed of the shuffles. A class keeps its own shuffle when
            other classes change. Defaults to 0.

    Returns:
        np.ndarray: A permutation of ``range(n)``, int64, shape (n, ).
    """
    labels = np.asarray(labels, dtype=np.int64)
    keys = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rng = np.random.default_rng((seed, int(label)))
        keys[rng.permutation(members)] = np.arange(len(members)) / len(members)
    classes, codes = np.unique(labels, return_inverse=True)
    tie_break = np.random.default_rng(seed).permutation(len(classes))
    return np.lexsort((tie_break[codes], keys))


@DATASETS.register_module()
class SubsetDataset:
    """A seeded, class-balanced part of another data set.

    The low-resource setting of MoSA (arXiv 2312.02923 names it; its lists are
    not published, so the draw is ours: :func:`stratified_order`). With one
    seed, 10 % are part of 25 %, and ``skip`` gives parts without a common
    sample, such as training and validation images of one split.

    Args:
        dataset (dict | Dataset): Config of the data set, or a built one. Its
            items need a ``gt_label``.
        fraction (float, optional): Share of the samples to keep, in (0, 1];
            the count is rounded, and at least one sample of each class is
            kept. Give this or ``num_samples``. Defaults to None.
        num_samples (int, optional): How many to keep. Defaults to None.
        skip (int): How many of the order to pass over first. Defaults to 0.
        seed (int): Seed of the draw; not the seed of the run. Defaults to 0.
        lazy_init (bool): Leave the data set uninitialised until the first
            use or :meth:`full_init`. Defaults to False.

    Raises:
        ConfigError: If not exactly one of ``fraction`` and ``num_samples`` is
            given, one is out of range, or the data set has too few samples.

    Example:
        >>> train_dataloader = dict(
        ...     dataset=dict(
        ...         type='mmext.SubsetDataset',
        ...         fraction=0.1,
        ...         dataset=dict(type='mmext.FGVCDataset', task='cub', ...)))
    """

    def __init__(self,
                 dataset: Union[dict, Any],
                 fraction: Optional[float] = None,
                 num_samples: Optional[int] = None,
                 skip: int = 0,
                 seed: int = 0,
                 lazy_init: bool = False) -> None:
        if (fraction is None) == (num_samples is None):
            raise ConfigError(
                'SubsetDataset expects one of fraction and num_samples, but '
                f'got fraction={fraction!r}, num_samples={num_samples!r}.')
        if fraction is not None and not 0 < fraction <= 1:
            raise ConfigError('SubsetDataset expects 0 < fraction <= 1, but '
                              f'got {fraction!r}.')
        if num_samples is not None and num_samples < 1:
            raise ConfigError('SubsetDataset expects num_samples >= 1, but '
                              f'got {num_samples!r}.')
        if skip < 0:
            raise ConfigError(f'SubsetDataset expects skip >= 0, but got '
                              f'{skip!r}.')
        self.fraction = fraction
        self.num_samples = num_samples
        self.skip = skip
        self.seed = seed
        self.dataset = ROOT_DATASETS.build(dataset) if isinstance(
            dataset, dict) else dataset
        self._metainfo = self.dataset.metainfo
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """Meta information of the whole data set (a copy)."""
        return copy.deepcopy(self._metainfo)

    @property
    def CLASSES(self) -> Optional[Sequence[str]]:
        """Names of the classes, as mmpretrain asks for them."""
        return self._metainfo.get('classes')

    def full_init(self) -> None:
        """Read the list of the data set and draw the part.

        Raises:
            ConfigError: If the data set has too few samples.
        """
        if self._fully_initialized:
            return
        self.dataset.full_init()
        labels = [self._label(i) for i in range(len(self.dataset))]
        wanted = self.num_samples
        if wanted is None:
            wanted = max(round(self.fraction * len(labels)), len(set(labels)))
        if self.skip + wanted > len(labels):
            raise ConfigError(
                f'SubsetDataset wants {wanted} samples after the first '
                f'{self.skip}, but the data set has {len(labels)}. Lower '
                'num_samples, fraction or skip.')
        order = stratified_order(labels, self.seed)
        # in the order of the data set: what a prefix holds is what counts
        self.indices = sorted(
            int(i) for i in order[self.skip:self.skip + wanted])
        self._fully_initialized = True

    def _label(self, index: int) -> int:
        label = self.dataset.get_data_info(index)['gt_label']
        if np.ndim(label) != 0:
            raise ConfigError(
                'SubsetDataset expects one label an image, but sample '
                f'{index} has gt_label={label!r}.')
        return int(label)

    @force_full_init
    def get_data_info(self, idx: int) -> dict:
        """Annotation of the ``idx``-th sample of the part."""
        return self.dataset.get_data_info(self.indices[idx])

    @force_full_init
    def get_cat_ids(self, idx: int) -> List[int]:
        """Class of the ``idx``-th sample, in a list."""
        return [self._label(self.indices[idx])]

    @force_full_init
    def get_gt_labels(self) -> np.ndarray:
        """Classes of all samples of the part."""
        return np.array([self._label(i) for i in self.indices])

    @force_full_init
    def __len__(self) -> int:
        return len(self.indices)

    @force_full_init
    def __getitem__(self, idx: int) -> dict:
        return self.dataset[self.indices[idx]]

    def __repr__(self) -> str:
        part = f'fraction={self.fraction}' if self.fraction is not None \
            else f'num_samples={self.num_samples}'
        return (f'{type(self).__name__}({part}, skip={self.skip}, '
                f'seed={self.seed}) of\n{self.dataset!r}')
