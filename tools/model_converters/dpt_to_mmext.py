# Copyright (c) mmext contributors. All rights reserved.
r"""Rename weights of DPT-Hybrid to the names of mmext.BiCrossDepthEstimator.

Three kinds of files are known by their keys:

- timm's ``vit_base_r50_s16_384`` (ImageNet): the backbone only;
- isl-org/DPT, such as ``dpt_hybrid_kitti`` or ``dpt_hybrid_nyu``: backbone,
  decoder and depth head;
- BiCross's own checkpoints (any stage, RGB or spikes): the uncertainty head
  as well.

::

    python tools/model_converters/dpt_to_mmext.py \
        jx_vit_base_resnet50_384-9fd3c705.pth checkpoints/vit-base-r50_in1k.pth

The output fits ``configs/_base_/models/dpt-hybrid.py`` as ``load_from``, or
``init_cfg=dict(type='Pretrained', checkpoint=..., prefix='backbone.')`` of
its backbone. A file does not say its constants: models for driving scenes
take the head's defaults, indoor ones ``scale=3.05e-4, shift=0.1378``, and
those of isl-org ``non_negative=True``, as their last layer is a ReLU. The
classifier is dropped. With ``--in-channels 128`` the mean of the RGB filters
of the first convolution is repeated over 128 spike moments; without, a spike
network keeps its random one when it loads an RGB file.

isl-org's weights are under the MIT licence; BiCross's repository has none.
"""
import argparse
import re
from typing import Any, Dict, List, Mapping, Optional, Tuple

from torch import Tensor

from mmext.models.distillers import inflate_stem
from mmext.utils.io import atomic_save, safe_load, sha256_file
from mmext.utils.user_error import UserError, run_tool

StateDict = Dict[str, Tensor]

STEM = 'backbone.vit.patch_embed.backbone.stem.conv.weight'
WRAPPERS = ('model_state_dict', 'state_dict', 'model')
# What a file of these must have, to tell it from other ViTs.
_VIT = (r'(?P<name>(cls_token|pos_embed|(patch_embed|blocks|norm)\..+))$')
_ACT = r'pretrained\.act_postprocess(?P<n>[34])\.'
_SCRATCH = r'scratch\.'
_FUSION = _SCRATCH + r'refinenet(?P<n>\d)\.'
_RULES: List[Tuple[str, str]] = [
    (r'(pretrained\.model\.)?' + _VIT, 'backbone.vit.{name}'),
    (_ACT + r'0\.project\.0\.(?P<end>.+)$',
     'decode_head.reassemble.levels.{index}.project.{end}'),
    (_ACT + r'3\.(?P<end>.+)$',
     'decode_head.reassemble.levels.{index}.width.{end}'),
    (_ACT + r'4\.(?P<end>.+)$',
     'decode_head.reassemble.levels.{index}.resample.{end}'),
    (_SCRATCH + r'layer(?P<n>\d)_rn\.(?P<end>.+)$',
     'decode_head.reduce_{n}.{end}'),
    (_FUSION + r'resConfUnit(?P<unit>[12])\.(?P<end>.+)$',
     'decode_head.fusion_{n}.unit{unit}.{end}'),
    (_FUSION + r'out_conv\.(?P<end>.+)$', 'decode_head.fusion_{n}.out.{end}'),
    (_SCRATCH + r'output_conv\.(?P<end>.+)$', 'decode_head.output.{end}'),
    # the authors' spelling
    (r'uncertai?n?ty_head\.(?P<end>.+)$', 'uncertainty_head.output.{end}'),
]
_DROPPED = re.compile(r'(pretrained\.model\.)?(head|pre_logits)\.')


def rename(key: str) -> Optional[str]:
    """The name of one tensor in mmext; None if it is unknown.

    Args:
        key (str): Name in timm, isl-org/DPT or BiCross.

    Returns:
        str, optional: Name in ``BiCrossDepthEstimator``.
    """
    for pattern, name in _RULES:
        match = re.match(pattern, key)
        if match:
            groups = match.groupdict()
            index = int(groups.get('n') or 1) - 1
            return name.format(index=index, **groups)
    return None


