# Copyright (c) mmext contributors. All rights reserved.
"""SVDP: sparse visual domain prompts for test-time adaptation."""
from typing import Dict, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from torch import Tensor

from mmext.models.prompts import SparseVisualPrompt
from mmext.models.prompts.functional import (SplineResizer, num_prompts,
                                             place_prompts, prompt_decay,
                                             resize_map, sparse_map)
from mmext.registry import TASK_UTILS
from mmext.utils.user_error import ConfigError
from .base_adaptation import PROMPT, StepResult
from .cotta import CoTTA
from .frame import Frame, View

Placement = Dict[Tuple[int, int], Tensor]


@TASK_UTILS.register_module()
class SVDP(CoTTA):
    r"""Sparse visual domain prompts, SVDP (arXiv 2303.09792).

    A few learnable values are added to the pixels where the teacher is most
    uncertain. One frame, in order (arXiv:2303.09792):

    1. uncertainty :math:`U=\sum_c \mathrm{Var}_m\,p_m(c)` of the teacher's
       unprompted reference view, by dropout before its classifier;
    2. placement (DPP): U resized to each view, the K largest values in
       ascending order carry the prompt's entries;
    3. labels :math:`Y` of the prompted teacher over all views, gated by the
       source model's confidence; they are the scored prediction;
    4. one student step on
       :math:`\mathrm{CE}(f_S(x_r + M(P_S)), Y)`, which also reaches
       :math:`P_S`;
    5. EMA of the teacher, its prompt with
       :math:`\alpha_P = \alpha - s\,\overline{U}` (DPU);
    6. stochastic restore of the student, prompt excepted.

    The learning rate of the prompt is set in the optimizer wrapper,
    ``paramwise_cfg=dict(custom_keys={'visual_prompt': dict(lr_mult=...)})``.

    Args:
        sparse_rate (float): Fraction of the reference view's pixels that
            carry an entry. Defaults to 1e-3.
        prompt_grad (bool): Let the loss reach the prompt, as the paper
            draws it; False trains no prompt, as the authors' code does.
            Defaults to True.
        prompt_std (float): Standard deviation of the start values.
            Defaults to 1.0.
        dpu (bool): Use alpha_P; False uses ``decay`` for the prompt too.
            Defaults to True.
        dpu_scale (float): s. Defaults to 0.1.
        dpu_clamp (bool): Keep alpha_P in [0, 1]. Defaults to True.
        mc_passes (int): Dropout passes. Defaults to 10.
        mc_dropout (float): Their drop probability. Defaults to 0.5.
        unc_with_prompt (bool): Prompt the view of step 1 as well, placed by
            an unprompted map. Defaults to False.
        unc_resize (str): ``'spline'``, ``'bilinear'`` or ``'area'``.
            Defaults to ``'spline'``.
        k_mode (str): ``'fixed'`` puts all K entries on every view,
            ``'density'`` at most ``sparse_rate`` of its pixels.
            Defaults to ``'fixed'``.
        pairing (str): ``'rank'`` ties an entry to a rank of uncertainty, the
            only pairing published. Defaults to ``'rank'``.
        prompt_mode (str): ``'add'``. Defaults to ``'add'``.
        **kwargs: See :class:`CoTTA`: ``decay``, ``anchor_threshold``,
            ``restore_prob``, ``adapt``, ``reset_optimizer``,
            ``views_per_batch``, ``reference_view``, ``batch_stats``,
            ``task``.

    Examples:
        >>> train_cfg = dict(
        ...     type='mmext.TestTimeAdaptLoop',
        ...     method=dict(type='mmext.SVDP', reference_view=4))
    """

    def __init__(self,
                 sparse_rate: float = 1e-3,
                 prompt_grad: bool = True,
                 prompt_std: float = 1.,
                 dpu: bool = True,
                 dpu_scale: float = 0.1,
                 dpu_clamp: bool = True,
                 mc_passes: int = 10,
                 mc_dropout: float = 0.5,
                 unc_with_prompt: bool = False,
                 unc_resize: str = 'spline',
                 k_mode: str = 'fixed',
                 pairing: str = 'rank',
                 prompt_mode: str = 'add',
                 **kwargs) -> None:
        super().__init__(**kwargs)
        choices = (('unc_resize', unc_resize, ('spline', 'bilinear', 'area')),
                   ('k_mode', k_mode, ('fixed', 'density')),
                   ('pairing', pairing, ('rank', )), ('prompt_mode',
                                                      prompt_mode, ('add', )))
        for name, value, allowed in choices:
            if value not in allowed:
                raise ConfigError(f'SVDP: {name} is one of {allowed}, but '
                                  f'got {value!r}.')
        if mc_passes < 2:
            raise ConfigError('SVDP: the variance needs mc_passes >= 2, but '
                              f'got {mc_passes}.')
        if not 0 <= mc_dropout < 1:
            raise ConfigError('SVDP: mc_dropout is a probability in [0, 1), '
                              f'but got {mc_dropout}.')
        if self.adapt == 'prompt' and not prompt_grad:
            raise ConfigError(
                "SVDP: adapt='prompt' with prompt_grad=False leaves nothing "
                'to train. Set prompt_grad=True, or adapt the network.')
        self.sparse_rate = sparse_rate
        self.prompt_grad = prompt_grad
        self.prompt_std = prompt_std
        self.dpu = dpu
        self.dpu_scale = dpu_scale
        self.dpu_clamp = dpu_clamp
        self.mc_passes = mc_passes
        self.mc_dropout = mc_dropout
        self.unc_with_prompt = unc_with_prompt
        self.unc_resize = unc_resize
        self.k_mode = k_mode

    @property
    def name(self) -> str:
        """Name in logs and reports."""
        return f'SVDP{"" if self.prompt_grad else "(untrained prompt)"}'

    def prepare(self,
                model: nn.Module,
                size: Tuple[int, int],
                seed: int,
                channels: int = 3) -> None:
        """Attach the prompt; see :meth:`BaseAdaptation.prepare`."""
        prompt = SparseVisualPrompt(size, self.sparse_rate, channels,
                                    self.prompt_std, seed)
        model.add_module(PROMPT, prompt.to(next(model.parameters()).device))
        super().prepare(model, size, seed, channels)

    def teacher_options(self) -> dict:
        """The prompt is a group of its own, see :class:`GroupEMA`."""
        return dict(decay=self.decay, groups={f'^{PROMPT}': self.decay})

    def step(self, frame: Frame, optim_wrapper: OptimWrapper) -> StepResult:
        """Predict, then adapt; see :meth:`BaseAdaptation.step`."""
        index = frame.reference(self.reference_view)
        view, size = frame.views[index], frame.ori_shape
        teacher = self.teacher.module

        uncertainty = self.uncertainty(view, size)
        mean_u = float(uncertainty.mean())
        places = self.place(uncertainty, frame)
        labels, log = self.pseudo_label(
            frame, index, lambda v: self.prompted(teacher, v, places))

        with torch.enable_grad(), optim_wrapper.optim_context(self.model):
            x = self.prompted(self.model, view, places, self.prompt_grad)
            loss = self.task.loss(
                self.task.student_map(self.model, view, x, size), labels)
        skipped = self.update_student(loss, optim_wrapper)

        alpha = prompt_decay(self.decay, mean_u,
                             self.dpu_scale if self.dpu else 0.,
                             self.dpu_clamp)
        if not skipped:
            self.teacher.update(self.model, {f'^{PROMPT}': alpha})
            self.restore()
        log.update(
            loss=float(loss.detach()),
            uncertainty=mean_u,
            alpha_prompt=alpha,
            prompt_shift=self.prompt_shift())
        return StepResult(labels, log, uncertainty, skipped)

    def uncertainty(self, view: View, size: Tuple[int, int]) -> Tensor:
        """Step 1: U at the original resolution, shape ``size``.

        Args:
            view (View): The reference view.
            size (tuple[int, int]): Height and width of the original image.
        """
        teacher = self.teacher.module

        def measure(x: Tensor) -> Tensor:
            return self.task.uncertainty(
                self.task.dropout_maps(teacher, view, x, size, self.mc_passes,
                                       self.mc_dropout, self.rng))

        result = measure(view.x)
        if self.unc_with_prompt:
            places = self.place(result, Frame([view], size))
            with torch.no_grad():
                result = measure(self.prompted(teacher, view, places))
        return result

    def place(self, uncertainty: Tensor, frame: Frame) -> Placement:
        """Step 2: flat positions for each distinct size of view.

        A mirrored view takes the mirror of the same map, so sizes are enough.
        """
        # A corrupt frame must not decide the order; its update is left out.
        uncertainty = torch.nan_to_num(uncertainty)
        spline = SplineResizer(uncertainty)
        count = getattr(self.model, PROMPT).patch.size(0)
        places: Placement = {}
        for view in frame.views:
            if view.size in places:
                continue
            resized = spline(view.size) if self.unc_resize == 'spline' else \
                resize_map(uncertainty, view.size, self.unc_resize)
            k = count if self.k_mode == 'fixed' else min(
                count, num_prompts(view.size, self.sparse_rate))
            places[view.size] = place_prompts(resized, k)
        return places

    @staticmethod
    def prompted(model: nn.Module,
                 view: View,
                 places: Placement,
                 grad: bool = True) -> Tensor:
        """Add a network's prompt to a view, never to its padding."""
        patch = getattr(model, PROMPT).patch
        prompt = sparse_map(patch if grad else patch.detach(),
                            places[view.size], view.size)
        if view.flip_dims:
            prompt = prompt.flip(view.flip_dims)
        pad = [view.x.size(-1) - view.size[1], view.x.size(-2) - view.size[0]]
        if any(pad):
            prompt = F.pad(prompt, (0, pad[0], 0, pad[1]))
        return view.x + prompt

    def check_gradients(self) -> None:
        """Refuse the silent failure of a prompt that never trains.

        Raises:
            RuntimeError: If ``prompt_grad`` is set but no gradient, or only
                zeros, reached the prompt, while the network got some.
        """
        patch = getattr(self.model, PROMPT).patch
        if not self.prompt_grad or not patch.requires_grad:
            return
        if patch.grad is None or not patch.grad.any():
            grads = [p.grad for p in self.model.parameters()]
            if patch.grad is not None and not any(
                    g.any() for g in grads if g is not None):
                return  # a loss of zero, or depth out of range everywhere
            what = 'no gradient' if patch.grad is None else 'only zeros'
            raise RuntimeError(
                f'SVDP(prompt_grad=True): {what} reached the prompt, so it '
                'would never train. Check that nothing between the image and '
                'the loss is under no_grad or detached (frozen stages that '
                'run without gradients, for instance), or set '
                'prompt_grad=False.')

    def prompt_shift(self) -> float:
        """Largest |P_S - P_0|, the distance the prompt has moved."""
        name = f'{PROMPT}.patch'
        patch = getattr(self.model, PROMPT).patch
        return float(
            (patch.detach() - self.source[name].to(patch)).abs().max())

    def extra_info(self) -> dict:
        """Entries for the run's report."""
        return dict(
            super().extra_info(),
            sparse_rate=self.sparse_rate,
            prompt_grad=self.prompt_grad,
            dpu_scale=self.dpu_scale if self.dpu else 0.,
            mc_passes=self.mc_passes)
