# Copyright (c) mmext contributors. All rights reserved.
"""A training of a few parameters by the stock Runner, random everywhere."""
import random
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

import mmext  # noqa: F401


class NoisyData(Dataset):
    """Samples of which each load draws from all three generators."""

    metainfo = dict(classes=('a', 'b'))

    def __init__(self, size: int = 12, noise: float = 1.) -> None:
        self.size, self.noise = size, noise

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        x = torch.full((4, ), index / self.size)
        noise = random.random() + np.random.rand() + torch.rand(4)
        return dict(inputs=x + self.noise * noise)


class DropoutModel(BaseModel):

    def __init__(self, spoil_at: tuple = ()) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5),
            nn.Linear(8, 1))
        self.spoil_at = spoil_at
        self.calls = 0

    def forward(self, inputs: Any, data_samples: Any = None, mode='loss'):
        if isinstance(inputs, (list, tuple)):
            inputs = torch.stack(list(inputs))
        out = self.net(inputs)
        if mode != 'loss':
            return [torch.rand(1) + o for o in out]
        self.calls += 1
        factor = float('nan') if self.calls in self.spoil_at else 1.
        return dict(loss=(out * factor - 1).square().mean())


class MeanMetric(BaseMetric):

    def process(self, data_batch, data_samples) -> None:
        self.results += [float(s) for s in data_samples]

    def compute_metrics(self, results) -> dict:
        return dict(mean=float(np.mean(results)))


def build(work_dir: Any,
          by_epoch: bool = False,
          length: int = 6,
          hooks: tuple = (dict(type='mmext.RNGStateHook'), ),
          checkpoint: Any = None,
          model: Any = None,
          loader: Any = None,
          noise: float = 1.,
          validate: bool = True,
          diff_rank_seed: bool = False,
          **kwargs: Any) -> Runner:
    """A runner with every default that matters for reproducing."""
    # The Runner sets its seed after the model was made.
    torch.manual_seed(0)
    data = dict(
        dataset=NoisyData(noise=noise),
        batch_size=4,
        num_workers=0,
        sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler'))
    data.update(loader or {})
    train_cfg = dict(by_epoch=True, max_epochs=length, val_interval=2) \
        if by_epoch else dict(by_epoch=False, max_iters=length, val_interval=2)
    val = dict(
        val_dataloader=dict(
            dataset=NoisyData(4),
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False)),
        val_cfg=dict(),
        val_evaluator=[MeanMetric()]) if validate else {}
    checkpoint = dict(
        dict(type='mmext.AtomicCheckpointHook', by_epoch=by_epoch, interval=1),
        **(checkpoint or {}))
    return Runner(
        model or DropoutModel(),
        str(work_dir),
        train_dataloader=data,
        train_cfg=train_cfg,
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.05)),
        default_hooks=dict(checkpoint=checkpoint, logger=None),
        custom_hooks=list(hooks),
        randomness=dict(seed=3, diff_rank_seed=diff_rank_seed),
        experiment_name=str(work_dir).replace('/', '_'),
        default_scope='mmengine',
        **val,
        **kwargs)
