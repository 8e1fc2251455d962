# Copyright (c) mmext contributors. All rights reserved.
"""The hook that runs a mixture of sparse adapters."""
import os.path as osp
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from mmext.models.adapters import MoSAModel
from mmext.models.adapters.checkpoint import (adapter_files,
                                              check_adapter_name, save_adapter)
from mmext.models.adapters.host_weights import LoadWatch
from mmext.registry import HOOKS
from mmext.utils.preflight import check_outputs
from mmext.utils.user_error import ConfigError

_FIVE_LINES = '''model = dict(
    type='mmext.MoSAModel',
    module=dict(type='ImageClassifier', ...),  # the model you have now
    adapter=dict(type='AdaptFormer', bottleneck=64))
custom_hooks = [dict(type='mmext.MoSAHook')]'''


@contextmanager
def _averaged(runner: Runner) -> Iterator[None]:
    """Context: the averaged weights, which checkpoints and validation have
    under an ``EMAHook``, are in the model."""
    hooks = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    for hook in hooks:
        hook._swap_ema_parameters()
    try:
        yield
    finally:
        for hook in reversed(hooks):
            hook._swap_ema_parameters()


@HOOKS.register_module()
class MoSAHook(Hook):
    """Draw modules, guard the optimizer, log, save the generator, export.

    Before every iteration, so for every micro-batch of an accumulated step,
    it draws the modules of both passes; outside the forward, where neither
    a compiled nor a recomputed graph can freeze or repeat a draw. It puts
    the model's guard on the optimizer (``inactive`` of
    :class:`~mmext.models.adapters.MoSAModel`) and keeps the generator's
    state in ``checkpoint['mosa']``, with the options that a resume must
    match. Evaluation merges on the fly, so no weights can be out of date.

    The log gets ``mosa/activations_k``, how often module k of all layers was
    drawn since the last entry, ``mosa/activations_min`` and ``_max``, the
    same of the least and the most used module of a single layer, and
    ``mosa/update_norm_k``, how far module k moved.

    Args:
        interval (int): Iterations between two entries. Defaults to 50.
        export (str, optional): File or folder in the work directory that
            receives the adapters after training, with an ``EMAHook`` those
            of the averaged weights, see
            :func:`~mmext.models.adapters.checkpoint.save_adapter`.
            Defaults to None.
        export_merged (bool): Write the merged adapter; else the modules.
            Defaults to True.

    Raises:
        ConfigError: If the model is not wrapped by ``MoSAModel``; a hook
            cannot create parameters. If there are two of this hook, or
            ``load_from`` leaves the frozen host random. On resume, if the
            checkpoint was written with other options or without this hook;
            nothing is loaded then.
        AdapterError: If ``export`` is no name of an adapter.
        UserError: Before training, if ``export`` cannot be written.

    Examples:
        >>> custom_hooks = [dict(type='mmext.MoSAHook', interval=50)]
    """

    priority = 'NORMAL'

    def __init__(self,
                 interval: int = 50,
                 export: Optional[str] = None,
                 export_merged: bool = True) -> None:
        if interval < 1:
            raise ConfigError('Expected interval to be at least 1 iteration, '
                              f'but got {interval}. Leave it out for 50.')
        if export is not None:
            check_adapter_name(export)
        self.interval = interval
        self.export = export
        self.export_merged = export_merged
        self._counts: List[torch.Tensor] = []
        self._before: Dict[str, torch.Tensor] = {}
        self._loading: Optional[LoadWatch] = None

    @staticmethod
    def model_of(runner: Runner) -> MoSAModel:
        """The runner's model, which must be a ``MoSAModel``; inside of what
        distributes it or averages its predictions over views."""
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        model = getattr(model, '_orig_mod', model)
        if not isinstance(model, MoSAModel):
            raise ConfigError(
                'MoSAHook needs a model of type mmext.MoSAModel, but it is a '
                f'{type(model).__name__}. A hook cannot create parameters; '
                f'wrap the model in your config:\n\n{_FIVE_LINES}')
        return model

    def before_run(self, runner: Runner) -> None:
        """Check the model before anything else happens."""
        self.model_of(runner)
        if sum(isinstance(hook, MoSAHook) for hook in runner.hooks) > 1:
            raise ConfigError(
                'custom_hooks has more than one MoSAHook, which would draw '
                'the modules of each step twice. Keep one of them.')

    def before_train(self, runner: Runner) -> None:
        """Guard the optimizer of a host that can be trained, and try the
        place of the export."""
        model = self.model_of(runner)
        model.check_host()
        if self._loading is not None:
            self._loading.judge()
            self._loading = None
        if self.export is not None and is_main_process():
            weights, config = adapter_files(self._place(runner))
            check_outputs(files={
                'MoSAHook.export': str(weights),
                'MoSAHook.export, beside it': str(config)
            })
        wrapper = runner.optim_wrapper
        wrappers = wrapper.values() if isinstance(
            wrapper, OptimWrapperDict) else [wrapper]
        for each in wrappers:
            model.guard(each.optimizer)
        self._start_entry(model)

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: Any = None) -> None:
        """Draw the modules of this iteration."""
        model = self.model_of(runner)
        if all(p.grad is None for layer in model.split_layers().values()
               for p in layer.parameters()):
            # A new window of accumulation, also after a step that the
            # scaler of AMP left out.
            model.drawing.forget()
        self._counts.append(model.draw())

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Any = None,
                         outputs: Any = None) -> None:
        """Log activations and update norms."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        model = self.model_of(runner)
        for key, value in {
                **self._activations(model),
                **self._update_norms(model)
        }.items():
            runner.message_hub.update_scalar(f'train/mosa/{key}', value)
        self._start_entry(model)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the generator and the options of the split."""
        checkpoint['mosa'] = self.model_of(runner).draw_state()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """On resume, check the options and restore the generator; else
        see what ``load_from`` fills, which :meth:`before_train` judges."""
        if not runner._resume:
            if self._loading is None:
                self._loading = LoadWatch(
                    self.model_of(runner),
                    f'load_from: the file {runner._load_from}'
                    if runner._load_from else 'The checkpoint')
            return
        if 'mosa' not in checkpoint:
            raise ConfigError(
                'The checkpoint to resume from holds no state of MoSA: it '
                'was written without MoSAHook, so the draws would start '
                'again from the seed. Start a new run from its weights '
                '(load_from, without resume).')
        self.model_of(runner).load_draw_state(checkpoint['mosa'])

    def after_train(self, runner: Runner) -> None:
        """Write the adapters to :attr:`export`."""
        if self.export is None or not is_main_process():
            return
        with _averaged(runner):
            path = save_adapter(
                self.model_of(runner),
                self._place(runner),
                merged=self.export_merged)
        print_log(f'The adapters are in {path}', logger='current')

    def _place(self, runner: Runner) -> str:
        return osp.join(runner.work_dir, osp.expanduser(self.export))

    # Log -------------------------------------------------------------------

    def _start_entry(self, model: MoSAModel) -> None:
        self._counts = []
        self._before = {
            name: layer.merged_weight('union').detach().clone()
            for name, layer in model.split_layers().items() if not layer.merged
        }

    def _activations(self, model: MoSAModel) -> Dict[str, float]:
        if not self._counts:
            return {}
        table = torch.cat(self._counts)
        counts = [
            torch.bincount(table[:, i], minlength=draw.num_modules)
            for i, draw in enumerate(model.drawing.draws)
            if draw.num_modules > 1
        ]
        if not counts:
            return {}
        total = torch.zeros(max(map(len, counts)), dtype=torch.long)
        for count in counts:
            total[:len(count)] += count
        return dict(
            {f'activations_{k}': float(n)
             for k, n in enumerate(total)},
            activations_min=float(min(c.min() for c in counts)),
            activations_max=float(max(c.max() for c in counts)))

    def _update_norms(self, model: MoSAModel) -> Dict[str, float]:
        totals: Dict[int, torch.Tensor] = {}
        for name, layer in model.split_layers().items():
            if name not in self._before:
                continue
            now = layer.merged_weight('union').detach()
            moved = (now - self._before[name]).double().square().flatten()
            sums = torch.zeros(
                layer.num_modules, dtype=moved.dtype, device=moved.device)
            sums.index_add_(0, layer.owner.long().flatten(), moved)
            for k, value in enumerate(sums):
                totals[k] = totals.get(k, 0) + value
        return {
            f'update_norm_{k}': float(value.sqrt())
            for k, value in sorted(totals.items())
        }
