# Copyright (c) mmext contributors. All rights reserved.
"""Pack the weights of a mmengine checkpoint as a float16 safetensors file."""
import argparse
import json
import sys

import torch
from safetensors.torch import save_file

from mmext.utils.io import safe_load, tensors_digest


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Pack the state_dict of a mmengine checkpoint. The file '
        'gets metadata: what is given, and a digest of its tensors.')
    parser.add_argument('checkpoint', help='a .pth file')
    parser.add_argument('out', help='the .safetensors file to write')
    parser.add_argument(
        '--float32', action='store_true', help='keep float32 tensors')
    parser.add_argument(
        '--meta',
        nargs='*',
        default=[],
        metavar='KEY=VALUE',
        help='metadata; values are JSON, or else text')
    return parser.parse_args(argv)


def _parsed(text: str):
    try:
        return json.loads(text)
    except ValueError:
        return text


def pack(checkpoint: dict, half: bool) -> dict:
    """Contiguous tensors of a checkpoint's ``state_dict``.

    Args:
        checkpoint (dict): As mmengine writes it, or a bare state dict.
        half (bool): Whether floating point tensors become float16.

    Returns:
        dict: Names and tensors.

    Raises:
        ValueError: If a value is no tensor or does not fit into float16.
    """
    out = {}
    for key, value in checkpoint.get('state_dict', checkpoint).items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f'{key} is {type(value).__name__}, but a state '
                             'dict of tensors is expected')
        value = value.detach().cpu().contiguous()
        if half and value.is_floating_point():
            value = value.half()
            if not torch.isfinite(value).all():
                raise ValueError(f'{key} has values that float16 cannot '
                                 'hold; use --float32')
        out[key] = value
    return out


def main(argv=None) -> int:
    args = parse_args(argv)
    wrong = [m for m in args.meta if '=' not in m]
    if wrong:
        print(f'error: --meta takes KEY=VALUE, got {wrong}', file=sys.stderr)
        return 2
    try:
        state = pack(safe_load(args.checkpoint), not args.float32)
    except (OSError, RuntimeError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    meta = dict(m.split('=', 1) for m in args.meta)
    meta = {k: json.dumps(_parsed(v)) for k, v in meta.items()}
    meta['digest'] = json.dumps(tensors_digest(state))
    save_file(state, args.out, metadata=meta)
    size = sum(v.numel() * v.element_size() for v in state.values())
    print(f'{args.out}: {len(state)} tensors, {size / 1e6:.2f} MB')
    return 0


if __name__ == '__main__':
    sys.exit(main())
