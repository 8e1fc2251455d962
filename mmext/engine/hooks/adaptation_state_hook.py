# Copyright (c) mmext contributors. All rights reserved.
"""What an adaptation run adds to a checkpoint, and what it demands of one."""
from typing import Any, List, Optional, Sequence

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmext.registry import HOOKS
from mmext.utils.arguments import as_tuple
from mmext.utils.user_error import ConfigError
from .checkpoint_match_hook import check_source, given_weights


@HOOKS.register_module()
class AdaptationStateHook(Hook):
    """Check the source on load; save and restore the state of the stream.

    Registered by :class:`~mmext.engine.loops.TestTimeAdaptLoop` itself.
    ``state_dict`` and ``ema_state_dict`` keep the plain host's keys: prompts
    go into ``checkpoint['adaptation']``, with the position in the stream,
    the method's generators and the metrics' counts.

    Args:
        loop (TestTimeAdaptLoop): The loop whose state is kept.
        prompt (str): Name of the prompt in the model.
        ignore (Sequence[str]): Checkpoint keys that may be left over.
    """

    # After MeanTeacherHook, which puts the teacher into ``state_dict``.
    priority = 'BELOW_NORMAL'

    def __init__(self, loop, prompt: str, ignore: Sequence[str] = ()) -> None:
        self.loop = loop
        self.prompt = f'{prompt}.'
        self.ignore = as_tuple(ignore)
        self.state: Optional[dict] = None
        self.loaded = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse a wrong checkpoint; keep the state of a resumed run."""
        where = str(runner._load_from or 'The checkpoint')
        model = runner.model.module if is_model_wrapper(
            runner.model) else runner.model
        check_source(model.state_dict(), given_weights(checkpoint),
                     self._optional, self.ignore, where,
                     'train_cfg.source_ignore')
        self.loaded = True
        if runner._resume:
            if 'adaptation' not in checkpoint:
                raise ConfigError(
                    f'{where} was not written by an adaptation run, so there '
                    'is no stream to resume. Set load_from=None to resume '
                    'from the newest checkpoint in work_dir, or resume=False '
                    'to start from this one.')
            # Now, before the optimizer's state fails to fit.
            self.loop.check_state(checkpoint['adaptation'])
            self._check_prompts(checkpoint['adaptation']['prompts'], model)
            self.state = checkpoint['adaptation']

    def load_prompts(self, teacher: Any) -> None:
        """Give student and teacher the prompts of the resumed run.

        Args:
            teacher (GroupEMA, optional): The teacher, if there is one.
        """
        prompts = self.state['prompts']
        student = prompts.get('ema_state_dict') or prompts['state_dict']
        targets: List[Any] = [(self.loop.model, student)]
        if teacher is not None:
            targets.append((teacher.module, prompts['state_dict']))
        for module, weights in targets:
            params = dict(module.named_parameters())
            for name, value in weights.items():
                params[name].data.copy_(value)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Move prompts and the stream's state into their own entry."""
        prompts = {}
        for entry in ('state_dict', 'ema_state_dict'):
            weights = checkpoint.get(entry, {})
            names = [k for k in weights if k.startswith(self.prompt)]
            prompts[entry] = {k: weights.pop(k) for k in names}
        checkpoint['adaptation'] = dict(
            self.loop.state_dict(), prompts=prompts)

    def _check_prompts(self, prompts: dict, model: nn.Module) -> None:
        """Refuse prompts that this config's model would not have."""
        now = {
            name: tuple(param.shape)
            for name, param in model.named_parameters()
            if name.startswith(self.prompt)
        }
        saved = {
            name: tuple(value.shape)
            for name, value in prompts['state_dict'].items()
        }
        for name in sorted(now.keys() | saved.keys()):
            if now.get(name) != saved.get(name):
                raise ConfigError(
                    f'The checkpoint belongs to another run: the shape of its '
                    f'{name} is {saved.get(name)}, this config has '
                    f'{now.get(name)}. Resume with the config of the '
                    'interrupted run: options of the method, such as '
                    'sparse_rate, and the size of the views decide it.')

    def _optional(self, key: str) -> bool:
        # Old checkpoints lack the batch counters, which nothing reads here;
        # a source without adapters starts them from zero.
        is_adapter = getattr(self.loop.model, 'is_adapter_key', None)
        return key.startswith(
            self.prompt) or key.endswith('num_batches_tracked') or (
                is_adapter is not None and is_adapter(key))
