# Copyright (c) mmext contributors. All rights reserved.
"""Visual prompts: learnable values that are added to a normalised image."""
from typing import Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from mmext.registry import MODELS
from .functional import num_prompts, sparse_map


def _normal(shape: Tuple[int, ...], std: float, seed: Optional[int]) -> Tensor:
    """Draw from N(0, std^2) without touching the global generator."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return torch.randn(shape, generator=generator) * std


@MODELS.register_module()
class SparseVisualPrompt(BaseModule):
    """Prompt entries on a few pixels of the image (arXiv 2303.09792).

    ``x + M(P)``, where ``M`` puts the K entries of the parameter ``patch``,
    shape (K, C, 1, 1), on the positions given to :meth:`forward` and zero
    elsewhere. Entries are drawn from N(0, std^2) in normalised units (one
    unit is about 57 grey levels for the usual statistics).

    Args:
        size (tuple[int, int]): Height and width of the reference view, which
            fixes ``K = floor(h * w * sparse_rate)``.
        sparse_rate (float): Fraction of its pixels. Defaults to 1e-3.
        channels (int): Channels of the image. Defaults to 3.
        std (float): Standard deviation of the start values. Defaults to 1.0.
        seed (int, optional): Seed of the start values, independent of the
            global generator. Defaults to None, a fresh seed.

    Examples:
        >>> from mmext.models.prompts import SparseVisualPrompt
        >>> SparseVisualPrompt((540, 960), sparse_rate=1e-3).patch.shape
        torch.Size([518, 3, 1, 1])
    """

    def __init__(self,
                 size: Tuple[int, int],
                 sparse_rate: float = 1e-3,
                 channels: int = 3,
                 std: float = 1.,
                 seed: Optional[int] = None) -> None:
        super().__init__()
        count = num_prompts(size, sparse_rate)
        self.patch = nn.Parameter(_normal((count, channels, 1, 1), std, seed))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Add the prompt.

        Args:
            x (Tensor): Normalised images, shape (N, C, h, w).
            positions (Tensor): Flat positions, see
                :func:`~mmext.models.prompts.functional.place_prompts`.

        Returns:
            Tensor: Prompted images of the same shape.
        """
        return x + sparse_map(self.patch, positions, x.shape[-2:])


@MODELS.register_module()
class DenseVisualPrompt(BaseModule):
    """A prompt on every pixel: two full-size maps whose sum is added.

    Our reading of VDP (arXiv 2212.04145), whose sizes and rates for this
    task are not published: a domain-specific and a domain-agnostic map.

    Args:
        size (tuple[int, int]): Height and width of the maps; they are
            resized bilinearly to each view.
        channels (int): Channels of the image. Defaults to 3.
        std (float): Standard deviation of the start values; 0 starts from
            the unprompted model. Defaults to 0.0.
        seed (int, optional): Seed of the start values. Defaults to None.
    """

    def __init__(self,
                 size: Tuple[int, int],
                 channels: int = 3,
                 std: float = 0.,
                 seed: Optional[int] = None) -> None:
        super().__init__()
        start = _normal((2, channels, *size), std, seed)
        self.specific = nn.Parameter(start[0].clone())
        self.agnostic = nn.Parameter(start[1].clone())

    def forward(self, x: Tensor, flip: bool = False) -> Tensor:
        """Add the prompt, mirrored for a mirrored view.

        Args:
            x (Tensor): Normalised images, shape (N, C, h, w).
            flip (bool): Whether ``x`` is mirrored left-right.

        Returns:
            Tensor: Prompted images of the same shape.
        """
        dense = (self.specific + self.agnostic)[None]
        if dense.shape[-2:] != x.shape[-2:]:
            dense = F.interpolate(
                dense, size=x.shape[-2:], mode='bilinear', align_corners=False)
        return x + (dense.flip(-1) if flip else dense)