def kind_of(state_dict: Mapping[str, Any]) -> str:
    """'timm', 'dpt' or 'bicross', by the keys.

    Raises:
        UserError: If it is none of them.
    """
    keys = list(state_dict)
    official = any(key.startswith('pretrained.model.') for key in keys)
    stem = ('pretrained.model.'
            if official else '') + STEM[len('backbone.vit.'):]
    if stem not in state_dict:
        raise UserError(
            'Expected the weights of a hybrid of ResNet-50 and ViT-B (timm '
            'vit_base_r50_s16_384, DPT-Hybrid or BiCross), but there is no '
            f'{stem}. The first keys are {keys[:3]}. DPT-Large and other '
            'ViTs have another backbone.')
    if not official:
        return 'timm'
    return 'bicross' if any(
        re.match(r'uncertai?n?ty_head\.', key) for key in keys) else 'dpt'


def convert(state_dict: Mapping[str, Tensor],
            in_channels: Optional[int] = None) -> StateDict:
    """Rename a state dict.

    Args:
        state_dict (Mapping[str, Tensor]): Of one of the three kinds.
        in_channels (int, optional): Spread the RGB filters of the first
            convolution over so many channels.

    Returns:
        dict[str, Tensor]: Names of ``BiCrossDepthEstimator``, float32.

    Raises:
        UserError: If the kind is unknown, a key is, or the stem is not for
            RGB.
    """
    kind_of(state_dict)
    out: StateDict = {}
    unknown = []
    for key, value in state_dict.items():
        name = rename(key)
        if name is not None:
            out[name] = value.float()
        elif not _DROPPED.match(key):
            unknown.append(key)
    if unknown:
        raise UserError(
            f'{len(unknown)} keys are unknown: {", ".join(unknown[:8])}. '
            'Expected the names of timm, isl-org/DPT or BiCross; a head for '
            'segmentation cannot be converted.')
    if in_channels is not None:
        if out[STEM].size(1) != 3:
            raise UserError(
                f'--in-channels {in_channels} needs a stem for RGB, but this '
                f'one has {out[STEM].size(1)} channels. Leave the option out.')
        out[STEM] = inflate_stem(out[STEM], in_channels)
    return out


def convert_file(src: str,
                 dst: str,
                 in_channels: Optional[int] = None) -> Dict[str, Any]:
    """Read, convert, write (whole or not at all).

    Args:
        src (str): The checkpoint; read without executing code in it.
        dst (str): The file to write.
        in_channels (int, optional): As in :func:`convert`.

    Returns:
        dict: What was written: ``state_dict`` and ``meta``.
    """
    checkpoint = safe_load(src)
    for wrapper in WRAPPERS:
        if isinstance(checkpoint, dict) and isinstance(
                checkpoint.get(wrapper), dict):
            checkpoint = checkpoint[wrapper]
    state_dict = {
        # a checkpoint of several GPUs
        key[len('module.'):] if key.startswith('module.') else key:
        value
        for key, value in checkpoint.items() if isinstance(value, Tensor)
    }
    converted = dict(
        state_dict=convert(state_dict, in_channels),
        meta=dict(
            converted_from=dict(
                kind=kind_of(state_dict), sha256=sha256_file(src))))
    atomic_save(converted, dst)
    return converted


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', help='the checkpoint of timm, DPT or BiCross')
    parser.add_argument('dst', help='file to write')
    parser.add_argument(
        '--in-channels',
        type=int,
        help='repeat the mean of the RGB filters over so many channels')
    args = parser.parse_args(argv)
    converted = convert_file(args.src, args.dst, args.in_channels)
    state_dict = converted['state_dict']
    kind = converted['meta']['converted_from']['kind']
    print(f'{kind}: {len(state_dict)} tensors, in_channels='
          f'{state_dict[STEM].size(1)} -> {args.dst}')
    if kind == 'dpt':
        print('Set decode_head.non_negative=True: the last layer of these '
              'models is a ReLU.')


if __name__ == '__main__':
    run_tool(main)
