# Copyright (c) mmext contributors. All rights reserved.
"""Short trainings of tiny l-infinity networks by the stock Runner."""
import os.path as osp
from typing import Any, Optional, Sequence

import pytest
from mmengine.runner import Runner

from ...toy_runs import quick_runner
from .lip_models import Patterns

# A run on each; what is for a GPU is skipped without one, and --gpu.
DEVICES = pytest.mark.parametrize(
    'device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])

# p rises in the first half; the rest trains at p = inf.
SCHEDULE = dict(type='mmext.PNormScheduleHook', epochs=(0, 1, 0, 3, 5))


def runner_config(folder: Any,
                  model: dict,
                  epochs: int = 5,
                  hooks: Optional[Sequence[dict]] = (SCHEDULE, ),
                  name: str = 'run',
                  **options: Any) -> dict:
    """Arguments of a Runner over :class:`Patterns`."""

    def loader(train: bool) -> dict:
        return dict(
            batch_size=16,
            num_workers=0,
            dataset=Patterns(64, seed=0 if train else 1),
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=train))

    evaluator = [dict(type='Accuracy'), dict(type='mmext.CertifiedAccuracy')]
    config = dict(
        default_scope='mmpretrain',
        model=model,
        train_dataloader=loader(True),
        val_dataloader=loader(False),
        test_dataloader=loader(False),
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=epochs),
        val_cfg=dict(),
        test_cfg=dict(),
        val_evaluator=evaluator,
        test_evaluator=evaluator,
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.03, eps=1e-10)),
        custom_hooks=list(hooks or ()),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=epochs)),
        randomness=dict(seed=1),
        experiment_name=f'{osp.basename(str(folder))}-{name}',
        work_dir=osp.join(str(folder), name))
    config.update(options)
    return config


def run(folder: Any, model: dict, **options: Any) -> Runner:
    """Train and return the runner."""
    with quick_runner():
        runner = Runner(**runner_config(folder, model, **options))
        runner.train()
    return runner
