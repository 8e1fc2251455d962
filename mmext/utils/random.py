# Copyright (c) mmext contributors. All rights reserved.
"""A generator of its own for methods that draw random numbers.

Drawing from torch's global generator would tie a method's results to
whatever else draws from it, and could not be saved on its own.
"""
import math
from typing import Dict, Sequence

import torch
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
            parts.append(gaps.cumsum(0).long() + last)
            last = int(parts[-1][-1])
        index = torch.cat(parts)
        return index[index < numel]

    def state_dict(self) -> dict:
        """Seed and generator states."""
        return dict(
            seed=self.seed,
            generators={
                key: generator.get_state()
                for key, generator in self._generators.items()
            })

    def load_state_dict(self, state: dict) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.seed = state['seed']
        self._generators = {}
        for key, value in state['generators'].items():
            self.generator(torch.device(key)).set_state(value.cpu())

    def reset(self) -> None:
        """Start again from the seed."""
        self._generators = {}
