# Copyright (c) mmext contributors. All rights reserved.
"""A vision transformer whose attention has a dropout rate of its own."""
from mmpretrain.models import VisionTransformer

from mmext.registry import MODELS


@MODELS.register_module()
class SplitDropoutViT(VisionTransformer):
    """mmpretrain's ``VisionTransformer`` with ``proj_drop_rate``.

    mmpretrain's ``drop_rate`` also sets the dropout behind the attention's
    output projection. In the code of VPT, and so of MoSA, embedding and FFN
    have a dropout of 0.1 and the attention has none.

    Args:
        *args: See ``mmpretrain.models.VisionTransformer``.
        proj_drop_rate (float): Dropout behind the output projection of each
            attention. Defaults to 0.0.
        **kwargs: See ``mmpretrain.models.VisionTransformer``.

    Example:
        >>> backbone = dict(
        ...     type='mmext.SplitDropoutViT',
        ...     arch='b',
        ...     drop_rate=0.1,
        ...     proj_drop_rate=0.0)
    """

    def __init__(self, *args, proj_drop_rate: float = 0.0, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        for layer in self.layers:
            layer.attn.proj_drop.p = proj_drop_rate
