# Copyright (c) mmext contributors. All rights reserved.
"""A distance net of a few neurons, trained by the stock Runner."""
import math
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

import mmext  # noqa: F401
from mmext.models.lipschitz.layers import LpDistLinear
from mmext.models.lipschitz.loss_modules import LipMixtureLoss
from mmext.models.lipschitz.losses import margins
from mmext.models.lipschitz.p_norm import get_p
from ..toy_runs import quick_runner


class NoisyPoints(Dataset):
    """Points of three classes; each load adds noise from torch's generator,
    as an augmentation does."""

    metainfo = dict(classes=('a', 'b', 'c'))

    def __init__(self, size=12, noise=0.3):
        generator = torch.Generator().manual_seed(size)
        self.points = torch.randn(size, 4, generator=generator)
        self.noise = noise

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        noise = self.noise * torch.randn(4) if self.noise else 0.
        label = index % 3
        return dict(
            inputs=self.points[index] + label + noise, data_samples=label)


class Head(nn.Module):
    """What the schedule sets."""

    def __init__(self):
        super().__init__()
        self.eps_train = self.eps = 0.2
        self.kappa, self.lam = 1., 0.1
        self.loss = LipMixtureLoss()

    def forward(self, logits, labels):
        residual = margins(logits, labels)
        theta = 2 * self.eps
        residual = residual + theta * (
            torch.arange(logits.size(1)) != labels[:, None])
        return self.loss(logits, residual, labels, theta, self.kappa, self.lam)


class DistanceNet(BaseModel):

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                LpDistLinear(4, 6, p=8.), LpDistLinear(6, 6, p=8.),
                LpDistLinear(6, 3, p=8., mean_shift=False, bias=True))
            self.head = Head()
        self.trained_p = None

    def forward(self, inputs, data_samples=None, mode='tensor'):
        logits = -self.body(torch.stack(list(inputs)))
        labels = torch.as_tensor(data_samples)
        if mode == 'loss':
            return dict(loss=self.head(logits, labels))
        if mode == 'tensor':
            return logits
        worst = margins(logits, labels).masked_fill(
            torch.nn.functional.one_hot(labels, 3).bool(), -math.inf)
        p = get_p(self)
        return [(float(w), p) for w in worst.amax(1)]


class Margin(BaseMetric):
    """Mean margin, which any change of a weight changes, and p."""

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        margin = sum(r[0] for r in results) / len(results)
        return {
            'margin': margin,
            'cert/clean': margin,
            'cert/p': results[0][1]
        }


class Watch(Hook):
    """State at each training iteration."""
    priority = 'VERY_LOW'

    def __init__(self):
        self.rows, self.states = [], []

    def before_train_iter(self, runner, **kwargs):
        groups = runner.optim_wrapper.optimizer.param_groups
        head = runner.model.head
        self.rows.append(
            dict(
                t=runner.iter,
                p=get_p(runner.model),
                eps=head.eps,
                lam=head.lam,
                kappa=head.kappa,
                lr=groups[0]['lr'],
                p_norm=[g['p_norm'] for g in groups]))

    def after_train_iter(self, runner, **kwargs):
        self.states.append({
            k: v.clone()
            for k, v in runner.model.state_dict().items()
        })


EPOCHS = (1, 2, 2, 4, 5)
SCHEDULE = dict(type='mmext.PNormScheduleHook', epochs=EPOCHS)
COSINE = dict(
    type='CosineAnnealingLR',
    by_epoch=True,
    begin=EPOCHS[1],
    T_max=EPOCHS[4] - EPOCHS[1],
    end=EPOCHS[4] + 1,  # else the last step, to 0, is not taken
    eta_min=0.,
    convert_to_iter_based=True)


def build(work_dir,
          hooks=(SCHEDULE, ),
          epochs=EPOCHS[4],
          val_interval=1,
          by_epoch=True,
          scheduler=COSINE,
          noise=0.3,
          **kwargs):
    """A runner; 3 iterations an epoch."""
    # other datasets than the training one have no noise
    test = dict(
        dataset=NoisyPoints(9, noise=0.),
        batch_size=4,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='pseudo_collate'))
    train_cfg = dict(
        by_epoch=True, max_epochs=epochs, val_interval=val_interval)
    if not by_epoch:
        train_cfg = dict(
            by_epoch=False,
            max_iters=3 * epochs,
            val_interval=3 * val_interval)
    return Runner(
        DistanceNet(),
        str(work_dir),
        train_dataloader=dict(
            dataset=NoisyPoints(12, noise),
            batch_size=4,
            num_workers=0,
            sampler=dict(
                type='DefaultSampler' if by_epoch else 'InfiniteSampler',
                shuffle=True),
            collate_fn=dict(type='pseudo_collate')),
        train_cfg=train_cfg,
        val_dataloader=test,
        val_cfg=dict(),
        val_evaluator=[Margin()],
        test_dataloader=dict(test),
        test_cfg=dict(),
        test_evaluator=[Margin()],
        optim_wrapper=dict(
            constructor='mmext.LpOptimWrapperConstructor',
            optimizer=dict(type='mmext.AdamWLp', lr=0.05, weight_decay=0.01)),
        param_scheduler=scheduler and dict(scheduler),
        default_hooks=dict(
            checkpoint=dict(
                type='mmext.AtomicCheckpointHook',
                by_epoch=by_epoch,
                interval=1 if by_epoch else 3),
            rng_state=dict(type='mmext.RNGStateHook'),
            logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=[dict(hook) for hook in hooks],
        log_processor=dict(by_epoch=by_epoch),
        visualizer=dict(
            type='Visualizer', vis_backends=[], name=str(work_dir)),
        randomness=dict(seed=0),
        experiment_name=str(work_dir).replace('/', '_'),
        default_scope='mmengine',
        **kwargs)


def train(work_dir, resume=None, more_hooks=(), **kwargs):
    """Train; return the runner and what was watched."""
    watch = Watch()
    with quick_runner():
        runner = build(work_dir, **kwargs)
        for hook in (watch, *more_hooks):
            runner.register_hook(hook)
        if resume is not None:
            runner._resume, runner._load_from = True, str(resume)
        runner.train()
    return runner, watch


def test(work_dir, checkpoint, **kwargs):
    """Metrics of a checkpoint in a fresh runner."""
    with quick_runner():
        runner = build(Path(work_dir), load_from=str(checkpoint), **kwargs)
        return runner.test()


test.__test__ = False
