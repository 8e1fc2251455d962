# Copyright (c) mmext contributors. All rights reserved.
"""Writing checkpoints so that a kill never leaves less than one whole file.

mmengine writes over the final name and removes the old checkpoint before it
writes the new one, so a kill can leave half a file or none. The functions
here replace those steps, see :func:`mmext.compat.patch_checkpoint_saving`.
"""
import os
from contextlib import contextmanager
from functools import wraps
from typing import Any, Callable, Iterator, List, Tuple

from mmengine.dist import is_main_process

from .io import atomic_write


def put(backend: Any, obj: bytes, filepath: Any) -> None:
    """Atomic stand-in for ``LocalBackend.put(obj, filepath)``."""
    atomic_write(filepath, bytes(obj))


def put_text(backend: Any,
             obj: str,
             filepath: Any,
             encoding: str = 'utf-8') -> None:
    """Atomic stand-in for ``LocalBackend.put_text(...)``."""
    atomic_write(filepath, obj.encode(encoding))


class _NotingBackend:
    """A file backend that notes removals instead of doing them."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.removals: List[Tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.removals.append(('remove', str(path)))

    def rmtree(self, path: str) -> None:
        self.removals.append(('rmtree', str(path)))


@contextmanager
def _removals_last(hook: Any) -> Iterator[None]:
    if not hasattr(hook, 'file_backend'):
        yield  # validation without training: the hook has not opened it
        return
    noting = _NotingBackend(hook.file_backend)
    hook.file_backend = noting
    try:
        yield
    finally:
        hook.file_backend = noting.backend
    # Only reached when everything was written.
    for method, path in noting.removals:
        if noting.backend.exists(path):
            getattr(noting.backend, method)(path)


def remove_last(method: Callable) -> Callable:
    """Let a method of ``CheckpointHook`` remove files after it has written.

    Args:
        method (Callable): A method that removes and saves.

    Returns:
        Callable: The same, with the removals at the end. If saving fails,
        nothing is removed.
    """

    @wraps(method)
    def wrapped(hook: Any, *args: Any, **kwargs: Any) -> Any:
        with _removals_last(hook):
            return method(hook, *args, **kwargs)

    return wrapped


@remove_last
def save_checkpoint_with_step(hook: Any, runner: Any, step: int,
                              meta: dict) -> None:
    """Stand-in for ``CheckpointHook._save_checkpoint_with_step``.

    Saves the new checkpoint, then writes ``last_checkpoint`` atomically,
    then removes the oldest one if there are more than ``max_keep_ckpts``.

    Args:
        hook (CheckpointHook): The hook.
        runner (Runner): The runner.
        step (int): Epoch or iteration for the file's name.
        meta (dict): Goes into the checkpoint.
    """
    if hook.max_keep_ckpts > 0 and step not in hook.keep_ckpt_ids:
        if len(hook.keep_ckpt_ids) == hook.max_keep_ckpts:
            _remove_step(hook, hook.keep_ckpt_ids.popleft())
        hook.keep_ckpt_ids.append(step)
        runner.message_hub.update_info('keep_ckpt_ids',
                                       list(hook.keep_ckpt_ids))
    name = hook.filename_tmpl.format(step)
    hook.last_ckpt = hook.file_backend.join_path(hook.out_dir, name)
    runner.message_hub.update_info('last_ckpt', hook.last_ckpt)
    runner.save_checkpoint(
        hook.out_dir,
        name,
        hook.file_client_args,
        save_optimizer=hook.save_optimizer,
        save_param_scheduler=hook.save_param_scheduler,
        meta=meta,
        by_epoch=hook.by_epoch,
        backend_args=hook.backend_args,
        **hook.args)
    if is_main_process():
        atomic_write(
            os.path.join(runner.work_dir, 'last_checkpoint'), hook.last_ckpt)


def _remove_step(hook: Any, step: int) -> None:
    if not is_main_process():
        return
    path = hook.file_backend.join_path(hook.out_dir,
                                       hook.filename_tmpl.format(step))
    if hook.file_backend.isfile(path):
        hook.file_backend.remove(path)
    elif hook.file_backend.isdir(path):
        # DeepSpeed's checkpoints are folders.
        hook.file_backend.rmtree(path)
