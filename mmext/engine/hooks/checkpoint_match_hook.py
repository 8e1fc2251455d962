# Copyright (c) mmext contributors. All rights reserved.
"""Does a checkpoint fit the model that it is loaded into?"""
import re
from typing import Any, Callable, Dict, List, Sequence

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor

from mmext.registry import HOOKS
from mmext.utils.arguments import as_tuple
from mmext.utils.io import PathLike, check_checkpoint
from mmext.utils.user_error import ConfigError


def check_source(expected: Dict[str, Tensor],
                 given: Dict[str, Tensor],
                 optional: Callable[[str], bool],
                 ignore: Sequence[str],
                 where: str,
                 setting: str = '') -> None:
    """Compare a checkpoint's keys, shapes and values with the model's.

    Args:
        expected (dict[str, Tensor]): State dict of the model.
        given (dict[str, Tensor]): State dict of the checkpoint.
        optional (Callable): Names that may be missing.
        ignore (Sequence[str]): Regular expressions of keys that may be in
            the checkpoint only.
        where (str): Path of the checkpoint, for the message.
        setting (str): Setting of the config that ``ignore`` comes from, for
            the message. Defaults to '', none.

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
            for what, keys in (('missing', missing), ('unexpected',
                                                      unexpected),
                               ('of another shape', shapes), ('not finite',
                                                              spoilt)) if keys
        ]
        cure = 'Use the checkpoint that belongs to `model`'
        if setting and unexpected:
            cure += f', or list keys that may be left over in {setting}'
        raise ConfigError(
            f'{where} is not a sound checkpoint of this model; a partly '
            'random model is not worth running.\n  ' + '\n  '.join(parts) +
            f'\n{cure}.')


def _shortened(keys: List[str], most: int = 12) -> List[str]:
    more = [f'... and {len(keys) - most} more'] if len(keys) > most else []
    return keys[:most] + more


def given_weights(checkpoint: Any,
                  where: PathLike = 'The checkpoint') -> Dict[str, Tensor]:
    """The tensors of a checkpoint under the model's own names.

    Args:
        checkpoint (Any): What was loaded.
        where (str or PathLike): The file, for the message.

    Raises:
        CheckpointError: If it is no checkpoint.
    """
    checkpoint = check_checkpoint(checkpoint, where)
    weights = checkpoint.get('state_dict', checkpoint)
    return {
        re.sub(r'^module\.', '', k): v
        for k, v in weights.items() if isinstance(v, Tensor)
    }


@HOOKS.register_module()
class CheckpointMatchHook(Hook):
    """Refuse a checkpoint that does not fill the whole model.

    mmengine loads what fits and logs the rest, so a model of which a part
    stayed random is trained or scored like any other. With this hook a wrong
    or partial checkpoint stops the run with the list of keys.

    Args:
        ignore (Sequence[str]): Regular expressions of keys that may be in
            the checkpoint only. Defaults to ``('^auxiliary_head',)``.
        optional (Sequence[str]): Regular expressions of keys that may be
            missing in the checkpoint. Defaults to (), none but the counters
            of batch norms.

    Raises:
        ConfigError: When a checkpoint is loaded that does not fit.

    Example:
        >>> custom_hooks = [dict(type='mmext.CheckpointMatchHook')]
    """

    # After hooks that change what is loaded.
    priority = 'VERY_LOW'

    def __init__(self,
                 ignore: Sequence[str] = ('^auxiliary_head', ),
                 optional: Sequence[str] = ()) -> None:
        self.ignore = as_tuple(ignore)
        self.optional = as_tuple(optional)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare keys, shapes and values, before they are copied."""
        model = runner.model
        if is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        where = str(runner._load_from or 'The checkpoint')
        # Old checkpoints lack the batch counters, which testing never reads.
        check_source(
            model.state_dict(), given_weights(checkpoint, where),
            lambda key: key.endswith('num_batches_tracked') or any(
                re.search(pattern, key) for pattern in self.optional),
            self.ignore, where)
