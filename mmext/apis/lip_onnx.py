# Copyright (c) mmext contributors. All rights reserved.
"""Certified classifiers as ONNX files, checked with onnxruntime."""
import math
from typing import Any, List

import torch
import torch.nn as nn

from mmext.models.lipschitz.onnx_graph import GraphBuilder, add_network, finish
from mmext.utils.dependency import require
from mmext.utils.io import PathLike, atomic_write
from mmext.utils.user_error import UserError


def _add_member(graph: GraphBuilder, model: nn.Module, images: str) -> str:
    """Normalisation, body and head of one classifier."""
    preprocessor = model.data_preprocessor
    divisor = getattr(preprocessor, 'pad_size_divisor', 1)
    if divisor > 1:
        raise UserError(
            f'The data preprocessor pads images (pad_size_divisor={divisor}), '
            'which the file would not do. Leave it out, and pad in the '
            'network by input_pad of the backbone.')
    # As mmpretrain, which turns pictures of three channels only.
    if getattr(preprocessor, 'to_rgb', False) and \
            model.backbone.input_size[0] == 3:
        images = graph.add('Gather', images, graph.integers(2, 1, 0), axis=1)
    mean, std = (getattr(preprocessor, key, None) for key in ('mean', 'std'))
    if mean is not None and std is not None:
        images = graph.add('Sub', images, graph.constant(mean))
        images = graph.add('Div', images, graph.constant(std))
    return add_network(graph, model.backbone.body, model.head.classifier,
                       images)


def lip_onnx(model: nn.Module, cells: int = 1 << 16) -> Any:
    """The ONNX model of a certified classifier at p = inf.

    Its input ``images`` is what the data preprocessor gets, float32 of shape
    (batch, C, H, W) in 0-255 for the shipped configs; its output ``logits``
    has shape (batch, classes). Half the lead of the largest logit, times the
    smallest std, is a certified radius for a ``LipClsHead`` (before the slack
    for rounding).

    Args:
        model (nn.Module): ``mmext.LipschitzClassifier`` or
            ``mmext.CertifiedEnsemble``, see
            :func:`~.certified_model.certified_model`.
        cells (int): Largest number of differences an image that one node
            holds. Defaults to 2**16, 256 KiB.

    Returns:
        onnx.ModelProto: The model.

    Raises:
        UserError: At a finite p, in training mode, or for an unknown layer.
        ImportError: If onnx is not installed.
    """
    graph = GraphBuilder(cells)
    members: List[nn.Module] = list(getattr(model, 'members', [model]))
    for one in {model, *members}:
        trained = getattr(one, 'trained_p', None)
        if trained is not None and trained != math.inf:
            raise UserError(
                f'The checkpoint was saved at p = {trained:g}, in the middle '
                'of its schedule; its running means do not fit p = inf. '
                'Export the last checkpoint of the training.')
    weights = model.weights.tolist() if hasattr(model, 'members') else [1.]
    logits = ''
    for member, weight in zip(members, weights):
        one = _add_member(graph, member, 'images')
        if len(members) > 1:
            one = graph.add('Mul', one, graph.constant(weight))
        logits = graph.add('Add', logits, one) if logits else one
    lipschitz = all(
        getattr(m.head.classifier, 'lipschitz', False) for m in members)
    return finish(graph, logits, members[0].backbone.input_size,
                  dict(p='inf', lipschitz_logits=str(lipschitz).lower()))


def check_onnx(path: PathLike, model: nn.Module, images: int = 4) -> float:
    """Largest difference between onnxruntime and torch on random images.

    Args:
        path (str or PathLike): The file.
        model (nn.Module): The model it was made of.
        images (int): Random images. Defaults to 4.

    Returns:
        float: Largest absolute difference of a logit.

    Raises:
        ImportError: If onnxruntime is not installed.
    """
    runtime = require('onnxruntime', 'The check of an ONNX file')
    member = getattr(model, 'members', [model])[0]
    shape = (images, *member.backbone.input_size)
    pixels = torch.randint(
        0, 256, shape, generator=torch.Generator().manual_seed(0)).float()
    session = runtime.InferenceSession(
        str(path), providers=['CPUExecutionProvider'])
    found, = session.run(['logits'], dict(images=pixels.numpy()))
    with torch.no_grad():
        inputs = model.data_preprocessor(dict(inputs=pixels), False)['inputs']
        expected = model.scores(inputs)
    return float((torch.from_numpy(found) - expected.cpu()).abs().max())


def export_onnx(model: nn.Module,
                path: PathLike,
                cells: int = 1 << 16) -> None:
    """Write :func:`lip_onnx` to a file.

    Args:
        model (nn.Module): The classifier.
        path (str or PathLike): File to write.
        cells (int): As in :func:`lip_onnx`. Defaults to 2**16.
    """
    atomic_write(path, lip_onnx(model, cells).SerializeToString())
