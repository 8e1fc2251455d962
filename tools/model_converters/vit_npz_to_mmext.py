# Copyright (c) mmext contributors. All rights reserved.
r"""Rename the original ViT weights (npz) to mmpretrain's names.

The MoSA configs start from the supervised ImageNet-21k ViT-B/16 that was
published with the ViT paper (not the later ``augreg`` ones), the file whose
MD5 begins with ``d9715d``::

    curl -LO https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_16.npz
    python tools/model_converters/vit_npz_to_mmext.py ViT-B_16.npz \
        work_dirs/pretrained/vit_base_p16_in21k.pth

The output fits ``VisionTransformer(arch='b', img_size=224, patch_size=16)``
through ``init_cfg=dict(type='Pretrained', ...)``. Classifier and pre-logits
layer are dropped.
"""
import argparse
import zipfile
from typing import Dict, Mapping, Tuple

import numpy as np
import torch

from mmext.utils.io import atomic_save, check_md5
from mmext.utils.user_error import UserError, run_tool

MD5 = 'd9715d'
_TOP = {
    'cls': 'cls_token',
    'Transformer/posembed_input/pos_embedding': 'pos_embed',
    'Transformer/encoder_norm/scale': 'ln1.weight',
    'Transformer/encoder_norm/bias': 'ln1.bias',
    'embedding/bias': 'patch_embed.projection.bias',
}
_DROPPED = ('head/', 'pre_logits/')
_ATTENTION = 'MultiHeadDotProductAttention_1/'
_BLOCK = {
    'LayerNorm_0/scale': 'ln1.weight',
    'LayerNorm_0/bias': 'ln1.bias',
    'LayerNorm_2/scale': 'ln2.weight',
    'LayerNorm_2/bias': 'ln2.bias',
    'MlpBlock_3/Dense_0/kernel': 'ffn.layers.0.0.weight',
    'MlpBlock_3/Dense_0/bias': 'ffn.layers.0.0.bias',
    'MlpBlock_3/Dense_1/kernel': 'ffn.layers.1.weight',
    'MlpBlock_3/Dense_1/bias': 'ffn.layers.1.bias',
    f'{_ATTENTION}out/kernel': 'attn.proj.weight',
    f'{_ATTENTION}out/bias': 'attn.proj.bias',
}
_QKV = ('query', 'key', 'value')


def convert(arrays: Mapping[str, np.ndarray]) -> Dict[str, torch.Tensor]:
    """Rename and transpose; q, k, v become one layer.

    Args:
        arrays (Mapping[str, ndarray]): Names as
            ``Transformer/encoderblock_3/LayerNorm_0/scale``.

    Returns:
        dict[str, Tensor]: Names as ``layers.3.ln1.weight``.

    Raises:
        UserError: If a name is unknown or missing.
    """
    out: Dict[str, np.ndarray] = {}
    qkv: Dict[Tuple[str, str, str], np.ndarray] = {}
    unknown = []
    for key, value in arrays.items():
        number, rest = _block_of(key)
        if key in _TOP:
            out[_TOP[key]] = value
        elif key == 'embedding/kernel':
            # (height, width, in, out) -> (out, in, height, width)
            out['patch_embed.projection.weight'] = value.transpose(3, 2, 0, 1)
        elif rest in _BLOCK:
            if rest.endswith('out/kernel'):
                value = value.reshape(-1, value.shape[-1])
            out[f'layers.{number}.{_BLOCK[rest]}'] = \
                value.T if rest.endswith('kernel') else value
        elif rest.startswith(_ATTENTION) and rest.split('/')[1] in _QKV:
            _, letter, kind = rest.split('/')
            # (in, heads, width) -> (out, in); (heads, width) -> (out, )
            qkv[number, letter, kind] = value.reshape(value.shape[0], -1).T \
                if kind == 'kernel' else value.reshape(-1)
        elif not key.startswith(_DROPPED):
            unknown.append(key)
    _join(qkv, out)
    if unknown or 'cls_token' not in out or 'layers.0.ln1.weight' not in out:
        raise UserError(
            'These are not the weights of an original ViT. Unknown names: '
            f'{unknown[:5] or "none"}, found {len(out)} known ones. Expected '
            'an npz file of https://storage.googleapis.com/vit_models.')
    return {
        key: torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
        for key, value in out.items()
    }


def _block_of(key: str) -> Tuple[str, str]:
    """Number of the block and the rest of the name; else two empty texts."""
    stem = 'Transformer/encoderblock_'
    if not key.startswith(stem):
        return '', ''
    number, _, rest = key[len(stem):].partition('/')
    return number, rest


def _join(qkv: Dict[Tuple[str, str, str], np.ndarray],
          out: Dict[str, np.ndarray]) -> None:
    for number in {number for number, _, _ in qkv}:
        for kind, name in (('kernel', 'weight'), ('bias', 'bias')):
            parts = [qkv.get((number, letter, kind)) for letter in _QKV]
            if any(part is None for part in parts):
                raise UserError(f'Block {number} lacks a {kind} of query, '
                                'key or value. Fetch the file again.')
            out[f'layers.{number}.attn.qkv.{name}'] = np.concatenate(parts)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', help='the .npz file')
    parser.add_argument('dst', help='file to write')
    parser.add_argument(
        '--md5',
        default=MD5,
        help='how the MD5 of SRC begins; "" for any file of this format. '
        f'Default: {MD5}')
    args = parser.parse_args(argv)
    check_md5(args.src, args.md5)
    try:
        with np.load(args.src, allow_pickle=False) as arrays:
            weights = convert(arrays)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f'Cannot read {args.src} as npz: {error}. Fetch the '
                        'file again.') from error
    atomic_save(weights, args.dst)
    print(f'{len(weights)} tensors -> {args.dst}')


if __name__ == '__main__':
    run_tool(main)
