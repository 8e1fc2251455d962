# Copyright (c) mmext contributors. All rights reserved.
"""What the hooks of distance nets need to know of several processes."""
import math

from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_reduce_params, get_world_size
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from mmext.models.lipschitz.layers import MeanShift


def epoch_length(loader: DataLoader) -> int:
    """Iterations in which all processes together see the data once.

    mmengine's ``InfiniteSampler`` says how long the data are for one
    process, whatever their number, although each gets every N-th image only.

    Args:
        loader (DataLoader): The training loader.

    Returns:
        int: Iterations.
    """
    sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
    if isinstance(sampler, InfiniteSampler):
        return math.ceil(len(loader) / sampler.world_size)
    return len(loader)


def sync_running_means(runner: Runner,
                       model: nn.Module,
                       epoch_ends: bool = False) -> None:
    r"""Give every process the mean of all processes' running means.

    .. math:: r_c \leftarrow \frac1N \sum_{n=1}^{N} r_c^{(n)}

    In training each process gathers those of its own batches, which makes
    it a network of its own at evaluation. Running means are linear in the
    batches' means and training does not read them, so that it makes no
    difference how often they are averaged: it has to be before they are
    used or saved. That is at the end of each epoch, or after each iteration
    if something validates or saves by iterations.

    All processes must call this, at the same time.

    Args:
        runner (Runner): The runner.
        model (nn.Module): The model that is trained, or an average of it.
            Layers with ``sync_mean`` share their means already.
        epoch_ends (bool): Whether an epoch ends rather than an iteration.
            Defaults to False.
    """
    if get_world_size() == 1 or not (epoch_ends or _by_iteration(runner)):
        return
    means = [
        m.running_mean for m in model.modules()
        if isinstance(m, MeanShift) and not m.sync
    ]
    if means:
        all_reduce_params(means, op='mean')


def _by_iteration(runner: Runner) -> bool:
    """Whether something validates or saves in the middle of an epoch."""
    return not isinstance(runner.train_loop, EpochBasedTrainLoop) or any(
        isinstance(hook, CheckpointHook) and not hook.by_epoch
        for hook in runner.hooks)
