# Copyright (c) mmext contributors. All rights reserved.
"""Small heads on a feature map's mean: an embedding, a domain."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _BatchNorm1d(nn.BatchNorm1d):
    """A batch of one has no statistics: then the running ones are used.

    ``nn.BatchNorm1d`` raises instead, which would end an epoch whose last
    batch is odd.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var,
                                self.weight, self.bias, False, 0., self.eps)
        return super().forward(x)


class ProjectionHead(nn.Sequential):
    """Mean over a map, linear, batch norm, ReLU, linear: an embedding.

    Args:
        in_channels (int): Of the map.
        hidden (int): Defaults to 512.
        out_channels (int): Size of the embedding. Defaults to 256.
    """

    def __init__(self,
                 in_channels: int,
                 hidden: int = 512,
                 out_channels: int = 256) -> None:
        super().__init__(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(in_channels, hidden), _BatchNorm1d(hidden), nn.ReLU(),
            nn.Linear(hidden, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels), in float32."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x if x.dtype ==
                                   torch.float64 else x.float())


class DomainClassifier(ProjectionHead):
    """The head of :class:`ProjectionHead` with log-probabilities of domains.

    Args:
        in_channels (int): Of the map.
        hidden (int): Defaults to 256.
        num_domains (int): Defaults to 2.
    """

    def __init__(self,
                 in_channels: int,
                 hidden: int = 256,
                 num_domains: int = 2) -> None:
        super().__init__(in_channels, hidden, num_domains)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, num_domains), log-probabilities."""
        return super().forward(x).log_softmax(dim=1)
