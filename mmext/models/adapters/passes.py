# Copyright (c) mmext contributors. All rights reserved.
"""The drawn modules of a step, and what two passes need around them."""
from typing import Any, Callable, List, Optional, Sequence, Set

import torch
import torch.nn as nn
from torch import Tensor

from mmext.utils.random import RandomSource
from .split_linear import SplitLinear
from .split_options import Draw


def let_gradients_through(model: nn.Module) -> None:
    """Let adapters inside of checkpointed blocks be trained.

    torch's reentrant checkpointing, which mmengine's
    ``activation_checkpointing`` uses, gives the output of a block a gradient
    only where its input has one. Behind a frozen stem the first block's has
    none, nor that of any block after it, and nothing but the head would be
    trained. Such inputs are therefore declared to need a gradient.

    Args:
        model (nn.Module): Its blocks whose ``forward`` was replaced, and
            which hold something to train, are treated.
    """
    for module in model.modules():
        if 'forward' not in vars(module) or \
                _need_gradient in module._forward_pre_hooks.values():
            continue
        # A compiled module has a forward of its own as well.
        if type(module).__name__ != 'OptimizedModule' and any(
                p.requires_grad for p in module.parameters()):
            module.register_forward_pre_hook(_need_gradient)


def _need_gradient(module: nn.Module, args: tuple) -> Optional[tuple]:
    first = args[0] if args else None
    if not torch.is_grad_enabled() or not isinstance(first, Tensor) or \
            first.requires_grad or not first.is_floating_point():
        return None
    return (first.detach().requires_grad_(), *args[1:])


class Drawing:
    """The module indices of all adapters, in execution order.

    A step's table of indices goes to the layers as views of one tensor on
    their device. Layers that are not split consume a draw too, as in the
    authors' code.

    Args:
        adapters (Sequence[nn.Module]): The adapters, in execution order.
    """

    def __init__(self, adapters: Sequence[nn.Module]) -> None:
        self.draws: List[Draw] = [
            draw for adapter in adapters for draw in adapter.draws()
        ]
        self.sizes = torch.tensor([draw.num_modules for draw in self.draws],
                                  dtype=torch.long)
        self.table: Optional[Tensor] = None
        self._placed: Optional[Tensor] = None
        self._fresh = False
        # Modules drawn since the last optimizer step, by layer.
        self.drawn: List[Set[int]] = [set() for _ in self.draws]

    def draw(self, num_passes: int, rng: RandomSource) -> Tensor:
        """Uniform, independent indices, shape (passes, draws)."""
        uniform = torch.rand(
            num_passes,
            len(self.draws),
            dtype=torch.float64,
            generator=rng.generator(torch.device('cpu')))
        table = (uniform * self.sizes).long()
        for i, draw in enumerate(self.draws):
            if draw.tied and draw.num_modules == self.sizes[i - 1]:
                table[:, i] = table[:, i - 1]
        return table

    def set(self, table: Tensor, device: torch.device) -> None:
        """Use ``table``, shape (passes, draws), until the next one.

        Raises:
            ValueError: If its width or its values do not fit.
        """
        table = table.cpu().long()
        if table.dim() != 2 or table.size(1) != len(self.draws):
            raise ValueError(
                f'The adapters take {len(self.draws)} indices for each pass, '
                f'but the table has the shape {tuple(table.shape)}.')
        split = self.sizes > 1
        if ((table < 0) | (table >= self.sizes))[:, split].any():
            raise ValueError('Module indices are expected in 0..N-1 with N='
                             f'{int(self.sizes.max())}, but got '
                             f'{int(table.min())}..{int(table.max())}.')
        self.table = table
        self._placed = table.t().contiguous().to(device)
        self._fresh = True
        for i, drawn in enumerate(self.drawn):
            drawn.update(table[:, i].tolist())
        self._hand_out(slice(None))

    def enter(self, number: int) -> None:
        """Let the layers use the modules of one pass only."""
        self._hand_out(slice(number, number + 1))

    def _hand_out(self, passes: slice) -> None:
        for row, draw in zip(self._placed, self.draws):
            if isinstance(draw.layer, SplitLinear):
                # A new tensor each time: writing into the old one would
                # disturb a graph that still has to run backward.
                draw.layer.index = row[passes]

    def take(self, num_passes: int) -> bool:
        """Whether fresh indices for ``num_passes`` are set; uses them up."""
        fresh = self._fresh and len(self.table) == num_passes
        self._fresh = False
        return fresh

    def forget(self) -> None:
        """Start a new optimizer step."""
        for drawn in self.drawn:
            drawn.clear()


class OutputTap:
    """Context: collect the outputs of some modules.

    Args:
        modules (Sequence[nn.Module]): The modules, in execution order.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules
        self.outputs: List[Tensor] = []
        self._handles: list = []

    def __enter__(self) -> 'OutputTap':
        self._handles = [
            module.register_forward_hook(self._keep) for module in self.modules
        ]
        return self

    def _keep(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        self.outputs.append(output)

    def __exit__(self, *exc: Any) -> None:
        for handle in self._handles:
            handle.remove()


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply ``function`` to the tensors in nested lists, tuples, dicts."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {k: map_tensors(v, function) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [map_tensors(item, function) for item in value]
        named = hasattr(value, '_fields')
        return type(value)(*items) if named else type(value)(items)
    return value


def chunk(value: Any, parts: int) -> List[Any]:
    """Cut the tensors in a nested value along the batch axis."""
    return [
        map_tensors(value, lambda tensor, i=i: tensor.chunk(parts)[i])
        for i in range(parts)
    ]


class _OnBackward(torch.autograd.Function):
    """Identity that calls a function when its backward begins."""

    @staticmethod
    def forward(ctx, function: Callable[[], None], *tensors: Tensor):
        ctx.function = function
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        ctx.function()
        return (None, *grads)


def on_backward(function: Callable[[], None], value: Any) -> Any:
    """Call ``function`` in backward before anything behind ``value`` runs.

    Args:
        function (Callable): Called without arguments.
        value (Any): Tensors in nested lists, tuples and dicts.

    Returns:
        Any: The same values, to be used instead of ``value``.
    """
    flat: List[Tensor] = []
    map_tensors(value, lambda tensor: flat.append(tensor) or tensor)
    marked = iter(_OnBackward.apply(function, *flat))
    return map_tensors(value, lambda tensor: next(marked))
