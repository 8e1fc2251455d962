# Copyright (c) mmext contributors. All rights reserved.
r"""Convert a SegFormer checkpoint of NVIDIA's release to mmseg's names.

The input is a full segmentation checkpoint (keys ``backbone.*`` and
``decode_head.*``), such as the source network of CoTTA and SVDP::

    python tools/model_converters/nvidia_segformer_to_mmseg.py \
        segformer.b5.1024x1024.city.160k.pth \
        checkpoints/segformer_mit-b5_nvidia_cityscapes.pth

The output loads strictly into a plain mmseg config whose model is that of
``configs/_base_/models/segformer_mit-b5_nvidia.py``. What changes: queries
and keys-values become one ``in_proj``, the MLP's linear layers become 1x1
convolutions, names change, and the release's unused ``conv_seg`` is dropped
in favour of its classifier ``linear_pred``. NVIDIA's weights are for
non-commercial use and are not part of this project.
"""
import argparse
import re
from typing import Any, Callable, Dict, List, Mapping, Tuple

import torch
from torch import Tensor

from mmext.utils.io import atomic_save, safe_load, sha256_file

StateDict = Dict[str, Tensor]

# Patterns of the source's keys -> names. {s} is the stage, counted from 1 in
# the source and from 0 in the result.
_WB = r'(?P<end>weight|bias)$'
_BACKBONE: List[Tuple[str, str]] = [
    (r'patch_embed(?P<s>\d)\.proj\.' + _WB, 'layers.{s}.0.projection.'),
    (r'patch_embed(?P<s>\d)\.norm\.' + _WB, 'layers.{s}.0.norm.'),
    (r'norm(?P<s>\d)\.' + _WB, 'layers.{s}.2.'),
]
_BLOCK = {
    'norm1': 'norm1',
    'norm2': 'norm2',
    'attn.proj': 'attn.attn.out_proj',
    'attn.sr': 'attn.sr',
    'attn.norm': 'attn.norm',
    'mlp.fc1': 'ffn.layers.0',
    'mlp.dwconv.dwconv': 'ffn.layers.1',
    'mlp.fc2': 'ffn.layers.4',
}
_HEAD: List[Tuple[str, str]] = [
    (r'linear_c(?P<s>\d)\.proj\.' + _WB, 'projections.{s}.'),
    (r'linear_fuse\.conv\.(?P<end>weight)$', 'fusion.conv.'),
    (r'linear_fuse\.bn\.(?P<end>weight|bias|running_mean|running_var|'
     r'num_batches_tracked)$', 'fusion.bn.'),
    (r'linear_pred\.' + _WB, 'conv_seg.'),
]
_BLOCK_KEY = re.compile(r'block(?P<s>\d)\.(?P<b>\d+)\.(?P<part>.+)\.' + _WB)
_UNUSED = ('conv_seg.weight', 'conv_seg.bias')


def _rename(key: str, rules: List[Tuple[str, str]]) -> str:
    """The new name of ``key``, or '' if no rule fits."""
    for pattern, name in rules:
        match = re.match(pattern, key)
        if match:
            groups = match.groupdict()
            stage = int(groups['s']) - 1 if 's' in groups else 0
            return name.format(s=stage) + groups['end']
    return ''


def _convert_block(key: str, backbone: Mapping[str, Tensor],
                   out: StateDict) -> bool:
    """Convert one tensor of a block; whether its name was known."""
    match = _BLOCK_KEY.match(key)
    if match is None:
        return False
    part, end, value = match['part'], match['end'], backbone[key]
    stem = f"layers.{int(match['s']) - 1}.1.{match['b']}."
    if part in ('attn.q', 'attn.kv'):
        q, kv = (key.replace(part, f'attn.{name}') for name in ('q', 'kv'))
        if q not in backbone or kv not in backbone:
            return False
        if part == 'attn.q':
            out[f'{stem}attn.attn.in_proj_{end}'] = torch.cat(
                [value, backbone[kv]])
        return True
    if part not in _BLOCK:
        return False
    if part in ('mlp.fc1', 'mlp.fc2') and end == 'weight':
        value = value[:, :, None, None]
    out[f'{stem}{_BLOCK[part]}.{end}'] = value
    return True


