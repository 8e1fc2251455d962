# Copyright (c) mmext contributors. All rights reserved.
"""Finding a checkpoint to go on from."""
import logging
import os
import re
from pathlib import Path
from typing import List, Optional

from mmengine.logging import print_log

from .io import CheckpointError, PathLike, load_checkpoint_file


def find_resumable(work_dir: str) -> Optional[str]:
    """The newest checkpoint of a work directory that can be resumed.

    First come checkpoints that were written after the one that
    ``last_checkpoint`` names and are of a later step (a kill can fall between
    the two writes), then that one (or the file of its name in ``work_dir``,
    if the directory was moved), then every other ``*.pth`` beside it, latest
    step first. A file is taken if it loads safely and holds what
    ``Runner.resume`` needs; each one that is passed over is logged with the
    reason.

    Args:
        work_dir (str): The work directory of the interrupted run.

    Returns:
        str, optional: Path of the checkpoint; None if there is none.
    """
    for path in _candidates(Path(work_dir)):
        reason = why_not(path)
        if reason is None:
            print_log(f'Resuming from {path}', logger='current')
            return str(path)
        print_log(
            f'Not resuming from {path}: {reason}',
            logger='current',
            level=logging.WARNING)
    print_log(f'No checkpoint to resume from in {work_dir}', logger='current')
    return None


def _candidates(work_dir: Path) -> List[Path]:
    """Checkpoints in the order in which to try them."""
    first: List[Path] = []
    note = work_dir / 'last_checkpoint'
    if note.is_file():
        text = note.read_text().strip()
        if text:
            first = [Path(text), work_dir / Path(text).name]
    named = [path for path in first if path.is_file()]
    folders = {work_dir, *(path.parent for path in first)}
    # Best checkpoints are saved without the optimizer.
    others = [
        path for folder in folders for path in folder.glob('*.pth')
        if not path.name.startswith('best_')
    ]
    others.sort(key=_age, reverse=True)
    later = [
        path for path in others
        if named and all(a > b for a, b in zip(_age(path), _age(named[0])))
    ]
    return list(
        dict.fromkeys(
            Path(os.path.abspath(path)) for path in [*later, *named, *others]))


def _age(path: Path) -> tuple:
    """Step in the name, then time of the last change."""
    step = re.search(r'(\d+)\.pth$', path.name)
    return int(step.group(1)) if step else -1, path.stat().st_mtime


def why_not(path: PathLike) -> Optional[str]:
    """Why a run cannot go on from a checkpoint; None if it can."""
    try:
        checkpoint = load_checkpoint_file(path)
    except CheckpointError as error:
        return str(error).rstrip('.')
    missing = [
        key for key in ('meta', 'state_dict', 'message_hub')
        if key not in checkpoint
    ]
    meta = checkpoint.get('meta')
    if not missing and not (isinstance(meta, dict)
                            and {'iter', 'epoch'} <= set(meta)):
        missing = ["meta['iter'] and meta['epoch']"]
    if missing:
        return f'it holds weights only, without {", ".join(missing)}' \
            if 'state_dict' in checkpoint else \
            f'it lacks {", ".join(missing)}'
    return None
