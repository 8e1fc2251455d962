# Copyright (c) mmext contributors. All rights reserved.
"""Samplers for ordered streams."""
from typing import Iterator, Optional, Sequence, Sized

from torch.utils.data import Sampler

from mmext.registry import DATA_SAMPLERS
from mmext.utils.user_error import ConfigError


@DATA_SAMPLERS.register_module()
class StreamSampler(Sampler):
    """Yield the indices of a stream in order, from a settable position.

    It never shuffles and never repeats a sample to fill up a rank or a
    batch, because an adapting model would learn from the repetition. A loop
    may set two attributes before it iterates: ``indices``, what this process
    is to visit (its share of the stream in a distributed run), and
    ``start``, how many of these were already consumed before a resume.

    Args:
        dataset (Sized): The stream, usually a
            :class:`~mmext.datasets.domain_sequence.DomainSequence`.
        shuffle (bool): Must be False; there so that a config written for
            ``DefaultSampler`` fails with an explanation. Defaults to False.
        seed (int, optional): Accepted because the Runner passes it to every
            sampler; unused. Defaults to None.

    Raises:
        ConfigError: If ``shuffle`` is True.

    Example:
        >>> train_dataloader = dict(
        ...     batch_size=1, num_workers=2,
        ...     sampler=dict(type='mmext.StreamSampler'), dataset=...)
    """

    def __init__(self,
                 dataset: Sized,
                 shuffle: bool = False,
                 seed: Optional[int] = None) -> None:
        if shuffle:
            raise ConfigError(
                'mmext.StreamSampler expects shuffle=False, but got '
                f'shuffle={shuffle!r}: adaptation follows the order of the '
                'stream. Remove the setting, or use DefaultSampler where '
                'the order does not matter.')
        self.dataset = dataset
        self.seed = seed
        self.indices: Sequence[int] = range(len(dataset))
        self.start = 0

    def __iter__(self) -> Iterator[int]:
        """Iterate over what is left of the stream."""
        return iter(self.indices[self.start:])

    def __len__(self) -> int:
        """Number of samples left from ``start`` on."""
        return max(0, len(self.indices) - self.start)

    def set_epoch(self, epoch: int) -> None:
        """The order is the same in every epoch; hooks may still call this."""
