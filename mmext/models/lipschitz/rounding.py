# Copyright (c) mmext contributors. All rights reserved.
"""How far a distance net in floating point is from the ideal one.

A distance layer makes one subtraction per cell (absolute value, maximum and
comparison are exact) and one more per mean shift or bias. Every layer being
1-Lipschitz, such errors add up without growing:

    tau = 1.01 u sum_l (D_l + Y_l [+ Y'_l])

with ``u`` the unit round-off, ``D_l`` the largest distance of layer ``l``
and ``Y_l`` its largest value after mean shift (and ``Y'_l`` after the bias).
"""
import math
import threading
from typing import Any, List

import torch
from torch import Tensor

_ACTIVE = threading.local()


def unit_roundoff(dtype: torch.dtype) -> float:
    """Half the spacing of the numbers above one: 2^-24 for float32."""
    return torch.finfo(dtype).eps / 2


class RoundingTracker:
    """Collects what ``tau`` needs while a network runs.

    Layers report only inside the context, so nothing is paid outside. Each
    thread has its own; trackers may be nested, the inner one counts.

    Config example: none, it is used as::

        with RoundingTracker() as tracker:
            bounds = network(box)
        tau = tracker.tau()
    """

    def __init__(self) -> None:
        self._terms: List[Tensor] = []
        self._layers = 0
        self._dtype = None

    def __enter__(self) -> 'RoundingTracker':
        _trackers().append(self)
        return self

    def __exit__(self, *args: Any) -> None:
        _trackers().remove(self)

    def add(self, value: Any, factor: float = 1.) -> None:
        """Note the largest magnitude of each sample of a tensor or box."""
        # A box is a tuple of tensors or None; its ends bound its value.
        tensors = [value] if isinstance(value, Tensor) else list(value)[1:]
        largest = None
        for tensor in tensors:
            flat = tensor.detach().flatten(1)
            if flat.shape[1] == 0:
                continue
            top = torch.maximum(flat.amax(1), -flat.amin(1))
            largest = top if largest is None else torch.maximum(largest, top)
        if largest is not None:
            self._dtype = self._dtype or largest.dtype
            self._layers += factor
            self._terms.append(largest.double() * factor)

    def tau(self, eps: Any = 0., per_sample: bool = True) -> Tensor:
        """Bound of the error of each output, per sample.

        Args:
            eps (float | Tensor): For a pass at the centre of a ball: its
                radius, by which values may be larger elsewhere in it; one
                number or one per sample. 0 for a pass of a box, whose ends
                are seen. Defaults to 0.
            per_sample (bool): One number per sample, else one for the batch
                from the largest values of each layer. Defaults to True.

        Returns:
            Tensor: float64, shape (B, ), or () if not ``per_sample``.

        Raises:
            RuntimeError: If no layer reported, or layers of different
                batches did.
        """
        if not self._terms:
            raise RuntimeError(
                'no distance layer ran inside the RoundingTracker: run the '
                'network between `with RoundingTracker() as t:` and t.tau().')
        if len({len(term) for term in self._terms}) > 1:
            raise RuntimeError(
                'one RoundingTracker saw batches of different sizes; open a '
                'new one for each batch.')
        if per_sample:
            total = torch.stack(self._terms).sum(0)
        else:
            total = torch.stack([term.max() for term in self._terms]).sum()
        return 1.01 * unit_roundoff(self._dtype) * (total + self._layers * eps)


def _trackers() -> List[RoundingTracker]:
    if not hasattr(_ACTIVE, 'trackers'):
        _ACTIVE.trackers = []
    return _ACTIVE.trackers


def note(value: Any, factor: float = 1.) -> None:
    """Tell the innermost tracker, if any, of one rounded step.

    Args:
        value (Tensor | Bounds): Result of the step, batch first.
        factor (float): Roundings of that size in it. Defaults to 1.
    """
    trackers = _trackers()
    if trackers:
        trackers[-1].add(value, factor)


def note_average(value: Any, count: int) -> None:
    """Tell of a mean over ``count`` numbers: ``count`` roundings at most."""
    note(value, float(count))


def summation_error(terms: int) -> float:
    """gamma_n = n u / (1 - n u) of a float64 sum of ``n`` products."""
    product = (terms + 4) * unit_roundoff(torch.float64)
    return product / (1. - product) if product < 1. else math.inf
