# Copyright (c) mmext contributors. All rights reserved.
"""A distance net at p = inf as an ONNX graph of primitive operators.

A neuron is ``ReduceMax(Abs(Sub(x, w)))``. Differences of all outputs at once
would need as much memory as there are cells, so outputs are cut into chunks
of at most ``cells`` cells an image, one after another. The operators are
exact but for the same subtractions as in torch, so the outputs of a pure
distance net agree to the last bit.
"""
import math
from typing import Any, Callable, Dict, List, Optional, Sequence, Type

import numpy as np
import torch.nn as nn
from torch import Tensor

from mmext.utils.dependency import require
from mmext.utils.user_error import UserError
from .bound_heads import BoundMLP, DistanceHead
from .bounds import (BoundAdaptiveAvgPool2d, BoundAvgPool2d,
                     BoundConstantPad2d, BoundFlatten, BoundMaxPool2d,
                     BoundTanh, Negate)
from .layers import DistanceLayer, LpDistConv2d, LpDistLinear, ScaledLinear
from .networks import DistanceBody
from .sort_layers import SortDistConv2d, SortDistLinear, sort_coefficients

OPSET = 17


class GraphBuilder:
    """Nodes and constants of a graph, in order of execution.

    Args:
        cells (int): Largest number of differences an image that one node
            holds, where a single output does not have more.
            Defaults to 2**16.
    """

    def __init__(self, cells: int = 1 << 16) -> None:
        if cells < 1:
            raise UserError(f'cells is at least 1, but got {cells}.')
        self.onnx = require('onnx', 'The ONNX export')
        self.cells = cells
        self.nodes: List[Any] = []
        self.constants: List[Any] = []
        self._count = 0

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        """Name of a new constant."""
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        array = np.ascontiguousarray(np.asarray(value, dtype=dtype))
        name = self._name('c')
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def integers(self, *values: int) -> str:
        """Name of a vector of int64."""
        return self.constant(values, np.int64)

    def add(self,
            kind: str,
            *inputs: str,
            outputs: int = 1,
            **attributes: Any) -> str:
        """Add a node; the name of its first output."""
        names = [self._name(kind.lower()) for _ in range(outputs)]
        self.nodes.append(
            self.onnx.helper.make_node(kind, list(inputs), names,
                                       **attributes))
        return names[0]

    def _name(self, stem: str) -> str:
        self._count += 1
        return f'{stem}_{self._count}'

    def joined(self, parts: Sequence[str], axis: int) -> str:
        """Concatenate, if there is anything to."""
        return parts[0] if len(parts) == 1 else self.add(
            'Concat', *parts, axis=axis)

    # Layers ------------------------------------------------------------------

    def layer(self, module: nn.Module, x: str) -> str:
        """Add a module of :mod:`mmext.models.lipschitz`.

        Raises:
            UserError: For a module that has no graph, or a finite p.
        """
        for kind in type(module).__mro__:
            if kind in _EMITTERS:
                return _EMITTERS[kind](self, module, x)
        if isinstance(module, nn.Sequential):
            for child in module:
                x = self.layer(child, x)
            return x
        raise UserError(
            f'{type(module).__name__} has no ONNX form here. Known are '
            f'{", ".join(sorted(kind.__name__ for kind in _EMITTERS))}.')

    def shifted(self, module: DistanceLayer, y: str, dims: int) -> str:
        """Mean shift and bias, in the order of torch."""
        tail = [1] * dims
        if module.mean_shift is not None:
            mean = module.mean_shift.running_mean.reshape(-1, *tail)
            y = self.add('Sub', y, self.constant(mean))
        if module.bias is not None:
            bias = module.bias.reshape(-1, *tail)
            y = self.add('Add', y, self.constant(bias))
        return y

    def reduced(self, module: DistanceLayer, cells: str) -> str:
        """Largest entry along axis 2, or the SortNet average."""
        if not isinstance(module, (SortDistLinear, SortDistConv2d)):
            return self.add('ReduceMax', cells, axes=[2], keepdims=0)
        count = min(module.truncate, module.weight[0].numel())
        top = self.add('TopK', cells, self.integers(count), outputs=2, axis=2)
        scale = sort_coefficients(module.rho, count)
        tail = [1] * (module.weight.dim() - 2 > 0)
        scaled = self.add('Mul', top,
                          self.constant(scale.reshape(1, 1, -1, *tail)))
        return self.add('ReduceSum', scaled, self.integers(2), keepdims=0)

    def distances(self, module: DistanceLayer, windows: str, weight: Tensor,
                  positions: int) -> str:
        """Distances of windows (B, 1, K[, P]) to rows (Co, K), in chunks."""
        step = max(1, self.cells // (weight.shape[1] * positions))
        tail = [1] * (module.weight.dim() > 2)
        parts = []
        for rows in weight.split(step):
            rows = rows.reshape(1, *rows.shape, *tail)
            cells = self.add('Sub', windows, self.constant(rows))
            parts.append(self.reduced(module, self.add('Abs', cells)))
        return self.joined(parts, 1)


def _check_p(module: DistanceLayer) -> None:
    if module.p != math.inf:
        raise UserError(
            f'A network at p = {module.p:g} is not exported: only p = inf is '
            'certified. Load the last checkpoint of a finished schedule and '
            "call set_p(model, float('inf')).")


def _groups(module: DistanceLayer) -> List[Tensor]:
    return list(module.weight.detach().chunk(module.groups))


def _linear(graph: GraphBuilder, module: LpDistLinear, x: str) -> str:
    _check_p(module)
    width, parts = module.weight.shape[1], []
    for g, weight in enumerate(_groups(module)):
        part = x if module.groups == 1 else graph.add(
            'Slice', x, graph.integers(g *
                                       width), graph.integers(
                                           (g + 1) * width), graph.integers(1))
        rows = graph.add('Unsqueeze', part, graph.integers(1))
        parts.append(graph.distances(module, rows, weight, 1))
    return graph.shifted(module, graph.joined(parts, 1), 0)


def _conv(graph: GraphBuilder, module: LpDistConv2d, x: str,
          size: Sequence[int]) -> str:
    _check_p(module)
    k, s, d, pad = (module.kernel_size, module.stride, module.dilation,
                    module.padding)
    high, wide = [(n + 2 * pad - d * (k - 1) - 1) // s + 1 for n in size]
    if pad:
        x = graph.add('Pad', x, graph.integers(0, 0, pad, pad, 0, 0, pad, pad))
    channels, parts = module.weight.shape[1], []
    for g, weight in enumerate(_groups(module)):
        taps = [
            graph.add(
                'Slice', x, graph.integers(g * channels, i * d, j * d),
                graph.integers((g + 1) * channels, i * d + s * (high - 1) + 1,
                               j * d + s * (wide - 1) + 1),
                graph.integers(1, 2, 3), graph.integers(1, s, s))
            for i in range(k) for j in range(k)
        ]
        windows = graph.add(
            'Reshape', graph.joined(taps, 1),
            graph.integers(0, 1, channels * k * k, high * wide))
        # Taps are the slow axis of the windows.
        rows = weight.permute(0, 2, 3, 1).flatten(1)
        parts.append(graph.distances(module, windows, rows, high * wide))
    y = graph.add('Reshape', graph.joined(parts, 1),
                  graph.integers(0, module.out_channels, high, wide))
    return graph.shifted(module, y, 2)


def _scaled_linear(graph: GraphBuilder, module: ScaledLinear, x: str) -> str:
    weight = graph.constant(module.weight * module.scale)
    return graph.add('Gemm', x, weight, graph.constant(module.bias), transB=1)


def _pool(kind: str) -> Callable:

    def emit(graph: GraphBuilder, module: BoundMaxPool2d, x: str) -> str:
        return graph.add(
            kind,
            x,
            kernel_shape=[module.kernel_size] * 2,
            strides=[module.stride] * 2)

    return emit


def _adaptive(graph: GraphBuilder, module: BoundAdaptiveAvgPool2d,
              x: str) -> str:
    if module.output_size not in (1, (1, 1)):
        raise UserError('Adaptive pooling is exported to one cell only, but '
                        f'got output_size={module.output_size}.')
    return graph.add('GlobalAveragePool', x)


def _pad(graph: GraphBuilder, module: BoundConstantPad2d, x: str) -> str:
    left, right, top, bottom = module.padding
    return graph.add('Pad', x,
                     graph.integers(0, 0, top, left, 0, 0, bottom, right),
                     graph.constant(module.value))


_EMITTERS: Dict[Type[nn.Module], Callable] = {
    LpDistLinear: _linear,
    ScaledLinear: _scaled_linear,
    BoundMaxPool2d: _pool('MaxPool'),
    BoundAvgPool2d: _pool('AveragePool'),
    BoundAdaptiveAvgPool2d: _adaptive,
    BoundConstantPad2d: _pad,
    BoundFlatten: lambda graph, module, x: graph.add('Flatten', x, axis=1),
    BoundTanh: lambda graph, module, x: graph.add('Tanh', x),
    Negate: lambda graph, module, x: graph.add('Neg', x),
}


def add_network(graph: GraphBuilder, body: DistanceBody, head: nn.Module,
                x: str) -> str:
    """Add body and head; the name of the logits.

    Args:
        graph (GraphBuilder): The graph.
        body (DistanceBody): Images to features.
        head (DistanceHead | BoundMLP): Features to logits.
        x (str): Name of the normalised images.

    Returns:
        str: Name of the logits, (B, C).

    Raises:
        UserError: For a layer that has no graph, in training mode or at a
            finite p.
    """
    if body.training or head.training:
        raise UserError('A network in training mode is not exported: its mean '
                        'shift depends on the batch. Call model.eval().')
    size = list(body.input_size[1:])
    for module in body.layers:
        if isinstance(module, LpDistConv2d):
            x = _conv(graph, module, x, size)
        else:
            x = graph.layer(module, x)
        size = _size_after(module, size)
    parts = (head.fc, head.negate) if isinstance(head, DistanceHead) else \
        (head.fc1, head.act, head.fc2) if isinstance(head, BoundMLP) else ()
    if not parts:
        raise UserError('The head is a DistanceHead or a BoundMLP, but got '
                        f'{type(head).__name__}.')
    for module in parts:
        x = graph.layer(module, x)
    return x


def _size_after(module: nn.Module, size: List[int]) -> List[int]:
    """Height and width that a module of a body makes."""
    if isinstance(module, BoundConstantPad2d):
        left, right, top, bottom = module.padding
        return [size[0] + top + bottom, size[1] + left + right]
    if isinstance(module, LpDistConv2d):
        reach = module.dilation * (module.kernel_size - 1) + 1
        return [(n + 2 * module.padding - reach) // module.stride + 1
                for n in size]
    if isinstance(module, BoundMaxPool2d):
        return [(n - module.kernel_size) // module.stride + 1 for n in size]
    return size


def finish(graph: GraphBuilder,
           logits: str,
           input_size: Sequence[int],
           notes: Optional[Dict[str, str]] = None) -> Any:
    """The model of a graph from ``images`` (B, C, H, W) to ``logits``.

    Args:
        graph (GraphBuilder): With all its nodes.
        logits (str): Name of the output.
        input_size (Sequence[int]): (C, H, W).
        notes (dict[str, str], optional): Written into the file.

    Returns:
        onnx.ModelProto: Checked.
    """
    onnx = graph.onnx
    graph.nodes.append(onnx.helper.make_node('Identity', [logits], ['logits']))
    kind = onnx.TensorProto.FLOAT
    made = onnx.helper.make_graph(graph.nodes, 'distance_net', [
        onnx.helper.make_tensor_value_info('images', kind,
                                           ['batch', *input_size])
    ], [
        onnx.helper.make_tensor_value_info('logits', kind,
                                           ['batch', 'classes'])
    ], graph.constants)
    model = onnx.helper.make_model(
        made,
        producer_name='mmext',
        opset_imports=[onnx.helper.make_opsetid('', OPSET)])
    # Readers of this opset know no newer format.
    model.ir_version = 8
    if notes:
        onnx.helper.set_model_props(model, notes)
    onnx.checker.check_model(model)
    return model
