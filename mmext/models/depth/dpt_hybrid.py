# Copyright (c) mmext contributors. All rights reserved.
"""timm's ResNet-ViT hybrid as a backbone with four levels."""
import logging
from functools import partial
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmext.registry import MODELS, register_depth
from mmext.utils.dependency import require
from mmext.utils.user_error import ConfigError

# A level: a map, or the map of a block's tokens with their class token.
Level = Union[Tensor, Tuple[Tensor, Tensor]]

# eps of the weight standardisation: of the published ImageNet weights, and
# of a stem that starts from random weights (the default of the library).
PRETRAINED_EPS, FRESH_EPS = 1e-8, 1e-6


def resize_pos_embed(pos_embed: Tensor, old: Tuple[int, int],
                     new: Tuple[int, int]) -> Tensor:
    """Fit a position embedding to another grid of tokens.

    The entry of the class token stays; the grid is resized bilinearly
    (``align_corners=False``, no anti-aliasing), as DPT does.

    Args:
        pos_embed (Tensor): (1, 1 + old[0] * old[1], C).
        old (tuple[int]): Rows and columns that it has.
        new (tuple[int]): Rows and columns that it shall have.

    Returns:
        Tensor: (1, 1 + new[0] * new[1], C).
    """
    # not timm's, whose older versions mistake a grid of as many tokens in
    # other rows and columns for the same one
    grid = pos_embed[:, 1:].transpose(1, 2).unflatten(2, old)
    grid = F.interpolate(grid, size=new, mode='bilinear', align_corners=False)
    return torch.cat(
        [pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


@register_depth(MODELS)
class DPTHybrid(BaseModule):
    """The backbone of DPT-Hybrid: three ResNet stages, then a ViT.

    It is timm's ``vit_base_r50_s16_384``: a ResNetV2 with GroupNorm and
    weight-standardised convolutions with SAME padding, whose third stage is
    embedded as tokens. A plug for spikes is the number of input channels:
    128 moments instead of RGB change the first convolution only.

    The levels, for an input of h x w:

    - 1 and 2: outputs of the first two ResNet stages, (B, 256, h/4, w/4)
      and (B, 512, h/8, w/8);
    - 3 and 4: tokens after the blocks ``out_indices``, as pairs of the map
      (B, 768, h/16, w/16) and the class token (B, 768), as mmseg's
      ``VisionTransformer(output_cls_token=True)`` gives them. Their readout
      is up to :class:`~mmext.models.depth.DPTReassemble`.

    The final LayerNorm is part of the published weights but of no level, so
    it does not train, and neither do blocks after the last one that is read.

    Args:
        arch (str | dict): 'base', 'tiny' or a dict of the keys below.
            Defaults to 'base'.

            - **embed_dims** (int): Width of the tokens.
            - **num_layers** (int): Transformer blocks.
            - **num_heads** (int): Heads of the attention.
            - **stem_channels** (int): Width of the stem.
            - **stage_channels** (Sequence[int]): Of the three stages.
            - **stage_blocks** (Sequence[int]): Bottlenecks of each.
            - **norm_groups** (int): Groups of every GroupNorm.
            - **out_indices** (Sequence[int]): The two blocks that are read.
        in_channels (int): 3 for RGB, else the number of spike moments.
            Defaults to 3.
        img_size (int | tuple[int]): Height and width that the position
            embedding has entries for; other inputs resize it.
            Defaults to 384.
        out_indices (Sequence[int], optional): Instead of the ones of
            ``arch``.
        stem_eps (float, optional): eps of the first convolution's weight
            standardisation. Defaults to 1e-8 for 3 channels, the eps of the
            published weights, and to 1e-6 for others.
        drop_path_rate (float): Stochastic depth of the blocks.
            Defaults to 0.
        init_cfg (dict or list, optional): Initialisation, such as
            ``dict(type='Pretrained', checkpoint=FILE, prefix='backbone.')``
            with a file from ``tools/model_converters/dpt_to_mmext.py``.

    Raises:
        ImportError: If timm is not installed.
        ConfigError: If the architecture is unknown or incomplete.

    Example:
        >>> backbone = dict(type='mmext.DPTHybrid', in_channels=128)
        >>> tiny = dict(type='mmext.DPTHybrid', arch='tiny', img_size=96)
    """

    #: Sides of the input must be multiples of it.
    size_divisor = 32
    #: Name of the first convolution's weight within the backbone.
    stem_key = 'vit.patch_embed.backbone.stem.conv.weight'
    arch_zoo: Dict[str, Dict[str, Any]] = {
        'base':
        dict(
            embed_dims=768,
            num_layers=12,
            num_heads=12,
            stem_channels=64,
            stage_channels=(256, 512, 1024),
            stage_blocks=(3, 4, 9),
            norm_groups=32,
            out_indices=(8, 11)),
        'tiny':
        dict(
            embed_dims=64,
            num_layers=4,
            num_heads=4,
            stem_channels=16,
            stage_channels=(32, 64, 96),
            stage_blocks=(1, 1, 1),
            norm_groups=8,
            out_indices=(1, 3)),
    }

    def __init__(self,
                 arch: Union[str, dict] = 'base',
                 in_channels: int = 3,
                 img_size: Union[int, Sequence[int]] = 384,
                 out_indices: Optional[Sequence[int]] = None,
                 stem_eps: Optional[float] = None,
                 drop_path_rate: float = 0.,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        settings = self._settings(arch)
        self.out_indices = tuple(out_indices or settings['out_indices'])
        self._check_indices(settings['num_layers'])
        height, width = (img_size, img_size) if isinstance(
            img_size, int) else tuple(img_size)
        self._check_size(height, width)
        self.grid_size = (height // 16, width // 16)
        self.out_channels = (*settings['stage_channels'][:2],
                             settings['embed_dims'], settings['embed_dims'])
        self.vit = self._build(settings, in_channels, (height, width),
                               drop_path_rate)
        # timm initialises while it builds; mmengine shall not do it again
        self.vit.is_init = True
        for unused in (self.vit.norm,
                       *self.vit.blocks[self.out_indices[-1] + 1:]):
            unused.requires_grad_(False)
        if stem_eps is None:
            stem_eps = PRETRAINED_EPS if in_channels == 3 else FRESH_EPS
        self.stem.eps = stem_eps

    @classmethod
    def _settings(cls, arch: Union[str, dict]) -> Dict[str, Any]:
        if isinstance(arch, str):
            if arch not in cls.arch_zoo:
                raise ConfigError(
                    f'Expected arch to be one of {sorted(cls.arch_zoo)} or a '
                    f'dict, but got {arch!r}.')
            return cls.arch_zoo[arch]
        names = set(cls.arch_zoo['base'])
        if set(arch) != names or len(arch['stage_channels']) != 3 \
                or len(arch['stage_blocks']) != 3:
            raise ConfigError(
                f'Expected arch with the keys {sorted(names)} and three '
                f'stages, but got {dict(arch)}.')
        return dict(arch)

    def _check_indices(self, num_layers: int) -> None:
        indices = self.out_indices
        if len(indices) != 2 or not 0 <= indices[0] < indices[1] < num_layers:
            raise ConfigError(
                'Expected out_indices to be two blocks in ascending order, '
                f'each below {num_layers}, but got {indices}.')

    @classmethod
    def _check_size(cls, height: int, width: int) -> None:
        if height % cls.size_divisor or width % cls.size_divisor \
                or min(height, width) < cls.size_divisor:
            raise ConfigError(
                f'Expected a height and width that are multiples of '
                f'{cls.size_divisor}, but got {height} x {width}. Resize in '
                'the data preprocessor, or leave size_divisor of '
                'mmext.BiCrossDepthEstimator at 32, which pads.')

    @staticmethod
    def _build(settings: Dict[str, Any], in_channels: int,
               size: Tuple[int, int], drop_path_rate: float) -> nn.Module:
        layers = require('timm.layers', 'mmext.DPTHybrid')
        models = require('timm.models', 'mmext.DPTHybrid')
        resnet = models.resnetv2.ResNetV2(
            layers=list(settings['stage_blocks']),
            channels=tuple(settings['stage_channels']),
            num_classes=0,
            in_chans=in_channels,
            global_pool='',
            stem_chs=settings['stem_channels'],
            stem_type='same',
            preact=False,
            norm_layer=partial(
                layers.GroupNormAct, num_groups=settings['norm_groups']),
            conv_layer=partial(layers.StdConv2dSame, eps=PRETRAINED_EPS))
        # With it HybridEmbed would run the network once to learn its sizes.
        del resnet.feature_info
        return models.vision_transformer.VisionTransformer(
            img_size=size,
            patch_size=1,
            in_chans=in_channels,
            num_classes=0,
            embed_dim=settings['embed_dims'],
            depth=settings['num_layers'],
            num_heads=settings['num_heads'],
            drop_path_rate=drop_path_rate,
            embed_layer=partial(
                layers.HybridEmbed,
                backbone=resnet,
                feature_size=(size[0] // 16, size[1] // 16)))

    @property
    def stem(self) -> nn.Conv2d:
        """The first convolution, 7x7 with stride 2."""
        return self.vit.patch_embed.backbone.stem.conv

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.stem.in_channels

    def replace_stem(self,
                     in_channels: int,
                     eps: Optional[float] = None) -> None:
        """Put a fresh first convolution; nothing else changes.

        Stage 2 makes a spike network of an RGB network so. An optimiser
        that is built already knows the old weight only.

        Args:
            in_channels (int): Channels of the new input, such as 128.
            eps (float, optional): As ``stem_eps`` of the class.
        """
        old = self.stem
        if eps is None:
            eps = PRETRAINED_EPS if in_channels == 3 else FRESH_EPS
        new = type(old)(
            in_channels, old.out_channels, kernel_size=7, stride=2, eps=eps)
        # as timm initialises the others of this net
        nn.init.kaiming_normal_(
            new.weight, mode='fan_out', nonlinearity='relu')
        self.vit.patch_embed.backbone.stem.conv = new.to(old.weight)

    def _load_from_state_dict(self, state_dict: Dict[str, Tensor], prefix: str,
                              *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        given = state_dict.get(prefix + self.stem_key)
        if given is not None and given.shape != self.stem.weight.shape:
            print_log(
                f'{prefix}{self.stem_key} of the checkpoint takes '
                f'{given.size(1)} channels, this network {self.in_channels}: '
                'only the first convolution does not fit. That is how stage '
                '2 starts a spike network from an RGB one; otherwise set '
                f'in_channels={given.size(1)} or use another checkpoint.',
                logger='current',
                level=logging.WARNING)

    def forward(self, x: Tensor) -> Tuple[Level, ...]:
        """Compute the four levels.

        Args:
            x (Tensor): (B, in_channels, h, w), sides multiples of 32.

        Returns:
            tuple: Two maps and two pairs of map and class token.

        Raises:
            ConfigError: If the shape does not fit.
        """
        if x.dim() != 4 or x.size(1) != self.in_channels:
            raise ConfigError(
                f'Expected an input of shape (B, {self.in_channels}, H, W), '
                f'but got {tuple(x.shape)}. A spike network takes the '
                'moments as channels, an RGB network 3; set in_channels.')
        self._check_size(*x.shape[2:])
        resnet = self.vit.patch_embed.backbone
        x = resnet.stem(x)
        levels: List[Level] = []
        for stage in resnet.stages:
            x = stage(x)
            levels.append(x)
        # the third stage is not read, it becomes the tokens
        x = self.vit.patch_embed.proj(levels.pop())
        grid = tuple(x.shape[2:])
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.vit.cls_token.expand(len(x), -1, -1), tokens],
                           dim=1)
        tokens = tokens + self._pos_embed(grid)
        for index, block in enumerate(self.vit.blocks):
            tokens = block(tokens)
            if index in self.out_indices:
                levels.append(
                    (tokens[:, 1:].transpose(1, 2).unflatten(2,
                                                             grid), tokens[:,
                                                                           0]))
            if index == self.out_indices[-1]:
                break
        return tuple(levels)

    def _pos_embed(self, grid: Tuple[int, int]) -> Tensor:
        if grid == self.grid_size:
            return self.vit.pos_embed
        return resize_pos_embed(self.vit.pos_embed, self.grid_size, grid)

    def class_token(self, levels: Sequence[Level]) -> Tensor:
        """The image's class token after the final norm, (B, embed_dims).

        It is of use only if ``out_indices`` ends with the last block.
        """
        return self.vit.norm(levels[-1][1])
