# Copyright (c) mmext contributors. All rights reserved.
"""DPT's decoder: tokens to maps, four levels to one."""
from typing import List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmext.registry import MODELS, register_depth
from mmext.utils.user_error import ConfigError

Level = Union[Tensor, Sequence[Tensor]]


class ReassembleLevel(nn.Module):
    r"""Tokens of one block to a map of another size.

    The class token joins every other one ('project', with
    :math:`GELU(W [t_i; t_{cls}] + b)`, or 'add') or is left out ('ignore');
    a 1x1 convolution sets the width, and a transposed convolution (factor
    2, 4, ...), nothing (1) or a 3x3 convolution (0.5, 0.25, ...) the size.

    Args:
        in_channels (int): Width of the tokens.
        out_channels (int): Width of the map.
        factor (float): Size of the map over that of the token grid.
        readout (str): 'project', 'add' or 'ignore'. Defaults to 'project'.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int,
                 factor: float = 1,
                 readout: str = 'project') -> None:
        super().__init__()
        if readout not in ('project', 'add', 'ignore'):
            raise ConfigError("Expected readout to be 'project', 'add' or "
                              f"'ignore', but got {readout!r}.")
        stride = factor if factor >= 1 else 1 / factor
        if factor <= 0 or stride != int(stride):
            raise ConfigError(
                'Expected factors to be whole numbers or one over a whole '
                f'number, such as 4, 2, 1 and 0.5, but got {factor}.')
        stride = int(stride)
        self.readout = readout
        self.project = nn.Linear(2 * in_channels, in_channels) \
            if readout == 'project' else None
        self.width = nn.Conv2d(in_channels, out_channels, 1)
        self.resample: nn.Module = nn.Identity()
        if factor > 1:
            self.resample = nn.ConvTranspose2d(out_channels, out_channels,
                                               stride, stride)
        elif factor < 1:
            self.resample = nn.Conv2d(
                out_channels, out_channels, 3, stride, padding=1)

    def forward(self, level: Level) -> Tensor:
        """Reassemble.

        Args:
            level (Tensor or tuple): A map (B, C, h, w), or a pair of the
                map and its class token (B, C).

        Returns:
            Tensor: (B, out_channels, factor * h, factor * w).

        Raises:
            ConfigError: If the readout needs a class token and there is
                none.
        """
        if isinstance(level, Tensor):
            x, token = level, None
        else:
            x, token = level
        if token is None and self.readout != 'ignore':
            raise ConfigError(
                f'readout={self.readout!r} needs the class token, but the '
                'backbone gives maps only. Make it output the token (mmseg: '
                "output_cls_token=True), or set readout='ignore'.")
        if self.readout == 'add':
            x = x + token[:, :, None, None]
        elif self.readout == 'project':
            # one linear map of the pair, so that its weight is one matrix
            token = token[:, :, None, None].expand_as(x)
            pair = torch.cat([x, token], dim=1).movedim(1, -1)
            x = F.gelu(self.project(pair)).movedim(-1, 1)
        return self.resample(self.width(x))


@register_depth(MODELS)
class DPTReassemble(BaseModule):
    """:class:`ReassembleLevel` for those levels that are tokens.

    Args:
        in_channels (Sequence[int]): Of the levels, finest first.
        out_channels (Sequence[int]): After it.
        factors (Sequence[float or None]): Size after over size before; None
            passes a level through. Defaults to (None, None, 1, 0.5), for
            :class:`DPTHybrid`; a plain ViT with four blocks read takes
            (4, 2, 1, 0.5).
        readout (str): Use of the class token: 'project', 'add' or
            'ignore'. Defaults to 'project'.
        init_cfg (dict or list, optional): Initialisation.

    Example:
        >>> reassemble = dict(
        ...     type='mmext.DPTReassemble',
        ...     in_channels=(768, 768, 768, 768),
        ...     out_channels=(96, 192, 384, 768),
        ...     factors=(4, 2, 1, 0.5),
        ...     readout='ignore')
    """

    def __init__(self,
                 in_channels: Sequence[int],
                 out_channels: Sequence[int],
                 factors: Sequence[Optional[float]] = (None, None, 1, 0.5),
                 readout: str = 'project',
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        if not len(in_channels) == len(out_channels) == len(factors):
            raise ConfigError(
                'Expected as many in_channels as out_channels and factors, '
                f'but got {tuple(in_channels)}, {tuple(out_channels)} and '
                f'{tuple(factors)}.')
        self.out_channels = tuple(source if factor is None else target
                                  for source, target, factor in zip(
                                      in_channels, out_channels, factors))
        self.levels = nn.ModuleList(
            nn.Identity() if factor is
            None else ReassembleLevel(source, target, factor, readout)
            for source, target, factor in zip(in_channels, out_channels,
                                              factors))

    def forward(self, levels: Sequence[Level]) -> List[Tensor]:
        """Reassemble every level.

        Args:
            levels (Sequence): Maps, or pairs of map and class token.

        Returns:
            list[Tensor]: Maps.
        """
        return [module(level) for module, level in zip(self.levels, levels)]


class ResidualConvUnit(nn.Module):
    r""":math:`x + conv_3(ReLU(conv_3(ReLU(x))))`, with biases, no norm.

    Args:
        channels (int): Width.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        # Not in place: x is a tapped feature.
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class FeatureFusion(nn.Module):
    """Join a coarse path with a level and double the size.

    ``a + RCU1(b)`` if there is a level ``b``, then RCU2, x2 bilinear with
    ``align_corners=True``, and a 1x1 convolution with bias.

    Args:
        channels (int): Width.
        lateral (bool): Whether a level joins. If not, the first unit is
            there for the sake of published weights but does not train.
            Defaults to True.
    """

    def __init__(self, channels: int, lateral: bool = True) -> None:
        super().__init__()
        self.unit1 = ResidualConvUnit(channels)
        self.unit1.requires_grad_(lateral)
        self.unit2 = ResidualConvUnit(channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, level: Optional[Tensor] = None) -> Tensor:
        """Fuse.

        Args:
            x (Tensor): The coarser path (B, C, H, W).
            level (Tensor, optional): (B, C, H, W).

        Returns:
            Tensor: (B, C, 2 * H, 2 * W).
        """
        if level is not None:
            if x.shape[2:] != level.shape[2:]:
                # Backbones whose levels are not halves of each other.
                x = F.interpolate(
                    x,
                    size=level.shape[2:],
                    mode='bilinear',
                    align_corners=True)
            x = x + self.unit1(level)
        x = F.interpolate(
            self.unit2(x), scale_factor=2, mode='bilinear', align_corners=True)
        return self.out(x)


