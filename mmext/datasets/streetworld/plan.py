# Copyright (c) mmext contributors. All rights reserved.
"""Which towns and times make up a split, the same for files and memory."""
from typing import List, NamedTuple, Optional

from .classes import DOMAINS
from .textures import rng_of

#: First town of each part; no two parts share a town.
_FIRST = {'train': 0, 'val': 10000}
_DOMAIN_STEP = 20000
STRIDE = 3.7  # seconds between two frames of a town


class FrameSpec(NamedTuple):
    """One frame: its town, its time in seconds, its place in the split."""
    town: int
    t: float
    index: int

    @property
    def sequence(self) -> str:
        """str: Name of the town, also the folder it is written to."""
        return f'town{self.town:05d}'

    @property
    def name(self) -> str:
        """str: Name of the frame without an ending."""
        return f'{self.sequence}_{self.index:06d}_{round(self.t * 1000):07d}'


def plan(domain: str,
         split: str = 'val',
         frames: int = 100,
         per_town: Optional[int] = None,
         seed: int = 0) -> List[FrameSpec]:
    """The frames of a split, in order of the drive, town after town.

    Args:
        domain (str): One of ``DOMAINS``. Each domain has its own towns.
        split (str): 'train' or 'val'.
        frames (int): How many. Defaults to 100.
        per_town (int, optional): Frames in one town. Defaults to None: 12
            for clear training, 5 for clear validation, else 10.
        seed (int): Shifts all towns, for another world of the same kind.
            Defaults to 0.

    Returns:
        list[FrameSpec]: The frames.

    Raises:
        ValueError: If a name or number is not usable.
    """
    if domain not in DOMAINS:
        raise ValueError(f'unknown StreetWorld domain {domain!r}; choose '
                         f'from {", ".join(DOMAINS)}')
    if split not in _FIRST:
        raise ValueError(f"split must be 'train' or 'val', got {split!r}")
    if frames < 1 or (per_town is not None and per_town < 1):
        raise ValueError('frames and per_town must be at least 1, got '
                         f'{frames} and {per_town}')
    if per_town is None:
        per_town = 10 if domain != 'clear' else 12 if split == 'train' else 5
    first = _FIRST[split] + _DOMAIN_STEP * DOMAINS.index(domain)
    first += 1000000 * seed
    out = []
    for i in range(frames):
        town = first + i // per_town
        start = float(rng_of(town, 0x57a7).uniform(0, 60))
        out.append(FrameSpec(town, start + STRIDE * (i % per_town), i))
    return out
