# Copyright (c) mmext contributors. All rights reserved.
"""A generator of its own for methods that draw random numbers.

Drawing from torch's global generator would tie a method's results to
whatever else draws from it, and could not be saved on its own.
"""
import logging
import math
from typing import Dict, Sequence

import torch
from mmengine.logging import print_log
from torch import Tensor


class RandomSource:
    """Seeded masks and index sets, on the device where they are used.

    One generator per device type; the same seed, device and order of calls
    give the same numbers.

    Args:
        seed (int): Seed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._generators: Dict[str, torch.Generator] = {}

    def generator(self, device: torch.device) -> torch.Generator:
        """The generator of a device, made on first use."""
        key = str(device)
        if key not in self._generators:
            self._generators[key] = torch.Generator(device).manual_seed(
                self.seed)
        return self._generators[key]

    def keep_mask(self, shape: Sequence[int], keep: float,
                  like: Tensor) -> Tensor:
        """A 0/1 mask in which each value is 1 with probability ``keep``.

        One half, the usual case, takes single bits of random integers: a
        CPU draws 31 values in the time of one.
        """
        generator, device = self.generator(like.device), like.device
        if keep != 0.5:
            return torch.empty(
                shape,
                device=device).uniform_(generator=generator).lt_(keep).to(
                    like.dtype)
        numel = math.prod(shape)
        bits = torch.empty(
            (numel + 30) // 31, 1, dtype=torch.int32,
            device=device).random_(generator=generator)
        shifts = torch.arange(31, dtype=torch.int32, device=device)
        mask = bits.bitwise_right_shift(shifts).bitwise_and_(1)
        return mask.flatten()[:numel].view(shape).to(like.dtype)

    def bernoulli_indices(self, name: str, numel: int, p: float,
                          device: torch.device) -> Tensor:
        """Flat indices, each of ``numel`` chosen independently with ``p``.

        The gaps between chosen indices are geometric, so about ``p * numel``
        numbers are drawn instead of ``numel``; the law is the same.

        Args:
            name (str): Who draws; unused here, so that a replay can find the
                recorded numbers.
            numel (int): Size of the range.
            p (float): Probability, in [0, 1].
            device (torch.device): Where the indices are wanted.

        Returns:
            Tensor: Ascending int64 indices.
        """
        if p <= 0 or numel == 0:
            return torch.empty(0, dtype=torch.long, device=device)
        if p >= 1:
            return torch.arange(numel, device=device)
        chunk = int(numel * p + 6 * math.sqrt(numel * p) + 16)
        parts, last = [], -1
        while last < numel:
            gaps = torch.empty(
                chunk, dtype=torch.float64, device=device).geometric_(
                    p, generator=self.generator(device))
            # Sums of integers are the same on every run, also on a GPU.
            gaps = gaps.clamp_(max=numel + 1).long()
            parts.append(gaps.cumsum(0) + last)
            last = int(parts[-1][-1])
        index = torch.cat(parts)
        return index[index < numel]

    def bernoulli_mask(self, name: str, shape: Sequence[int], p: float,
                       device: torch.device) -> Tensor:
        """A mask in which each value is true with probability ``p``.

        One number per value, unlike :meth:`bernoulli_indices`, but the host
        need not wait to hear how many are chosen.

        Args:
            name (str): Who draws; unused here.
            shape (Sequence[int]): Shape of the mask.
            p (float): Probability, in [0, 1]; a GPU rounds it to 24 bits.
            device (torch.device): Where the mask is wanted.

        Returns:
            Tensor: Booleans.
        """
        mask = torch.empty(shape, dtype=torch.bool, device=device)
        return mask.bernoulli_(p, generator=self.generator(device))

    def state_dict(self) -> dict:
        """Seed and generator states."""
        return dict(
            seed=self.seed,
            generators={
                key: generator.get_state()
                for key, generator in self._generators.items()
            })

    def load_state_dict(self, state: dict) -> None:
        """Restore what :meth:`state_dict` returned.

        A generator of a device that this machine lacks is left out, with a
        warning.
        """
        self.seed = state['seed']
        self._generators = {}
        for key, value in state['generators'].items():
            try:
                generator = self.generator(torch.device(key))
            except RuntimeError:
                print_log(
                    f'The random numbers of the checkpoint were drawn on '
                    f'{key}, which this machine does not have. They begin '
                    f'anew from the seed {self.seed}, so the run differs '
                    'from the one that it goes on with.',
                    logger='current',
                    level=logging.WARNING)
                continue
            generator.set_state(value.cpu())

    def reset(self) -> None:
        """Start again from the seed."""
        self._generators = {}
