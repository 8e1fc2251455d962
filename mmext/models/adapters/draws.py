# Copyright (c) mmext contributors. All rights reserved.
"""Which modules of the adapters the next training step uses."""
import logging
from typing import Dict, Optional

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmext.utils.random import RandomSource
from mmext.utils.user_error import ConfigError
from .passes import Drawing, let_gradients_through


class AdapterDraws:
    """The draws of a :class:`~mmext.models.adapters.MoSAModel`."""

    def _init_draws(self, seed: int) -> None:
        self.rng = RandomSource(seed)
        self._drawing: Optional[Drawing] = None
        # How many optimizers know which modules were drawn.
        self.guards = 0
        self._told_unguarded = False

    @property
    def drawing(self) -> Drawing:
        """Drawing: The draws of the active adapters."""
        if self._drawing is None:
            self._drawing = Drawing(list(self.adapter_modules().values()))
        return self._drawing

    @torch.compiler.disable
    def draw(self, num_passes: Optional[int] = None) -> Tensor:
        """Draw the modules of the next training step.

        Every pass gets indices of its own, uniform and independent, from a
        generator that only this model uses; all ranks draw the same.

        Args:
            num_passes (int, optional): Defaults to None, the model's.

        Returns:
            Tensor: Indices, shape (passes, draws), in execution order.
        """
        table = self.drawing.draw(num_passes or self.num_passes, self.rng)
        return self.set_indices(table)

    @torch.compiler.disable
    def set_indices(self, table: Tensor) -> Tensor:
        """Set the modules of the next training step instead of drawing.

        Args:
            table (Tensor): Indices, shape (passes, draws).

        Returns:
            Tensor: ``table``.
        """
        self.drawing.set(table, next(self.parameters()).device)
        return table

    @torch.compiler.disable
    def _ready(self, num_passes: int) -> None:
        """Draw, unless a hook has done so for this step."""
        if not self.drawing.take(num_passes):
            self._tell_unguarded()
            self.draw(num_passes)
            self.drawing.take(num_passes)
        let_gradients_through(self)

    def _tell_unguarded(self) -> None:
        """Say once what a training without the hook does not have."""
        if self.guards or self._told_unguarded or not self._draws_modules():
            return
        self._told_unguarded = True
        print_log(
            'MoSA: there is no MoSAHook, so that the model draws its modules '
            "itself, checkpoints lack the state of the draws ('mosa') and "
            'nothing is logged of the modules: a resumed run draws other '
            'modules than the one that was stopped, and is refused by the '
            "hook. Add custom_hooks = [dict(type='mmext.MoSAHook')]; a loop "
            'of your own calls model.guard(optimizer).',
            logger='current',
            level=logging.WARNING)

    def _draws_modules(self) -> bool:
        """Whether some layer has modules to draw from."""
        return bool((self.drawing.sizes > 1).any())

    def check_guard(self) -> None:
        """Refuse a training step whose ``inactive='skip'`` would be idle.

        Raises:
            ConfigError: If no optimizer is guarded.
        """
        if self.inactive == 'skip' and not self.guards and \
                self._draws_modules():
            raise ConfigError(
                "inactive='skip' needs an optimizer that knows which modules "
                'were drawn, but none is guarded, so that every step would '
                "move all of them. Add custom_hooks = [dict(type="
                "'mmext.MoSAHook')] to the config; a loop of your own calls "
                'model.guard(optimizer) once.')

    def draw_state(self) -> dict:
        """What a checkpoint needs to go on: generator and options."""
        return dict(rng=self.rng.state_dict(), options=self._options())

    def load_draw_state(self, state: dict) -> None:
        """Restore what :meth:`draw_state` returned.

        Raises:
            ConfigError: If it comes from a model with other options.
        """
        mine, given = self._options(), state['options']
        wrong = [
            f'{name}.{key}: checkpoint {given.get(name, {}).get(key)!r}, '
            f'model {value!r}' for name, options in mine.items()
            for key, value in options.items()
            # how modules are merged may change at any time
            if key != 'merge' and given.get(name, {}).get(key) != value
        ]
        if wrong or set(given) - set(mine):
            wrong += [
                f'{name}: not in the model'
                for name in sorted(set(given) - set(mine))
            ]
            raise ConfigError(
                'The checkpoint was written by a model with other adapters; '
                'nothing was restored.\n  ' + '\n  '.join(wrong) +
                '\nResume with the config of the interrupted run, or start '
                'a new one without --resume.')
        self.rng.load_state_dict(state['rng'])

    def _options(self) -> Dict[str, dict]:
        """Options of all adapters that decide masks and tensors."""
        found = {}
        for name, cfg in self.adapter_cfgs.items():
            options = {k: v for k, v in cfg['split'].items() if k != 'seed'}
            found[name] = dict(
                options, adapter=cfg['adapter'], targets=cfg['targets'])
        return found
