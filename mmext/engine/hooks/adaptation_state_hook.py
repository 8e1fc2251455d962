# Copyright (c) mmext contributors. All rights reserved.
"""What an adaptation run adds to a checkpoint, and what it demands of one."""
import re
from typing import Callable, Dict, List, Optional, Sequence

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor

from mmext.registry import HOOKS
from mmext.utils.user_error import ConfigError


def check_source(expected: Dict[str, Tensor], given: Dict[str, Tensor],
                 optional: Callable[[str], bool],
                 ignore: Sequence[str], where: str) -> None:
    """Compare a checkpoint's keys, shapes and values with the model's.

    Args:
        expected (dict[str, Tensor]): State dict of the model.
        given (dict[str, Tensor]): State dict of the checkpoint.
        optional (Callable): Names that may be missing.
        ignore (Sequence[str]): Regular expressions of keys that may be in
            the checkpoint only.
        where (str): Path of the checkpoint, for the message.

    Raises:
        ConfigError: With the lists of keys that are missing, unexpected, of
            another shape, or hold a value that is not finite.
    """
    missing = [k for k in expected if k not in given and not optional(k)]
    unexpected = [
        k for k in given if k not in expected and not any(
            re.search(pattern, k) for pattern in ignore)
    ]
    shapes = [
        f'{k}: model {tuple(v.shape)}, checkpoint {tuple(given[k].shape)}'
        for k, v in expected.items()
        if k in given and tuple(given[k].shape) != tuple(v.shape)
    ]
    spoilt = [
        k for k in expected if k in given and not given[k].isfinite().all()
    ]
    if missing or unexpected or shapes or spoilt:
        parts = [
            f'{len(keys)} {what}:\n    ' + '\n    '.join(_shortened(keys))
            for what, keys in (('missing', missing),
                               ('unexpected', unexpected),
                               ('of another shape', shapes),
                               ('not finite', spoilt)) if keys
        ]
        raise ConfigError(
            f'{where} is not a sound checkpoint of this model; adapting a '
            'partly random model would be meaningless.\n  ' + '\n  '.join(parts) +
            '\nUse the checkpoint that belongs to `model`, or list keys that '
            'may be left over in train_cfg.source_ignore.')


def _shortened(keys: List[str], most: int = 12) -> List[str]:
    more = [f'... and {len(keys) - most} more'] if len(keys) > most else []
    return keys[:most] + more


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
        self.ignore = tuple(ignore)
        self.state: Optional[dict] = None
        self.loaded = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse a wrong checkpoint; keep the state of a resumed run."""
        where = str(runner._load_from or 'The checkpoint')
        given = checkpoint.get('state_dict', checkpoint)
        given = {re.sub(r'^module\.', '', k): v for k, v in given.items()}
        model = runner.model.module if is_model_wrapper(
            runner.model) else runner.model
        check_source(model.state_dict(), given, self._optional, self.ignore,
                     where)
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
            self.state = checkpoint['adaptation']

    def before_save_checkpoint(self, runner: Runner,
                               checkpoint: dict) -> None:
        """Move prompts and the stream's state into their own entry."""
        prompts = {}
        for entry in ('state_dict', 'ema_state_dict'):
            weights = checkpoint.get(entry, {})
            names = [k for k in weights if k.startswith(self.prompt)]
            prompts[entry] = {k: weights.pop(k) for k in names}
        checkpoint['adaptation'] = dict(
            self.loop.state_dict(), prompts=prompts)

    def _optional(self, key: str) -> bool:
        # Old checkpoints lack the batch counters, which nothing reads here.
        return key.startswith(
            self.prompt) or key.endswith('num_batches_tracked')
