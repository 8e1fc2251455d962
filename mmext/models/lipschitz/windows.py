# Copyright (c) mmext contributors. All rights reserved.
"""Windows of a convolution as rows, a chunk of them at a time."""
from typing import Iterator, Sequence, Tuple

import torch.nn.functional as F
from torch import Tensor

from .geometry import Geometry


class Unfold:
    """Walks over the windows of an input in chunks, and back.

    Args:
        shape (Sequence[int]): Of the input, [B, C, H, W].
        kernel (Sequence[int]): Height and width of a window.
        geometry (Geometry): Stride, padding, dilation and groups.
        budget (int): Numbers that the windows of a chunk may have; a chunk
            is one row of the output at least.
    """

    def __init__(self, shape: Sequence[int], kernel: Sequence[int],
                 geometry: Geometry, budget: int) -> None:
        self.shape, self.kernel, self.geometry = shape, kernel, geometry
        self.out = geometry.output_size(shape[2:], kernel)
        row = self.out[1] * shape[1] * kernel[0] * kernel[1]
        images = budget // (row * self.out[0])
        self.images = max(images, 1)
        self.rows = self.out[0] if images else max(budget // row, 1)
        self.pointwise = geometry.is_pointwise(kernel)

    def chunks(self) -> Iterator[Tuple[slice, slice]]:
        """Images and rows of the output, chunk by chunk."""
        for b in range(0, self.shape[0], self.images):
            for r in range(0, self.out[0], self.rows):
                yield (slice(b, min(b + self.images, self.shape[0])),
                       slice(r, min(r + self.rows, self.out[0])))

    def _source(self, rows: slice) -> Tuple[slice, Tuple[int, int]]:
        """Input rows that some output rows see, and the zeros around."""
        step, pad = self.geometry.stride[0], self.geometry.padding[0]
        first = rows.start * step - pad
        last = ((rows.stop - 1) * step - pad + self.geometry.dilation[0] *
                (self.kernel[0] - 1) + 1)
        low, high = max(first, 0), max(min(last, self.shape[2]), 0)
        low = min(low, high)
        top = min(max(-first, 0), last - first)
        return slice(low, high), (top, last - first - top - (high - low))

    def gather(self, x: Tensor, batch: slice, rows: slice) -> Tensor:
        """Windows [G, R, K] of a chunk."""
        if self.pointwise:
            windows = x[batch, :, rows].flatten(2)
        else:
            source, (top, bottom) = self._source(rows)
            side = self.geometry.padding[1]
            part = F.pad(x[batch, :, source], (side, side, top, bottom))
            windows = F.unfold(
                part,
                tuple(self.kernel),
                dilation=self.geometry.dilation,
                stride=self.geometry.stride)
        return self._to_rows(windows)

    def _to_rows(self, windows: Tensor) -> Tensor:
        """[b, channels, L] to [G, b * L, channels / G]."""
        groups = self.geometry.groups
        windows = windows.unflatten(1, (groups, -1))
        return windows.permute(1, 0, 3, 2).flatten(1, 2)

    def outputs(self, y: Tensor, batch: slice, rows: slice) -> Tensor:
        """An output's chunk [b, Co, r, Wo] as [G, R, Co / G]."""
        return self._to_rows(y[batch, :, rows].flatten(2))

    def store(self, y: Tensor, values: Tensor, batch: slice,
              rows: slice) -> None:
        """Put [G, R, Co / G] into an output's chunk."""
        part = y[batch, :, rows]
        values = values.unflatten(1, (part.shape[0], -1)).permute(1, 0, 3, 2)
        part.copy_(values.reshape(part.shape))

    def scatter(self, grad: Tensor, windows: Tensor, batch: slice,
                rows: slice) -> None:
        """Add windows [G, R, K] to the pixels that they came from."""
        images = batch.stop - batch.start
        windows = windows.unflatten(1, (images, -1)).permute(1, 0, 3, 2)
        windows = windows.flatten(1, 2)
        if self.pointwise:
            part = grad[batch, :, rows]
            part += windows.reshape(part.shape)
            return
        source, (top, bottom) = self._source(rows)
        side = self.geometry.padding[1]
        height = source.stop - source.start
        folded = F.fold(
            windows, (height + top + bottom, self.shape[3] + 2 * side),
            tuple(self.kernel),
            dilation=self.geometry.dilation,
            stride=self.geometry.stride)
        grad[batch, :, source] += folded[:, :, top:top + height,
                                         side:side + self.shape[3]]
