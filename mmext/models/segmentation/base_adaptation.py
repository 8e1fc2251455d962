# Copyright (c) mmext contributors. All rights reserved.
"""The contract of a test-time adaptation method."""
import math
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.nn as nn
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from mmext.models.teachers import GroupEMA
from mmext.registry import TASK_UTILS
from mmext.utils.random import RandomSource
from mmext.utils.user_error import ConfigError
from .dense_task import DenseTask, SegmentationTask
from .frame import Frame

PROMPT = 'visual_prompt'
"""Name under which a method attaches its prompt to the model."""

_NORMS = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass
class StepResult:
    """What a method says of one frame.

    Args:
        labels (Tensor): The prediction, shape (H0, W0), made before any
            parameter changed: classes, int64, or depth in metres.
        log (dict[str, float]): Scalars for the log.
        uncertainty (Tensor, optional): Map of shape (H0, W0).
        skipped (str): Why the update was left out; empty if it was not.
    """
    labels: Tensor
    log: Dict[str, float] = field(default_factory=dict)
    uncertainty: Optional[Tensor] = None
    skipped: str = ''


def norm_parameters(model: nn.Module) -> List[str]:
    """Names of the affine parameters of normalisation layers, by type."""
    return [
        f'{prefix}.{name}' if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, _NORMS)
        for name, _ in module.named_parameters(recurse=False)
    ]


def set_trainable(model: nn.Module, adapt: str) -> List[str]:
    """Let only the chosen parameters receive gradients.

    Args:
        model (nn.Module): The student.
        adapt (str): ``'all'``, ``'norm'`` (affine parameters of
            normalisation layers, by type), ``'prompt'``, or a regular
            expression searched in parameter names; a prompt always adapts.
            ``'none'`` leaves everything as it is, for methods that take no
            step.

    Returns:
        list[str]: Names of the trainable parameters.

    Raises:
        ConfigError: If nothing matches, or nothing but the prompt.
    """
    if adapt == 'none':
        return []
    norms = set(norm_parameters(model)) if adapt == 'norm' else ()
    chosen = []
    for name, param in model.named_parameters():
        prompt = name.startswith(f'{PROMPT}.')
        if adapt == 'prompt':
            wanted = prompt
        elif prompt or adapt == 'all':
            wanted = True
        elif adapt == 'norm':
            wanted = name in norms
        else:
            wanted = re.search(adapt, name) is not None
        param.requires_grad_(wanted)
        if wanted:
            chosen.append(name)
    if not chosen or adapt != 'prompt' and all(
            name.startswith(f'{PROMPT}.') for name in chosen):
        names = [name for name, _ in model.named_parameters()][:3]
        raise ConfigError(
            f"adapt={adapt!r} selects no parameter of the network. Use 'all', "
            "'norm', 'prompt' or a regular expression for names like "
            f'{names}.')
    return chosen


def _choose_statistics(module: _BatchNorm, args: tuple) -> None:
    # Image-level pooling leaves one value per channel, without a variance:
    # such a layer keeps the stored statistics.
    many = args[0].numel() > args[0].size(1)
    module._stored_mode = module.training, module.track_running_stats
    # Without tracking, a module in training mode passes no buffers on.
    module.training, module.track_running_stats = many, not many


def _restore_mode(module: _BatchNorm, args: tuple, output: Tensor) -> None:
    module.training, module.track_running_stats = module.__dict__.pop(
        '_stored_mode')


