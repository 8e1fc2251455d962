# Copyright (c) mmext contributors. All rights reserved.
"""Shape of a distance operator: every one is a 2-D convolution."""
from typing import NamedTuple, Sequence, Tuple

from torch import Tensor

Pair = Tuple[int, int]


class Geometry(NamedTuple):
    """How a kernel walks over its input.

    A linear operator is the convolution of a 1x1 image.

    Args:
        stride (tuple[int, int]): Step between windows, in pixels.
        padding (tuple[int, int]): Zeros added on each side, in pixels.
        dilation (tuple[int, int]): Step between the taps of a window.
        groups (int): Parts into which channels are split.
    """
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def output_size(self, size: Sequence[int], kernel: Sequence[int]) -> Pair:
        """Height and width of the output, at least 0.

        ``(H + 2 padding - dilation (k - 1) - 1) // stride + 1``.

        Args:
            size (Sequence[int]): Height and width of the input.
            kernel (Sequence[int]): Height and width of the kernel.

        Returns:
            tuple[int, int]: Height and width.
        """
        height, width = (
            max((size[i] + 2 * self.padding[i] - self.dilation[i] *
                 (kernel[i] - 1) - 1) // self.stride[i] + 1, 0)
            for i in range(2))
        return height, width

    def output_shape(self, x: Tensor,
                     weight: Tensor) -> Tuple[int, int, int, int]:
        """Shape [B, Co, Ho, Wo] of the output for an input and a weight."""
        return (x.shape[0], weight.shape[0],
                *self.output_size(x.shape[2:], weight.shape[2:]))

    def is_pointwise(self, kernel: Sequence[int]) -> bool:
        """Whether the windows are the pixels themselves."""
        return (tuple(kernel) == (1, 1) and self.stride == (1, 1)
                and self.padding == (0, 0))
