# Copyright (c) mmext contributors. All rights reserved.
"""Hooks that wait for a validation, which an adaptation run does not have."""
import inspect
import logging
from typing import Any, Iterable, List, Optional

from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.logging import print_log

NO_VALIDATION = (
    'an adaptation run has no validation, so that it does nothing there. '
    'Predictions are scored as the stream passes: the scores are in '
    'adaptation_report.json. Leave it out.')


def waits_for_validation(kind: Any, save_best: Any) -> Optional[str]:
    """What of a hook happens after a validation only.

    Args:
        kind (type): Class of the hook.
        save_best (Any): Its option ``save_best``, None without one.

    Returns:
        str, optional: The hook or its option; None if it does its work in
        training.
    """
    if not inspect.isclass(kind):
        return None
    if issubclass(kind, EarlyStoppingHook):
        return kind.__name__
    if issubclass(kind, CheckpointHook) and save_best is not None:
        return f'save_best of {kind.__name__}'
    return None


def warn_of_idle_hooks(hooks: Iterable[Hook]) -> List[str]:
    """Log what the user set and will not happen.

    Args:
        hooks (Iterable[Hook]): The hooks of a run.

    Returns:
        list[str]: What was logged.
    """
    found = [
        waits_for_validation(type(hook), getattr(hook, 'save_best', None))
        for hook in hooks
    ]
    idle = [name for name in found if name]
    for name in idle:
        print_log(
            f'{name}: {NO_VALIDATION}',
            logger='current',
            level=logging.WARNING)
    return idle
