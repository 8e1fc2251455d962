# Copyright (c) mmext contributors. All rights reserved.
"""A teacher that follows a student with one decay per parameter group."""
import re
from copy import deepcopy
from typing import Dict, List, Mapping, Optional, Union

import torch
import torch.nn as nn
from torch import Tensor

from mmext.utils.user_error import ConfigError


def _copy(model: nn.Module) -> nn.Module:
    """A deep copy that computes with its own weights.

    Activation checkpointing of mmengine puts a function over a module's
    ``forward`` that is bound to this module, and stays so in a copy.
    """
    copied = deepcopy(model)
    for module in copied.modules():
        over = vars(module).get('forward')
        bound = getattr(over, '__wrapped__', None)
        if isinstance(getattr(bound, '__self__', None), nn.Module):
            del module.forward
    return copied


class GroupEMA(nn.Module):
    r"""Exponential moving average with a decay per group of parameters.

    .. math:: \theta_T \leftarrow \alpha_g \theta_T + (1-\alpha_g) \theta_S

    The decay :math:`\alpha` is the weight that the *teacher* keeps (0.999 in
    the papers), the complement of mmengine's ``momentum``. Unlike mmengine's
    ``BaseAveragedModel`` the first update already averages, groups may have
    their own decay that changes from step to step, and buffers stay as they
    are unless asked for.

    Args:
        model (nn.Module): The student; copied.
        decay (float): Decay of parameters in no group. Defaults to 0.999.
        groups (dict[str, float], optional): Regular expression -> decay; a
            parameter belongs to the first expression that
            ``re.search`` finds in its name. Defaults to None.
        update_buffers (bool | str): Copy buffers at each update, or
            ``'average'`` those of floating point with ``decay`` and copy
            the others. Defaults to False.

    Raises:
        ConfigError: If a decay lies outside [0, 1], a group matches no
            parameter or ``update_buffers`` is another word.

    Examples:
        >>> import torch.nn as nn
        >>> from mmext.models.teachers import GroupEMA
        >>> student = nn.Linear(2, 2)
        >>> teacher = GroupEMA(student, 0.999, groups={'bias': 0.9})
        >>> teacher.update(student, {'bias': 0.5})
    """

    def __init__(self,
                 model: nn.Module,
                 decay: float = 0.999,
                 groups: Optional[Dict[str, float]] = None,
                 update_buffers: Union[bool, str] = False) -> None:
        super().__init__()
        if update_buffers not in (True, False, 'average'):
            raise ConfigError("update_buffers is True, False or 'average', "
                              f'but got {update_buffers!r}.')
        self.module = _copy(model)
        self.module.eval().requires_grad_(False)
        self.decay = self._checked('decay', decay)
        self.groups = {
            pattern: self._checked(pattern, value)
            for pattern, value in (groups or {}).items()
        }
        self.update_buffers = update_buffers
        self._members = self._assign()

    @staticmethod
    def _checked(name: str, value: float) -> float:
        if not 0 <= value <= 1:
            raise ConfigError(
                f'The EMA decay is the weight that the teacher keeps, '
                f'expected in [0, 1], but {name!r} got {value}.')
        return value

    def _assign(self) -> Dict[Optional[str], List[str]]:
        members: Dict[Optional[str], List[str]] = {None: []}
        members.update({pattern: [] for pattern in self.groups})
        for name, _ in self.module.named_parameters():
            group = next((p for p in self.groups if re.search(p, name)), None)
            members[group].append(name)
        empty = [p for p in self.groups if not members[p]]
        if empty:
            raise ConfigError(
                f'No parameter matches the EMA group(s) {empty}. Parameters '
                f'are named like {members[None][:3]}.')
        return members

    @torch.no_grad()
    def update(
            self,
            model: nn.Module,
            decay: Optional[Union[float, Mapping[str, float]]] = None) -> None:
        """Move the teacher towards ``model``.

        Args:
            model (nn.Module): The student.
            decay (float | Mapping[str, float], optional): For this step
                only: a decay for all parameters, or one per group. Defaults
                to None, the decays of the constructor.
        """
        student = dict(model.named_parameters())
        teacher = dict(self.module.named_parameters())
        for group, names in self._members.items():
            if names:
                torch._foreach_lerp_([teacher[n] for n in names],
                                     [student[n].detach() for n in names],
                                     1. - self._decay_of(group, decay))
        if self.update_buffers:
            self._update_buffers(model, self._decay_of(None, decay))

    def _decay_of(self, group: Optional[str],
                  decay: Optional[Union[float, Mapping[str, float]]]) -> float:
        value = self.decay if group is None else self.groups[group]
        if isinstance(decay, Mapping):
            value = decay.get(group, value)
        elif decay is not None:
            value = decay
        return self._checked(str(group), value)

    def _update_buffers(self, model: nn.Module, decay: float) -> None:
        buffers = dict(model.named_buffers())
        for name, buffer in self.module.named_buffers():
            if self.update_buffers == 'average' and \
                    buffer.is_floating_point():
                buffer.lerp_(buffers[name].to(buffer), 1. - decay)
            else:
                buffer.copy_(buffers[name])

    def forward(self, *args, **kwargs) -> Union[Tensor, list, dict]:
        """Run the teacher."""
        return self.module(*args, **kwargs)
