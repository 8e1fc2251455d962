# Copyright (c) mmext contributors. All rights reserved.
"""The warm-up of stage 3; tests/test_train_bicross/ has the runs."""
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner import IterBasedTrainLoop
from torch import nn

from mmext.engine.hooks import DistillHook


class Model(nn.Module):
    step, progress, warmup_iters = None, 0., 3

    def attach_teacher(self, teacher):
        pass


class Scaler:
    """Falls at given steps, as when a gradient was not finite."""

    def __init__(self, falls):
        self.falls, self.scale = falls, 65536.

    def get_scale(self):
        return self.scale

    def update(self, step):
        self.scale /= 1 + (step in self.falls)


def warm_up_steps(falls, resume_at=None):
    """Counters that the model saw in ten iterations."""
    scaler, seen, saved = Scaler(falls or ()), [], None
    for hub in (MessageHub('first'), MessageHub('second')):
        wrapper = SimpleNamespace(_accumulative_counts=1)
        if falls is not None:
            wrapper.loss_scaler = scaler
        runner = SimpleNamespace(
            model=Model(), optim_wrapper=wrapper, message_hub=hub,
            train_loop=object.__new__(IterBasedTrainLoop), max_iters=10)
        if saved is not None:  # what a checkpoint brings back
            hub.load_state_dict(saved)
        hook = DistillHook()
        for runner.iter in range(len(seen), 10):
            hook.before_train_iter(runner, runner.iter)
            seen.append(runner.model.step)
            scaler.update(runner.iter)
            hook.after_train_iter(runner, runner.iter)
            if len(seen) == resume_at:
                break
        saved = hub.state_dict()
    return seen


@pytest.mark.parametrize('resume_at', [None, 2])
def test_warm_up_waits_for_steps_that_were_left_out(resume_at):
    """H17 counts optimiser steps; later falls of the scale do not matter."""
    seen = warm_up_steps({0, 1, 8}, resume_at)
    assert seen == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize('accumulated, left_out, expected', [
    (1, {0, 2}, [0, 0, 1, 1, 2, 3]),
    (2, {1}, [0, 0, 0, 0, 1, 1]),
])
def test_warm_up_under_a_fixed_scale(accumulated, left_out, expected):
    """The scale never falls; a step that is left out calls nobody."""
    model = Model()
    model.losses = dict(sup=1.)
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = Scaler(())
    runner = SimpleNamespace(
        model=model, hooks=[], message_hub=MessageHub('fixed'), iter=0,
        _load_from='stage2.pth',
        optim_wrapper=SimpleNamespace(
            _accumulative_counts=accumulated, optimizer=optimizer,
            loss_scaler=scaler),
        train_loop=object.__new__(IterBasedTrainLoop), max_iters=10)
    hook, seen = DistillHook(), []
    hook.before_train(runner)
    for runner.iter in range(6):
        hook.before_train_iter(runner, runner.iter)
        seen.append(model.step)
        if (runner.iter + 1) % accumulated == 0 and \
                runner.iter not in left_out:
            optimizer.step()
        hook.after_train_iter(runner, runner.iter)
    assert seen == expected


def test_warm_up_without_a_scaler_counts_iterations():
    assert warm_up_steps(None) == list(range(10))