def use_batch_statistics(model: nn.Module) -> int:
    """Let batch-norm layers use the statistics of their input from now on.

    Stored statistics are neither read nor changed, and the layers' modes are
    the same before and after each forward pass. Copies of the model made
    later do likewise. Views that share a pass share their statistics
    (``views_per_batch``). Synchronised layers would mix the inputs of all
    processes: replace them first.

    Args:
        model (nn.Module): The model, changed in place.

    Returns:
        int: The number of layers concerned.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    for module in layers:
        if _choose_statistics in module._forward_pre_hooks.values():
            continue
        module.register_forward_pre_hook(_choose_statistics)
        module.register_forward_hook(_restore_mode, always_call=True)
    return len(layers)


class BaseAdaptation:
    """Predict a frame, then adapt on it.

    The loop calls :meth:`prepare` before the optimizer exists (parameters
    may be created and frozen here), :meth:`start` once the source weights
    are loaded, and :meth:`step` for every frame.

    Args:
        adapt (str): What adapts, see :func:`set_trainable`.
            Defaults to ``'all'``.
        reference_view (int, optional): Index of the unmirrored view at ratio
            1.0. Defaults to None, the only unmirrored view.
        batch_stats (bool): Let batch-norm layers of student, teacher and
            anchor use the statistics of what they see, one frame, instead of
            the stored ones; see :func:`use_batch_statistics`. Synchronised
            layers become plain ones. Defaults to False.
        task (dict, optional): What the model predicts, such as
            ``dict(type='mmext.DepthTask')``. Defaults to None,
            ``dict(type='mmext.SegmentationTask')``.
    """

    needs_teacher = False
    needs_source = False
    default_adapt = 'all'
    reset_optimizer = 'never'

    def __init__(self,
                 adapt: Optional[str] = None,
                 reference_view: Optional[int] = None,
                 batch_stats: bool = False,
                 task: Optional[dict] = None) -> None:
        self.task: DenseTask = TASK_UTILS.build(task) if task else \
            SegmentationTask()
        self.batch_stats = batch_stats
        self.adapt = adapt or self.default_adapt
        self.reference_view = reference_view
        self.model: nn.Module = None
        self.teacher: Optional[GroupEMA] = None
        self.source: Optional[Dict[str, Tensor]] = None
        self.rng = RandomSource()

    @property
    def name(self) -> str:
        """Name in logs and reports."""
        return type(self).__name__

    # Life cycle -----------------------------------------------------------

    def prepare(self,
                model: nn.Module,
                size: Tuple[int, int],
                seed: int,
                channels: int = 3) -> None:
        """Create and freeze parameters; the optimizer is built afterwards.

        Args:
            model (nn.Module): The student, not yet loaded.
            size (tuple[int, int]): Height and width of the reference view.
            seed (int): Seed of the method's own random numbers.
            channels (int): Channels of the views. Defaults to 3.

        Raises:
            ConfigError: If the model is none of the task's, or nothing
                adapts.
        """
        self.task.check(model)
        if self.batch_stats:
            # Before teacher and optimizer exist; the parameters stay the
            # same objects, and so does the model.
            revert_sync_batchnorm(model)
        self.rng = RandomSource(seed)
        chosen = set_trainable(model, self.adapt)
        params = dict(model.named_parameters())
        print_log(
            f'{self.name} adapts {len(chosen)} of {len(params)} parameter '
            f'tensors, {sum(params[n].numel() for n in chosen)} of '
            f'{sum(p.numel() for p in params.values())} scalars',
            logger='current')

    def teacher_options(self) -> dict:
        """Keyword arguments of the :class:`GroupEMA` of this method."""
        return {}

    def start(self, model: nn.Module, teacher: Optional[GroupEMA],
              source: Optional[Dict[str, Tensor]]) -> None:
        """Take the loaded student, its teacher and the source weights.

        Args:
            model (nn.Module): The student with source or resumed weights.
            teacher (GroupEMA, optional): If ``needs_teacher``.
            source (dict[str, Tensor], optional): Source state dict.
        """
        self.model, self.teacher, self.source = model, teacher, source
        # No dropout: the student learns in eval mode.
        model.eval()
        if not self.batch_stats:
            return
        if not use_batch_statistics(model):
            raise ConfigError(
                f'{self.name}: batch_stats=True needs a model with batch-norm '
                f'layers, but {type(model).__name__} has none. Leave it out; '
                'the method without learning is then SourceOnly.')
        if teacher is not None:
            use_batch_statistics(teacher.module)

    def step(self, frame: Frame, optim_wrapper: OptimWrapper) -> StepResult:
        """Predict ``frame``, then adapt on it.

        Args:
            frame (Frame): Its views.
            optim_wrapper (OptimWrapper): Of the student.

        Returns:
            StepResult: Labels and scalars.
        """
        raise NotImplementedError

    def reset(self, optim_wrapper: OptimWrapper) -> None:
        """Return to the source: weights, prompt, optimizer, randomness."""
        self.model.load_state_dict(self.source, strict=True)
        if self.teacher is not None:
            self.teacher.module.load_state_dict(self.source, strict=True)
        self.rng.reset()
        self.reset_optimizer_state(optim_wrapper)

    @staticmethod
    def reset_optimizer_state(optim_wrapper: OptimWrapper) -> None:
        """Forget the optimizer's moments."""
        optim_wrapper.optimizer.state.clear()

    def state_dict(self) -> dict:
        """What a checkpoint needs beyond the student and the teacher."""
        return dict(rng=self.rng.state_dict())

    def load_state_dict(self, state: dict) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.rng.load_state_dict(state['rng'])

    # Pieces that several methods share ------------------------------------

    def update_student(self, loss: Tensor, optim_wrapper: OptimWrapper) -> str:
        """One optimizer step, unless loss or gradient is not finite.

        Args:
            loss (Tensor): Scalar loss.
            optim_wrapper (OptimWrapper): Of the student.

        Returns:
            str: Why the step was left out; empty if it was taken.
        """
        if not torch.isfinite(loss):
            return f'the loss is {float(loss)}'
        optim_wrapper.backward(optim_wrapper.scale_loss(loss))
        self.check_gradients()
        scaler = getattr(optim_wrapper, 'loss_scaler', None)
        scales = scaler is not None and scaler.is_enabled()
        grads = [
            p.grad for p in self.model.parameters()
            if p.grad is not None and p.grad.numel()
        ]
        # Scaled gradients are large; the largest of them does not overflow.
        norms = torch.stack(
            torch._foreach_norm(grads,
                                math.inf if scales else 2)) if grads else loss
        finite = bool(torch.isfinite(norms).all())
        # A scaler leaves such a step out itself. It has to hear of it, for it
        # then lowers its scale, unless that is fixed.
        if finite or scales:
            optim_wrapper.step()
        optim_wrapper.zero_grad()
        return '' if finite else 'the gradient is not finite'

    def check_gradients(self) -> None:
        """Look at the gradients before they are used."""

    def extra_info(self) -> Dict[str, Any]:
        """Entries for the run's report."""
        return dict(
            adapt=self.adapt,
            task=type(self.task).__name__,
            reset_optimizer=self.reset_optimizer,
            batch_stats=self.batch_stats)
