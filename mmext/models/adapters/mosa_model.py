# Copyright (c) mmext contributors. All rights reserved.
"""The wrapper that turns a host model into one tuned with MoSA."""
import logging
import re
from typing import Any, Dict, List, Optional, Sequence, Set, Union

import torch
import torch.nn as nn
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor

from mmext.registry import MODELS
from mmext.utils.arguments import as_tuple, is_count, is_number
from mmext.utils.user_error import ConfigError
from .blocks import find_host
from .draws import AdapterDraws
from .host_weights import init_host_weights
from .injection import Plan, check_pattern, plain
from .lifecycle import AdapterLifecycle
from .loading import check_adapter_state
from .slots import SLOT, slots
from .split_linear import SplitLinear
from .two_pass import TwoPassLoss
from .update_guard import UpdateGuard

_LOSS = dict(kl_weight=1., aux_ce_weight=0., deep_weight=0., deep_blocks=6)
DEFAULT_NAME = 'default'


@MODELS.register_module()
class MoSAModel(AdapterLifecycle, AdapterDraws, TwoPassLoss, BaseModel):
    r"""Fine-tune a host model with a mixture of sparse adapters.

    Adapters (arXiv 2312.02923) are put into the blocks of the host after its
    weights are there. Each is split into N modules that share out its
    elements; every pass of a training step uses one drawn module per
    projection, and evaluation uses their merge, which has the size and cost
    of a standard adapter. A step runs two passes over the batch:

    .. math::
        L = CE(z^1, y) + \lambda_{aux} CE(z^2, y) +
        \lambda_{kl} \tfrac12 [KL(sg(p^2) \| p^1) + KL(sg(p^1) \| p^2)] +
        \lambda_{deep} \tfrac1L \sum_{l \le 6} MSE(h^1_l, h^2_l)

    The wrapper has the host's parameter names and answers to its methods, so
    ``state_dict``, layer-wise decay and stock tools see the host plus keys
    ``<block>.mosa.<adapter name>.*``. Host weights are frozen, the head is
    trained.

    Args:
        module (dict | nn.Module): The whole host: a classifier or a
            segmentor. A config is built and its ``init_weights`` is called;
            a module is taken as it is.
        adapter (dict): ``type`` is ``AdaptFormer``, ``Pfeiffer``,
            ``Houlsby`` or ``LoRA``, or one of the plain baselines
            ``BitFit``, ``SSF``, ``LinearProbe``, ``FullFineTune``. The other
            keys are options of that class. ``fixed_mask=True`` trains one
            random 1/N of a standard adapter instead of modules.
        num_modules (int): N; 1 is the standard adapter. Defaults to 4.
        split (str): Which projection is split: ``'up'``, ``'down'`` or
            ``'both'``. Defaults to ``'up'``.
        granularity (str): ``'element'``, ``'row'`` or ``'column'``.
            Defaults to ``'element'``.
        split_bias (bool): Split biases too. Defaults to False.
        tie_indices (bool): One draw for both projections of an adapter.
            Defaults to False.
        storage (str): ``'compact'``, or ``'replicated'`` as in the authors'
            code, see
            :class:`~mmext.models.adapters.split_linear.SplitLinear`.
            Defaults to ``'compact'``.
        inactive (str): What an optimizer step does to modules that were not
            drawn: ``'zero_grad'`` moves them by their momentum, ``'skip'``
            leaves weights and moments untouched. Defaults to
            ``'zero_grad'``.
        merge (str): ``'mean'``, ``'union'`` or ``'official_joint'``.
            Defaults to ``'mean'``.
        num_passes (int): 1 or 2. Defaults to 2.
        batch_passes (bool): Run both passes as one batch of twice the size;
            else one after the other, which is a little slower and saves
            next to nothing, as both passes' activations are kept for the
            backward. Batch norm of a trained head sees both passes at once,
            or is updated twice. Defaults to True.
        loss (dict, optional): ``kl_weight`` (1.0), ``aux_ce_weight`` (0.0),
            ``deep_weight`` (0.0; 0.01 as published for Cars) and
            ``deep_blocks`` (6).
        targets (Sequence[dict], optional): Which blocks, each a
            ``dict(pattern=..., **overrides)`` with a class name, a regular
            expression or a suffix. Defaults to None, every block.
        train_head (bool | str | Sequence[str]): Keep the host's heads
            trainable; or one or more regular expressions of parameter names
            to keep trainable. Defaults to True.
        frozen_backbone_eval (bool): Keep the frozen backbone in eval mode
            in training, without dropout and stochastic depth; adapters stay
            in training mode. Defaults to False, as published.
        seed (int): Seed of masks and draws, not of the run. Defaults to 0.
        data_preprocessor (dict, optional): That of the host, unless
            ``module`` has one; runners put a config's top-level one here.
            Defaults to None.

    Examples:
        >>> model = dict(
        ...     type='mmext.MoSAModel',
        ...     module=dict(type='ImageClassifier', ...),
        ...     adapter=dict(type='AdaptFormer', bottleneck=64))
        >>> custom_hooks = [dict(type='mmext.MoSAHook')]
    """

    def __init__(self,
                 module: Union[dict, nn.Module],
                 adapter: dict = dict(type='AdaptFormer'),
                 num_modules: int = 4,
                 split: str = 'up',
                 granularity: str = 'element',
                 split_bias: bool = False,
                 tie_indices: bool = False,
                 storage: str = 'compact',
                 inactive: str = 'zero_grad',
                 merge: str = 'mean',
                 num_passes: int = 2,
                 batch_passes: bool = True,
                 loss: Optional[dict] = None,
                 targets: Optional[Sequence[dict]] = None,
                 train_head: Union[bool, str, Sequence[str]] = True,
                 frozen_backbone_eval: bool = False,
                 seed: int = 0,
                 data_preprocessor: Optional[dict] = None) -> None:
        super().__init__()
        if inactive not in ('zero_grad', 'skip'):
            raise ConfigError("inactive is 'zero_grad' or 'skip', but got "
                              f'{inactive!r}.')
        if num_passes not in (1, 2):
            raise ConfigError(f'num_passes is 1 or 2, but got {num_passes!r}.')
        unknown = sorted(set(loss or {}) - set(_LOSS))
        if unknown:
            raise ConfigError(f'loss takes {", ".join(_LOSS)}, but got '
                              f'{", ".join(unknown)}.')
        for key, value in (loss or {}).items():
            fits, expected = (is_count, 'a whole number of at least 1') \
                if key == 'deep_blocks' else \
                (lambda v: is_number(v, 0), 'a number, not negative')
            if not fits(value):
                raise ConfigError(f'loss.{key} is {expected}, but got '
                                  f'{value!r}.')
        self.inactive = inactive
        self.num_passes = num_passes
        self.batch_passes = batch_passes
        self.loss_cfg = dict(_LOSS, **(loss or {}))
        self.train_head = train_head if isinstance(train_head, bool) \
            else as_tuple(train_head)
        self.frozen_backbone_eval = frozen_backbone_eval
        self.seed = seed
        self.split_cfg = dict(
            num_modules=num_modules,
            split=split,
            granularity=granularity,
            split_bias=split_bias,
            tie_indices=tie_indices,
            storage=storage,
            merge=merge,
            seed=seed)
        self.adapter_cfgs: Dict[str, dict] = {}
        plan = Plan(adapter, self.split_cfg, targets)
        if data_preprocessor is not None:
            if not isinstance(module, dict):
                raise ConfigError('module is a built model, which has its own '
                                  'data_preprocessor; give none beside it.')
            module = module.copy()
            module.setdefault('data_preprocessor', data_preprocessor)
        self._adopt(module)
        self._check_head_patterns()
        self._host_flags = {
            name: parameter.requires_grad
            for name, parameter in self.named_parameters()
        }
        self._active = DEFAULT_NAME
        self._init_draws(seed)
        self._blocks: Optional[List[nn.Module]] = None
        self._inject(DEFAULT_NAME, plan, adapter)
        # In a table of the host, which outlives this wrapper.
        self._state_check = self._register_load_state_dict_pre_hook(
            check_adapter_state, True)

    # The host --------------------------------------------------------------

    def _adopt(self, module: Union[dict, nn.Module]) -> None:
        """Take over the host's children, so that names stay the host's."""
        # Which values of the host are not random, as far as is known.
        self.loaded_names: Set[str] = set()
        if isinstance(module, dict):
            module = MODELS.build(module)
            # Now: the host's own initialisation knows nothing of adapters
            # and would overwrite them (zero up-projections).
            if hasattr(module, 'init_weights'):
                self.loaded_names = init_host_weights(module, self.is_head)
        else:
            self.loaded_names = {name for name, _ in module.named_parameters()}
        if isinstance(module, MoSAModel) or any(True for _ in slots(module)):
            raise ConfigError(
                'module has adapters already. Call add_adapter() of the '
                'MoSAModel around it for another one, or unload() it first.')
        preprocessor = self._modules.get('data_preprocessor')
        if 'data_preprocessor' not in module._modules:
            module.add_module('data_preprocessor', preprocessor)
        # Shared tables instead of a child: ``module.`` in front of every
        # name would break everything that compares names with the host's.
        self.__dict__['module'] = module
        for table in ('_modules', '_parameters', '_buffers',
                      '_non_persistent_buffers_set', '_state_dict_hooks',
                      '_state_dict_pre_hooks', '_load_state_dict_pre_hooks',
                      '_load_state_dict_post_hooks'):
            self.__dict__[table] = module.__dict__[table]
        self.host = find_host(module)

    def _check_head_patterns(self) -> None:
        """Refuse patterns of ``train_head`` that name no parameter."""
        patterns = self.train_head
        if isinstance(patterns, bool):
            return
        for pattern in patterns:
            check_pattern(pattern, 'train_head')
            if pattern.lower() in ('no', 'off', 'yes', 'on'):
                raise ConfigError(  # 'no' would train every norm
                    f"train_head={pattern!r} is a pattern, of names that "
                    f'have {pattern!r} in them. Set True or False, or '
                    "patterns such as ['head'].")
        names = [name for name, _ in self.named_parameters()]
        idle = [p for p in patterns if not any(re.search(p, n) for n in names)]
        if idle:
            raise ConfigError(
                f'train_head: no parameter of {type(self.module).__name__} '
                f'matches {idle}. Its parameters are named like '
                f'{names[0]!r} and {names[-1]!r}.')

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if 'module' not in self.__dict__:
                raise
            return getattr(self.__dict__['module'], name)

    def init_weights(self) -> None:
        """Do nothing: the host was initialised before injection."""

    def train(self, mode: bool = True) -> 'MoSAModel':
        """Set the mode of host and adapters; see ``frozen_backbone_eval``."""
        self.training = mode
        flags = [(p, p.requires_grad) for p in self.parameters()]
        self.module.train(mode)
        for parameter, flag in flags:
            # Hosts with ``frozen_stages`` freeze what lies inside them.
            parameter.requires_grad_(flag)
        if mode and self.frozen_backbone_eval:
            getattr(self.module, 'backbone', self.module).eval()
            self.module.training = True
        for _, slot in slots(self):
            slot.train(mode)
        return self

    # Adapters --------------------------------------------------------------

    def _inject(self, name: str, plan: Plan, adapter: dict) -> None:
        plan.inject(self.module, name)
        self.adapter_cfgs[name] = plain(
            dict(adapter=adapter, targets=plan.targets, split=plan.split))
        self._freeze()
        self._drawing = None
        trained = sum(p.numel() for p in self.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.parameters())
        print_log(
            f'MoSA: {len(self.adapter_modules())} adapters of type '
            f'{plan.type} in {type(self.module).__name__}; {trained} of '
            f'{total} parameters are trainable',
            logger='current')
        parts = {
            n.split('.')[0]
            for n, p in self.named_parameters() if not p.requires_grad
        } - {'backbone'}
        if parts and self.train_head is True and hasattr(
                self.module, 'backbone'):
            names = ', '.join(sorted(parts))
            print_log(
                f'MoSA: {names} stays as it was initialised, which is random '
                'where no checkpoint has it; train_head=["head", '
                f'"{sorted(parts)[0]}"] trains it too.',
                logger='current',
                level=logging.WARNING)

    def _freeze(self) -> None:
        """Let the active adapter, its heads and what its type asks for be
        trained; merged layers stay as they are until they are unmerged."""
        own = set(self.plan_of(self._active).trainable_names(self.module))
        inside = {
            id(p)
            for adapter in self.adapter_modules().values()
            for p in adapter.parameters()
        }
        fixed = {
            id(p)
            for layer in self.split_layers().values() if layer.merged
            for p in layer.parameters()
        }
        for name, parameter in self.named_parameters():
            trained = id(parameter) in inside or name in own \
                or self.is_head(name)
            parameter.requires_grad_(trained and id(parameter) not in fixed)

    def is_head(self, name: str) -> bool:
        """Whether ``train_head`` means this parameter of the host."""
        if isinstance(self.train_head, bool):
            return self.train_head and 'head' in name.split('.')[0]
        return any(re.search(p, name) for p in self.train_head)

    def adapter_modules(self,
                        name: Optional[str] = None) -> Dict[str, nn.Module]:
        """Adapters of one name, or of the active one, by host module.

        Args:
            name (str, optional): Adapter name. Defaults to None, whichever
                is active.

        Returns:
            dict[str, nn.Module]: Name of the host module -> adapter.
        """
        found = {}
        for path, slot in slots(self):
            wanted = name or slot.active
            if wanted in slot:
                found[path] = slot[wanted]
        return found

    def split_layers(self) -> Dict[str, SplitLinear]:
        """All split layers of the active adapters, by full name."""
        found = {}
        for path, adapter in self.adapter_modules().items():
            for name, layer in adapter.named_modules():
                if isinstance(layer, SplitLinear):
                    parts = (path, SLOT, self._active, name)
                    found['.'.join(part for part in parts if part)] = layer
        return found

    def guard(self, optimizer: torch.optim.Optimizer) -> UpdateGuard:
        """Make ``optimizer`` treat undrawn modules as ``inactive`` says.

        :class:`~mmext.engine.hooks.MoSAHook` calls it; a training loop of
        your own calls it once, after the optimizer is made.
        """
        self.guards += 1
        return UpdateGuard(self, optimizer)

    # Forward ---------------------------------------------------------------

    def forward(self,
                inputs: Tensor,
                data_samples: Optional[list] = None,
                mode: str = 'tensor') -> Any:
        """The host's forward; ``mode='loss'`` is :meth:`loss`."""
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if self.training:
            self._ready(1)
        return self.module(inputs, data_samples, mode=mode)

    def predict(self,
                inputs: Tensor,
                data_samples: Optional[list] = None,
                **kwargs) -> Any:
        """The host's predictions."""
        return self.module.predict(inputs, data_samples, **kwargs)

    def is_adapter_key(self, key: str) -> bool:
        """Whether a state-dict key belongs to an adapter."""
        return f'.{SLOT}.' in f'.{key}' and any(
            key.startswith(f'{path}.{SLOT}.' if path else f'{SLOT}.')
            for path, _ in slots(self))
