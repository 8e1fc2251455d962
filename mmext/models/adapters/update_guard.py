# Copyright (c) mmext contributors. All rights reserved.
"""What an optimizer step does to modules that were not drawn."""
from typing import Any, List, Tuple

import torch
import torch.nn as nn
from torch import Tensor


class UpdateGuard:
    """Restrict optimizer steps to the modules that were drawn.

    ``inactive='skip'``: weights and moments of modules that no pass since
    the last step has drawn stay as they are. With compact storage all
    modules share one step counter; with replicated storage each module has
    its own, which stands still too.

    ``inactive='zero_grad'``: an undrawn module gets a zero gradient, so its
    momentum moves it. With replicated storage it is left alone until it is
    drawn for the first time, as in the authors' code under PyTorch 1.11;
    compact storage needs no help.

    A model in eval mode is trained through its merged adapters, as in
    test-time adaptation; nothing is undrawn then.

    Args:
        model (MoSAModel): The model.
        optimizer (torch.optim.Optimizer): Its optimizer.
    """

    def __init__(self, model: Any, optimizer: torch.optim.Optimizer) -> None:
        self.model = model
        self.optimizer = optimizer
        self._kept: List[Tuple[Tensor, Tensor, Tensor]] = []
        self._idle: List[Tuple[nn.Parameter, Tensor]] = []
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after)
        ]

    def remove(self) -> None:
        """Take the guard off the optimizer."""
        if self._handles:
            self.model.guards -= 1
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @torch.no_grad()
    def _before(self, *args: Any) -> None:
        self._kept, self._idle = [], []
        drawing = self.model.drawing
        if not self.model.training:
            return
        for draw, drawn in zip(drawing.draws, drawing.drawn):
            if draw.num_modules < 2 or draw.layer.merged:
                continue
            for kind in draw.layer.kinds():
                if draw.layer.storage == 'replicated':
                    self._without_gradient(
                        draw.layer.parameters_of(kind), drawn)
                elif self.model.inactive == 'skip':
                    self._keep(draw.layer, kind, drawn)

    def _without_gradient(self, copies: List[nn.Parameter],
                          drawn: set) -> None:
        for k, parameter in enumerate(copies):
            fresh = parameter not in self.optimizer.state
            if k not in drawn and (self.model.inactive == 'skip' or fresh):
                parameter.grad = None

    def _keep(self, layer: nn.Module, kind: str, drawn: set) -> None:
        parameter, = layer.parameters_of(kind)
        active = torch.zeros(
            layer.num_modules, dtype=torch.bool, device=parameter.device)
        active[sorted(drawn)] = True
        owner = layer.owner_of(kind)
        idle = ~active if owner is None else ~active[owner.long()]
        moments = self._moments(parameter)
        self._kept += [(tensor, idle, tensor[idle])
                       for tensor in [parameter.data] + moments]
        if not moments:
            self._idle.append((parameter, idle))

    def _moments(self, parameter: nn.Parameter) -> List[Tensor]:
        return [
            value
            for value in self.optimizer.state.get(parameter, {}).values()
            if isinstance(value, Tensor) and value.shape == parameter.shape
        ]

    @torch.no_grad()
    def _after(self, *args: Any) -> None:
        for tensor, idle, value in self._kept:
            tensor[idle] = value
        for parameter, idle in self._idle:
            # Moments that this step created hold a decay of what is idle.
            for tensor in self._moments(parameter):
                tensor[idle] = 0
        self._kept, self._idle = [], []
        self.model.drawing.forget()