class DPTDecoder(BaseModule):
    """Four levels to the paths of DPT.

    The levels become maps (:class:`DPTReassemble`, if there is one), get
    the same width by 3x3 convolutions without bias, and are fused from the
    coarsest to the finest. ``layer_1`` ... ``layer_4`` (maps) and
    ``path_1`` ... ``path_4`` (fusions) are modules, so that a
    ``FeatureTap`` may read them by name.

    Args:
        in_channels (Sequence[int]): Of the levels, finest first.
        channels (int): Width of the paths. Defaults to 256.
        reassemble (dict, optional): Config of :class:`DPTReassemble`
            without ``in_channels``; None if all levels are maps.
        init_cfg (dict or list, optional): Initialisation.
    """

    def __init__(self,
                 in_channels: Sequence[int],
                 channels: int = 256,
                 reassemble: Optional[dict] = None,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        if len(in_channels) != 4:
            raise ConfigError('Expected in_channels of four levels, finest '
                              f'first, but got {tuple(in_channels)}.')
        self.in_channels, self.channels = tuple(in_channels), channels
        self.reassemble: Optional[nn.Module] = None
        widths = self.in_channels
        if reassemble is not None:
            self.reassemble = MODELS.build(
                dict(
                    dict(type='mmext.DPTReassemble', in_channels=in_channels),
                    **reassemble))
            widths = self.reassemble.out_channels
        for index, width in enumerate(widths, 1):
            self.add_module(f'layer_{index}', nn.Identity())
            self.add_module(f'path_{index}', nn.Identity())
            self.add_module(
                f'reduce_{index}',
                nn.Conv2d(width, channels, 3, padding=1, bias=False))
            self.add_module(f'fusion_{index}',
                            FeatureFusion(channels, lateral=index < 4))

    def decode(self, levels: Sequence[Level]) -> Tuple[Tensor, ...]:
        """Compute all paths.

        Args:
            levels (Sequence): Four maps, or pairs of map and class token,
                finest first.

        Returns:
            tuple[Tensor]: path_1 (finest) to path_4, (B, channels, ., .).

        Raises:
            ConfigError: If the levels are not what in_channels says.
        """
        maps = list(levels)
        if self.reassemble is not None:
            maps = self.reassemble(maps)
        self._check(maps)
        maps = [
            getattr(self, f'layer_{index}')(one)
            for index, one in enumerate(maps, 1)
        ]
        maps = [
            getattr(self, f'reduce_{index}')(one)
            for index, one in enumerate(maps, 1)
        ]
        paths: List[Tensor] = []
        for index in (4, 3, 2, 1):
            fusion = getattr(self, f'fusion_{index}')
            out = fusion(paths[-1], maps[index - 1]) if paths else \
                fusion(maps[index - 1])
            paths.append(getattr(self, f'path_{index}')(out))
        return tuple(paths[::-1])

    def _check(self, maps: Sequence[Level]) -> None:
        given = [
            one.size(1) if isinstance(one, Tensor) else 'a class token'
            for one in maps
        ]
        expected = [
            getattr(self, f'reduce_{index}').in_channels
            for index in range(1, 5)
        ]
        if given != expected:
            raise ConfigError(
                f'Expected four levels with {expected} channels, but the '
                f'backbone gives {given}. Set in_channels of the head to '
                "those of the backbone; tokens need the head's reassemble.")
