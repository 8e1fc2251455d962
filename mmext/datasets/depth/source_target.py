# Copyright (c) mmext contributors. All rights reserved.
"""Pairs of a source and a target sample for unsupervised adaptation."""
from typing import Any, Iterator, Optional, Tuple, Union

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Dataset, Sampler

from mmext.registry import DATA_SAMPLERS, DATASETS, register_depth
from mmext.utils.user_error import ConfigError

LENGTHS = ('shorter', 'longer')


@register_depth(DATASETS)
class SourceTargetDataset(Dataset):
    """Two data sets side by side: labelled source, unlabelled target.

    A sample is ``dict(inputs=dict(source=..., target=...),
    data_samples=dict(source=..., target=...))`` of whatever the pipelines of
    both give. Use :class:`SourceTargetSampler` with it, which pairs anew in
    every epoch; an index ``i`` of any other sampler gives samples ``i`` of
    both (modulo their lengths), so that of the longer set only the first
    samples would be seen.

    Args:
        source (dict or Dataset): The source.
        target (dict or Dataset): The target.
        length (str): An epoch is as long as the 'shorter' or the 'longer'
            set; the shorter one is then repeated. Defaults to 'shorter', as
            the authors zip their loaders.

    Raises:
        ConfigError: If a set is empty or ``length`` unknown.

    Example:
        >>> train_dataloader = dict(
        ...     batch_size=8,
        ...     sampler=dict(type='mmext.SourceTargetSampler'),
        ...     dataset=dict(
        ...         type='mmext.SourceTargetDataset',
        ...         source=dict(type='mmext.VKITTI2Dataset', ...),
        ...         target=dict(type='mmext.KITTIDepthDataset', ...)))
    """

    parts = ('source', 'target')

    def __init__(self,
                 source: Union[dict, Dataset],
                 target: Union[dict, Dataset],
                 length: str = 'shorter') -> None:
        if length not in LENGTHS:
            raise ConfigError(
                f'Expected a length of {LENGTHS}, but got {length!r}.')
        self.source, self.target = (
            DATASETS.build(one) if isinstance(one, dict) else one
            for one in (source, target))
        self.length = length
        self.lengths = (len(self.source), len(self.target))
        if not min(self.lengths):
            raise ConfigError('Expected samples in source and target, but '
                              f'they have {self.lengths}.')

    @property
    def metainfo(self) -> dict:
        """dict: That of the source."""
        return getattr(self.source, 'metainfo', {})

    def full_init(self) -> None:
        """Read the lists of both, as mmengine asks data sets to."""
        for one in (self.source, self.target):
            if hasattr(one, 'full_init'):
                one.full_init()

    def __len__(self) -> int:
        return min(self.lengths) if self.length == 'shorter' else \
            max(self.lengths)

    def pair(self, idx: Union[int, Tuple[int, int]]) -> Tuple[int, int]:
        """Indices into source and target."""
        if isinstance(idx, (tuple, list)):
            return int(idx[0]), int(idx[1])
        return idx % self.lengths[0], idx % self.lengths[1]

    def __getitem__(self, idx: Union[int, Tuple[int, int]]) -> dict:
        samples = [
            one[i]
            for one, i in zip((self.source, self.target), self.pair(idx))
        ]
        keys = [key for key in samples[0] if key in samples[1]]
        return {
            key: {
                name: one[key]
                for name, one in zip(self.parts, samples)
            }
            for key in keys
        }

    def get_data_info(self, idx: Union[int, Tuple[int, int]]) -> dict:
        """Items of both, by 'source' and 'target'."""
        return {
            name: one.get_data_info(i)
            for name, one, i in zip(self.parts, (self.source,
                                                 self.target), self.pair(idx))
        }


@register_depth(DATA_SAMPLERS)
class SourceTargetSampler(Sampler):
    """Shuffle source and target apart, and pair them, anew every epoch.

    The pairs depend on seed and epoch only: a resumed run goes on with the
    same ones, in any number of workers.

    Args:
        dataset (SourceTargetDataset): The pairs.
        shuffle (bool): Whether to shuffle. Defaults to True.
        seed (int, optional): Defaults to None, one that all processes
            share.
        round_up (bool): Repeat pairs so that all processes have as many.
            Defaults to True.
    """

    def __init__(self,
                 dataset: Any,
                 shuffle: bool = True,
                 seed: Optional[int] = None,
                 round_up: bool = True) -> None:
        if not hasattr(dataset, 'lengths'):
            raise ConfigError(
                'SourceTargetSampler is for mmext.SourceTargetDataset, but '
                f'got {type(dataset).__name__}. Use DefaultSampler.')
        self.rank, self.world = get_dist_info()
        self.dataset, self.shuffle = dataset, shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        size = len(dataset)
        if round_up:
            self.total = -(-size // self.world) * self.world
        else:
            self.total = size
        self.count = len(range(self.rank, self.total, self.world))

    def _order(self, length: int, generator: torch.Generator,
               size: int) -> list:
        """``size`` indices below ``length``, each as often as possible."""
        order: list = []
        while len(order) < size:
            order += torch.randperm(length, generator=generator).tolist() \
                if self.shuffle else list(range(length))
        return order[:size]

    def __iter__(self) -> Iterator[Tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        size = len(self.dataset)
        orders = [
            self._order(length, generator, size)
            for length in self.dataset.lengths
        ]
        pairs = list(zip(*orders))
        pairs = (pairs * (self.total // size + 1))[:self.total]
        return iter(pairs[self.rank::self.world])

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        """Called by the loop before every epoch."""
        self.epoch = epoch
