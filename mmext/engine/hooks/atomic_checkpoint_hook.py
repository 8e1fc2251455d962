# Copyright (c) mmext contributors. All rights reserved.
"""A CheckpointHook that a kill cannot rob of its last checkpoint."""
from mmengine.hooks import CheckpointHook

from mmext.registry import HOOKS, register_depth
from mmext.utils.checkpoint_saving import (remove_last,
                                           save_checkpoint_with_step)


@register_depth(HOOKS)
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, safe against a kill at any moment.

    The new checkpoint goes to a temporary file, is flushed to the disk and
    renamed; ``last_checkpoint`` is written the same way; only then is the
    old checkpoint removed, the best one included. At every moment the work
    directory holds at least one whole checkpoint, also with
    ``max_keep_ckpts=1``.

    Wherever mmext is imported the stock ``CheckpointHook`` behaves the same,
    see :func:`mmext.compat.patch_checkpoint_saving`; this class says so in a
    config and brings the import.

    Args:
        **kwargs: As :class:`mmengine.hooks.CheckpointHook`.

    Example:
        >>> default_hooks = dict(
        ...     checkpoint=dict(
        ...         type='mmext.AtomicCheckpointHook',
        ...         by_epoch=False, interval=1000, max_keep_ckpts=1))
    """

    _save_checkpoint_with_step = save_checkpoint_with_step

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        remove_last(CheckpointHook._save_best_checkpoint)(self, runner,
                                                          metrics)
