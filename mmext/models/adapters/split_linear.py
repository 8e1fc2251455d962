# Copyright (c) mmext contributors. All rights reserved.
"""A linear layer whose tensors are split into modules."""
from typing import List, Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmext.utils.user_error import ConfigError
from .functional import (check_merge_mode, check_partition, draw_scores,
                         merge_compact, merge_modules, partition)

STORAGES = ('compact', 'replicated')


class SplitLinear(nn.Module):
    r"""N modules of a linear layer that share out its elements.

    Module k differs from the common start only where it is the owner:

    .. math:: W_k = W_{init} + M_k \odot (W - W_{init})

    In training the modules named by :attr:`index` are used, one for each
    equal part of the batch; in evaluation the merged layer is computed from
    the current values, so it is never out of date.

    Two storages hold the same mathematics. ``'compact'`` keeps one dense
    ``weight`` plus the buffer ``owner`` (and ``init``, if it is not zero):
    gradients are masked by selection and memory is that of one layer.
    ``'replicated'`` keeps N full copies in ``weights``, as the authors' code
    does, each with its own optimizer state; elements that a module does not
    own then shrink under weight decay, where in ``'compact'`` they do not
    change at all.

    A bias is held in full by every module, shape (N, out), unless
    ``split_bias``.

    Args:
        in_features (int): Size of the input.
        out_features (int): Size of the output.
        num_modules (int): N, at least 2.
        bias (bool): Whether there is a bias. Defaults to True.
        split_bias (bool): Share out the bias too. Defaults to False.
        granularity (str): See
            :func:`~mmext.models.adapters.functional.partition`.
            Defaults to ``'element'``.
        storage (str): ``'compact'`` or ``'replicated'``.
            Defaults to ``'compact'``.
        merge (str): How modules merge, see
            :func:`~mmext.models.adapters.functional.merge_modules`.
            Defaults to ``'mean'``.
        seed (int): Seed of the masks. Defaults to 0.
        name (str): Name of the layer in the model, which with ``seed``
            decides its masks. Defaults to ``'linear'``.

    Raises:
        ConfigError: For an unknown option, or more modules than elements.
    """

    def __init__(self,
                 in_features: int,
                 out_features: int,
                 num_modules: int,
                 bias: bool = True,
                 split_bias: bool = False,
                 granularity: str = 'element',
                 storage: str = 'compact',
                 merge: str = 'mean',
                 seed: int = 0,
                 name: str = 'linear') -> None:
        super().__init__()
        if storage not in STORAGES:
            raise ConfigError("storage is 'compact' or 'replicated', but got "
                              f'{storage!r}.')
        self.in_features = in_features
        self.out_features = out_features
        self.num_modules = num_modules
        self.storage = storage
        self.merge_mode = check_merge_mode(merge)
        self.granularity = granularity
        self._training_state: Optional[dict] = None
        self._declare('weight', (out_features, in_features), True, seed, name)
        if bias:
            self._declare('bias', (out_features, ), split_bias, seed, name)
        else:
            self.register_parameter('bias', None)
            self.register_buffer('bias_owner', None)
        # Set from outside before each pass, so that a recomputed or a
        # compiled forward uses the same modules; a plain forward takes 0.
        # No buffer: averaged models copy buffers and expect equal shapes.
        self.index = torch.zeros(1, dtype=torch.long)

    def _declare(self, kind: str, shape: tuple, split: bool, seed: int,
                 name: str) -> None:
        """Create parameters and buffers of the weight or the bias."""
        owner = None
        if split:
            full = f'{name}.{kind}'
            check_partition(shape, self.num_modules, self.granularity, full)
            owner = partition(
                draw_scores(shape, seed, full), self.num_modules,
                self.granularity)
        prefix = 'bias_' if kind == 'bias' else ''
        self.register_buffer(f'{prefix}owner', owner)
        if self.storage == 'replicated':
            plural = 'biases' if kind == 'bias' else 'weights'
            copies = [
                nn.Parameter(torch.zeros(shape))
                for _ in range(self.num_modules)
            ]
            setattr(self, plural, nn.ParameterList(copies))
            return
        full_shape = shape if split else (self.num_modules, *shape)
        setattr(self, kind, nn.Parameter(torch.zeros(full_shape)))
        self.register_buffer(f'{prefix}init', None)

    # What is stored --------------------------------------------------------

    @property
    def has_bias(self) -> bool:
        """bool: Whether the layer has a bias."""
        return 'biases' in self._modules or self._parameters.get(
            'bias') is not None

    @property
    def merged(self) -> bool:
        """bool: Whether the layer has been collapsed by :meth:`merge`."""
        return self._training_state is not None

    def kinds(self) -> List[str]:
        """``['weight']`` or ``['weight', 'bias']``."""
        return ['weight', 'bias'] if self.has_bias else ['weight']

    def owner_of(self, kind: str) -> Optional[Tensor]:
        """Owners of ``'weight'`` or ``'bias'``; None if it is not split."""
        return self.bias_owner if kind == 'bias' else self.owner

    def parameters_of(self, kind: str) -> List[nn.Parameter]:
        """The parameters of ``'weight'`` or ``'bias'``: one, or N copies."""
        if self.storage == 'replicated' and not self.merged:
            return list(self.biases if kind == 'bias' else self.weights)
        return [self.bias if kind == 'bias' else self.weight]

    def init_of(self, kind: str) -> Optional[Tensor]:
        """What compact storage holds outside a module; None is zero."""
        return self.bias_init if kind == 'bias' else self.init

    @torch.no_grad()
    def load_dense(self,
                   weight: Tensor,
                   bias: Optional[Tensor] = None) -> None:
        """Let every module start as a copy of one dense layer.

        Args:
            weight (Tensor): Shape (out, in).
            bias (Tensor, optional): Shape (out,). Defaults to None, zeros.
        """
        if self.merged:
            raise RuntimeError('The layer is merged; call unmerge() before '
                               'loading a dense layer into its modules.')
        for kind in self.kinds():
            value = weight if kind == 'weight' else bias
            if value is None:
                value = weight.new_zeros(self.out_features)
            for parameter in self.parameters_of(kind):
                parameter.copy_(value)
            if self.storage == 'compact' and self.owner_of(kind) is not None:
                prefix = 'bias_' if kind == 'bias' else ''
                like = self.parameters_of(kind)[0]
                setattr(self, f'{prefix}init',
                        value.to(like).clone() if value.any() else None)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args,
                              **kwargs) -> None:
        # A layer that was started from zero has no ``init``; what is loaded
        # may have been started from a trained layer, and the reverse.
        for kind, name in (('weight', 'init'), ('bias', 'bias_init')):
            if name in self._buffers and f'{prefix}{kind}' in state_dict:
                given = state_dict.get(f'{prefix}{name}')
                like = self.parameters_of(kind)[0]
                setattr(self, name,
                        None if given is None else torch.empty_like(like))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    # Modules and their merge -----------------------------------------------

    def _select(self, kind: str, index: Tensor) -> Tensor:
        """Values of the modules in ``index``, shape (P, ...)."""
        owner = self.owner_of(kind)
        if self.storage == 'compact':
            value = self.parameters_of(kind)[0]
            if owner is None:
                return value.index_select(0, index)
            init = self.init_of(kind)
            return torch.where(
                self._mine(owner, index), value, 0. if init is None else init)
        chosen = torch.stack(self.parameters_of(kind)).index_select(0, index)
        if owner is None:
            return chosen
        # The forward is that of a dense layer; only gradients are masked.
        return torch.where(self._mine(owner, index), chosen, chosen.detach())

    @staticmethod
    def _mine(owner: Tensor, index: Tensor) -> Tensor:
        return owner == index.to(owner.dtype).view(-1, *[1] * owner.dim())

    def _merged(self, kind: str, mode: Optional[str]) -> Tensor:
        mode = check_merge_mode(mode or self.merge_mode)
        values, owner = self.parameters_of(kind), self.owner_of(kind)
        if self.merged:
            if mode != self.merge_mode:
                raise RuntimeError(
                    f'The layer is merged by {self.merge_mode!r}; call '
                    f'unmerge() before asking for {mode!r}.')
            return values[0]
        if self.storage == 'replicated':
            return merge_modules(values, owner, mode)
        if owner is None:
            return merge_modules(values[0].unbind(0), None, mode)
        return merge_compact(values[0], self.init_of(kind), self.num_modules,
                             mode)

    def modules_weight(self, k: int) -> Tensor:
        """Weight of module ``k``, shape (out, in)."""
        return self._select('weight', self._single(k))[0]

    def modules_bias(self, k: int) -> Optional[Tensor]:
        """Bias of module ``k``, shape (out,), or None."""
        if not self.has_bias:
            return None
        return self._select('bias', self._single(k))[0]

    def _single(self, k: int) -> Tensor:
        return torch.tensor([k], device=self.parameters_of('weight')[0].device)

    def merged_weight(self, mode: Optional[str] = None) -> Tensor:
        """Merged weight, shape (out, in), by ``mode`` or the layer's own."""
        return self._merged('weight', mode)

    def merged_bias(self, mode: Optional[str] = None) -> Optional[Tensor]:
        """Merged bias, shape (out,), or None."""
        return self._merged('bias', mode) if self.has_bias else None

    def merge(self) -> None:
        """Collapse to one dense layer; calling it again changes nothing.

        The modules are put aside, out of the state dict, until
        :meth:`unmerge`.
        """
        if self.merged:
            return
        with torch.no_grad():
            weight = self.merged_weight().clone()
            bias = self.merged_bias()
            bias = None if bias is None else bias.clone()
        names = ('weight', 'bias', 'weights', 'biases', 'owner', 'bias_owner',
                 'init', 'bias_init')
        groups = dict(
            _parameters=self._parameters,
            _modules=self._modules,
            _buffers=self._buffers)
        self._training_state = {
            group: {
                n: table.pop(n)
                for n in names if n in table
            }
            for group, table in groups.items()
        }
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_parameter(
            'bias',
            None if bias is None else nn.Parameter(bias, requires_grad=False))
        for name in ('owner', 'bias_owner'):
            self.register_buffer(name, None)

    def unmerge(self) -> None:
        """Bring the modules back, bit for bit as they were."""
        if not self.merged:
            return
        device = self.weight.device
        for name in ('weight', 'bias'):
            del self._parameters[name]
        for name in ('owner', 'bias_owner'):
            del self._buffers[name]
        for group, table in self._training_state.items():
            getattr(self, group).update(table)
        self._training_state = None
        self.to(device)

    # Forward ---------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Apply the drawn modules (training) or the merged layer.

        Args:
            x (Tensor): Shape (B, ..., in). With P entries in :attr:`index`
                the i-th of P equal parts of the batch meets module
                ``index[i]``.

        Returns:
            Tensor: Shape (B, ..., out).
        """
        if not self.training or self.merged:
            return F.linear(x, self.merged_weight(), self.merged_bias())
        index = self.index.to(x.device)
        weight = self._select('weight', index)
        bias = self._select('bias', index) if self.has_bias else None
        passes = index.numel()
        if passes == 1:
            return F.linear(x, weight[0], None if bias is None else bias[0])
        if x.size(0) % passes:
            raise ValueError(
                f'The modules of {passes} passes are set, so the batch is '
                f'expected in {passes} equal parts, but it has {x.size(0)} '
                'entries. Call draw(num_passes=1) of the model before a '
                'training-mode forward of a plain batch.')
        parts = x.reshape(passes, -1, self.in_features)
        weight = weight.transpose(1, 2)
        out = torch.bmm(parts, weight) if bias is None else torch.baddbmm(
            bias.unsqueeze(1), parts, weight)
        return out.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return (f'in_features={self.in_features}, '
                f'out_features={self.out_features}, bias={self.has_bias}, '
                f'num_modules={self.num_modules}, storage={self.storage!r}, '
                f'merged={self.merged}')
