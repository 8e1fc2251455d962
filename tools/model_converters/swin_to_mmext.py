# Copyright (c) mmext contributors. All rights reserved.
r"""Rename the original Swin weights to mmpretrain's names.

The Swin configs of MoSA start from the Swin-B that was trained on
ImageNet-22k at 224 px, the file whose MD5 begins with ``bf9cc1``::

    curl -LO https://github.com/SwinTransformer/storage/releases/download/\
v1.0.0/swin_base_patch4_window7_224_22k.pth
    python tools/model_converters/swin_to_mmext.py \
        swin_base_patch4_window7_224_22k.pth \
        work_dirs/pretrained/swin_base_p4_w7_in22k.pth

The output fits ``SwinTransformer(arch='base', img_size=224)`` through
``init_cfg=dict(type='Pretrained', ...)``. The classifier and tables that the
network computes itself are dropped. The four patches that a patch merging
layer joins are in another order in mmpretrain, so its ``norm`` and
``reduction`` are permuted.
"""
import argparse
from typing import Dict, Mapping

import torch
from torch import Tensor

from mmext.utils.io import atomic_save, check_md5, safe_load
from mmext.utils.user_error import UserError, run_tool

MD5 = 'bf9cc1'
_RENAMED = (
    ('patch_embed.proj.', 'patch_embed.projection.'),
    ('layers.', 'stages.'),
    ('.attn.', '.attn.w_msa.'),
    ('.mlp.fc1.', '.ffn.layers.0.0.'),
    ('.mlp.fc2.', '.ffn.layers.1.'),
)
_DROPPED = ('head.', )
_COMPUTED = ('relative_position_index', 'relative_coords_table', 'attn_mask')
_STEMS = ('patch_embed.projection.', 'patch_embed.norm.', 'stages.')
# The original joins (0, 0), (1, 0), (0, 1), (1, 1); mmpretrain unfolds rows
# first.
_ORDER = [0, 2, 1, 3]


def reorder(value: Tensor) -> Tensor:
    """Permute what belongs to the input of a patch merging layer.

    Args:
        value (Tensor): Shape (..., 4 * C), four positions of C channels in
            the original's order.

    Returns:
        Tensor: Same shape, C channels of four positions in mmpretrain's.
    """
    groups = value.unflatten(-1, (4, -1))[..., _ORDER, :]
    return groups.transpose(-1, -2).flatten(-2).contiguous()


def convert(state_dict: Mapping[str, Tensor],
            last_norm: str = 'norm3') -> Dict[str, Tensor]:
    """Rename one state dict.

    Args:
        state_dict (Mapping[str, Tensor]): Names as
            ``layers.0.blocks.1.mlp.fc1.weight``.
        last_norm (str): Name of the final norm, ``norm`` and the number of
            the last stage. Defaults to ``'norm3'``.

    Returns:
        dict[str, Tensor]: Names as ``stages.0.blocks.1.ffn.layers.1.bias``.

    Raises:
        UserError: If a name is unknown.
    """
    out: Dict[str, Tensor] = {}
    unknown = []
    for key, value in state_dict.items():
        if key.startswith(_DROPPED) or key.split('.')[-1] in _COMPUTED:
            continue
        if key in ('norm.weight', 'norm.bias'):
            out[key.replace('norm', last_norm)] = value
            continue
        name = key
        for old, new in _RENAMED:
            if old.startswith('.'):
                name = name.replace(old, new)
            elif name.startswith(old):
                name = new + name[len(old):]
        if not name.startswith(_STEMS):
            unknown.append(key)
        if '.downsample.' in name:
            value = reorder(value)
        out[name] = value
    if unknown or 'patch_embed.projection.weight' not in out:
        raise UserError(
            'These are not the weights of an original Swin transformer. '
            f'Unknown names: {unknown[:5] or "none"}, found {len(out)} known '
            'ones. Expected a .pth file of github.com/SwinTransformer.')
    return out


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', help='the .pth file')
    parser.add_argument('dst', help='file to write')
    parser.add_argument(
        '--md5',
        default=MD5,
        help='how the MD5 of SRC begins; "" for any file of this format. '
        f'Default: {MD5}')
    args = parser.parse_args(argv)
    check_md5(args.src, args.md5)
    checkpoint = safe_load(args.src)
    state = checkpoint.get('model', checkpoint)
    numbers = [key.split('.')[1] for key in state if key.startswith('layers.')]
    last = max((int(n) for n in numbers if n.isdigit()), default=3)
    weights = convert({
        k: v
        for k, v in state.items() if isinstance(v, Tensor)
    }, f'norm{last}')
    weights = {k: v.to(torch.float32) for k, v in weights.items()}
    atomic_save(weights, args.dst)
    print(f'{len(weights)} tensors -> {args.dst}')


if __name__ == '__main__':
    run_tool(main)
