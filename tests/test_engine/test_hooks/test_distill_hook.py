# Copyright (c) mmext contributors. All rights reserved.
"""The warm-up of stage 3; tests/test_train_bicross.py has the runs."""
from types import SimpleNamespace

import pytest
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


def test_warm_up_without_a_scaler_counts_iterations():
    assert warm_up_steps(None) == list(range(10))