def convert_backbone(backbone: Mapping[str, Tensor]) -> StateDict:
    """Convert a MiT backbone.

    Args:
        backbone (Mapping[str, Tensor]): Names as ``block1.0.attn.q.weight``.

    Returns:
        dict[str, Tensor]: Names of mmseg's ``MixVisionTransformer``.

    Raises:
        ValueError: If keys are unknown, or q or kv lacks its counterpart;
            lists them.
    """
    return _convert(backbone, _BACKBONE, _convert_block, 'backbone.')


def convert_head(head: Mapping[str, Tensor]) -> StateDict:
    """Convert the decode head.

    Args:
        head (Mapping[str, Tensor]): Names as ``linear_c1.proj.weight``.

    Returns:
        dict[str, Tensor]: Names of ``mmext.NVIDIASegformerHead``.

    Raises:
        ValueError: If keys are unknown; lists them.
    """
    return _convert(head, _HEAD, lambda key, *_: key in _UNUSED,
                    'decode_head.')


def _convert(state: Mapping[str, Tensor], rules: List[Tuple[str, str]],
             otherwise: Callable[..., bool], prefix: str) -> StateDict:
    out: StateDict = {}
    unconverted = []
    for key, value in state.items():
        name = _rename(key, rules)
        if name:
            out[name] = value
        elif not otherwise(key, state, out):
            unconverted.append(prefix + key)
    if unconverted:
        raise ValueError(f'{len(unconverted)} keys could not be converted: '
                         f'{", ".join(unconverted)}. Expected a checkpoint of '
                         "SegFormer's original release.")
    return out


def convert(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Convert the state dict of a full checkpoint.

    Args:
        state_dict (Mapping[str, Tensor]): Keys ``backbone.*`` and
            ``decode_head.*``.

    Returns:
        dict[str, Tensor]: Keys of mmseg's ``EncoderDecoder``.

    Raises:
        ValueError: If a part is missing or keys remain unconverted.
    """
    parts: Dict[str, StateDict] = {'backbone.': {}, 'decode_head.': {}}
    strange = []
    for key, value in state_dict.items():
        for prefix, part in parts.items():
            if key.startswith(prefix):
                part[key[len(prefix):]] = value
                break
        else:
            strange.append(key)
    absent = [prefix for prefix, part in parts.items() if not part]
    if absent or strange:
        raise ValueError(
            'Expected a full checkpoint with the keys backbone.* and '
            f'decode_head.*, but {", ".join(absent) or "none"} is missing '
            f'and these are left over: {", ".join(strange) or "none"}. For '
            "ImageNet weights (patch_embed1.*) use mmseg's "
            'tools/model_converters/mit2mmseg.py.')
    converted = (convert_backbone(parts['backbone.']),
                 convert_head(parts['decode_head.']))
    return {
        prefix + key: value
        for prefix, part in zip(parts, converted)
        for key, value in part.items()
    }


def convert_file(src: str, dst: str) -> Dict[str, Any]:
    """Read, convert, write (whole or not at all).

    Args:
        src (str): NVIDIA's checkpoint; read without executing code in it.
        dst (str): The file to write.

    Returns:
        dict: What was written: ``state_dict`` and ``meta``, which has the
        classes and palette of the source, if it names any, and its hash.
    """
    checkpoint = safe_load(src)
    state_dict = checkpoint.get('state_dict', checkpoint)
    meta = checkpoint.get('meta') or {}
    converted = dict(
        state_dict=convert(state_dict),
        meta=dict(converted_from=dict(sha256=sha256_file(src))))
    if meta.get('CLASSES'):
        converted['meta']['dataset_meta'] = dict(
            classes=tuple(meta['CLASSES']), palette=meta.get('PALETTE'))
    atomic_save(converted, dst)
    return converted


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', help="checkpoint of NVIDIA's release (.pth)")
    parser.add_argument('dst', help='checkpoint to write')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        state_dict = convert_file(args.src, args.dst)['state_dict']
    except (OSError, RuntimeError, ValueError) as error:
        raise SystemExit(f'error: {error}')
    total = sum(value.numel() for value in state_dict.values())
    print(f'{len(state_dict)} tensors, {total / 1e6:.1f} M numbers '
          f'-> {args.dst}')


if __name__ == '__main__':
    main()
