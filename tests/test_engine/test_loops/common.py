# Copyright (c) mmext contributors. All rights reserved.
"""What the tests of the adaptation loop compare."""
import json
import os
import os.path as osp
import shutil

import cv2
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from ...toy_runs import REFERENCE, adaptation_config, run

SVDP = dict(
    type='mmext.SVDP', reference_view=REFERENCE, sparse_rate=0.02,
    decay=0.9, dpu_scale=0.5)
METHODS = dict(
    svdp=SVDP,
    cotta=dict(type='mmext.CoTTA', reference_view=REFERENCE, decay=0.9),
    tent=dict(type='mmext.Tent', reference_view=REFERENCE),
    vdp=dict(type='mmext.VDP', reference_view=REFERENCE, decay=0.9),
    source=dict(type='mmext.SourceOnly', reference_view=REFERENCE))


def predictions(runner_or_folder) -> dict:
    """All saved label maps, by their path below ``predictions``."""
    folder = getattr(runner_or_folder, 'work_dir', runner_or_folder)
    root = osp.join(str(folder), 'predictions')
    found = {}
    for path, _, names in os.walk(root):
        for name in names:
            full = osp.join(path, name)
            found[osp.relpath(full, root)] = cv2.imread(
                full, cv2.IMREAD_UNCHANGED)
    return found


def report(runner_or_folder) -> dict:
    """The report of a run without what depends on the clock."""
    folder = getattr(runner_or_folder, 'work_dir', runner_or_folder)
    with open(osp.join(str(folder), 'adaptation_report.json')) as file:
        content = json.load(file)
    content.pop('seconds_per_frame')
    for stats in content['stats'].values():
        stats.pop('seconds')
    return content


def tensors(value, prefix='') -> dict:
    """All tensors and numbers in nested containers, by path."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return {prefix: value}
    out = {}
    for key, inner in items:
        out.update(tensors(inner, f'{prefix}/{key}'))
    return out


def state(runner: Runner) -> dict:
    """Student, teacher, prompts, moments and generators at the end."""
    loop = runner.train_loop
    hook = loop.teacher_hook
    return tensors(
        dict(
            student=dict(loop.model.state_dict()),
            teacher=dict(hook.teacher.module.state_dict()) if hook else {},
            optimizer=runner.optim_wrapper.state_dict(),
            method=loop.method.state_dict()))


def assert_equal(first: dict, second: dict) -> None:
    """Bit for bit, the same keys and values."""
    assert first.keys() == second.keys()
    for key, value in first.items():
        other = second[key]
        if isinstance(value, torch.Tensor):
            assert value.shape == other.shape, key
            assert torch.equal(value, other), key
        elif hasattr(value, 'tobytes'):
            assert value.tobytes() == other.tobytes(), key
        else:
            assert value == other, key


def resumed(cfg: Config, work: str) -> Config:
    """The same run in another work folder, to be resumed there."""
    cfg = Config(cfg.to_dict())
    folder = osp.dirname(cfg.work_dir)
    cfg.update(
        resume=True, load_from=None, work_dir=osp.join(folder, work),
        experiment_name=f'{cfg.experiment_name}-{work}')
    cfg.visualizer.name = f'toy-{work}-{osp.basename(folder)}'
    return cfg


def interrupt(cfg: Config, frame: int, work: str) -> Config:
    """A work folder as an interruption after ``frame`` frames leaves it."""
    cfg = resumed(cfg, work)
    origin = osp.join(osp.dirname(cfg.work_dir), 'work')
    os.makedirs(cfg.work_dir)
    for name in (f'iter_{frame}.pth', 'adaptation_source.pth'):
        if osp.isfile(osp.join(origin, name)):
            shutil.copy(osp.join(origin, name), cfg.work_dir)
    path = osp.join(cfg.work_dir, f'iter_{frame}.pth')
    with open(osp.join(cfg.work_dir, 'last_checkpoint'), 'w') as file:
        file.write(path)
    return cfg


__all__ = [
    'METHODS', 'REFERENCE', 'SVDP', 'adaptation_config', 'assert_equal',
    'interrupt', 'predictions', 'report', 'resumed', 'run', 'state',
    'tensors'
]
