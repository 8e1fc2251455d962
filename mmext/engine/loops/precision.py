# Copyright (c) mmext contributors. All rights reserved.
"""Precision, optimizer and clock of one step of an adaptation."""
import time
from contextlib import nullcontext
from typing import ContextManager, Optional

import torch
from mmengine.optim import OptimWrapper

from mmext.utils.user_error import ConfigError


def step_precision(autocast: Optional[str],
                   device: torch.device) -> ContextManager:
    """The context in which a method predicts and adapts.

    Args:
        autocast (str, optional): ``'bfloat16'``, ``'float16'`` or None.
        device (torch.device): Where the networks compute.

    Returns:
        ContextManager: Without ``autocast`` one that changes nothing, for an
        ``AmpOptimWrapper`` inside takes the type of the context around it,
        even where that is switched off.
    """
    if autocast is None:
        return nullcontext()
    # The context spans a prediction without gradients and a pass with them.
    # torch before 2.11 keeps the weights that it has cast in the first, which
    # have no graph, and uses them in the second: what is learned then never
    # reaches them (pytorch/pytorch#112583, #142234). Contexts inside, those
    # of mmengine's optimizer wrappers too, inherit the setting.
    return torch.autocast(
        device.type, dtype=getattr(torch, autocast), cache_enabled=False)


def device_clock(device: torch.device) -> float:
    """Seconds of a monotonic clock, once ``device`` has done its work.

    A GPU is still computing when a call returns.

    Args:
        device (torch.device): Whose work is measured.
    """
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()


def float16_problem(autocast: Optional[str], adapt: str, wrapper: str,
                    scales: bool) -> Optional[str]:
    """Why a method cannot learn in half precision.

    Args:
        autocast (str, optional): Of the loop.
        adapt (str): Of the method; ``'none'`` takes no step.
        wrapper (str): Type of the optimizer wrapper.
        scales (bool): Whether it scales the loss.

    Returns:
        str, optional: A message; None where there is no problem.
    """
    if autocast != 'float16' or adapt == 'none' or scales:
        return None
    return ("train_cfg.autocast='float16' expects an optim_wrapper that "
            'scales the loss, for small gradients vanish in float16, but '
            f"got {wrapper}. Set optim_wrapper.type='AmpOptimWrapper' "
            "(--amp does), or autocast='bfloat16', which needs no scale.")


def check_optim_wrapper(optim_wrapper: OptimWrapper, autocast: Optional[str],
                        adapt: str) -> None:
    """Refuse an optimizer wrapper that does not suit the adaptation.

    Args:
        optim_wrapper (OptimWrapper): Of the student.
        autocast (str, optional): Of the loop.
        adapt (str): Of the method; ``'none'`` takes no step.

    Raises:
        ConfigError: If it accumulates gradients, or does not scale the loss
            of a method that learns in float16.
    """
    count = getattr(optim_wrapper, '_accumulative_counts', 1)
    if count != 1:
        raise ConfigError('Adaptation takes a step after every frame, but '
                          f'optim_wrapper.accumulative_counts is {count}. '
                          'Take it out.')
    problem = float16_problem(autocast, adapt,
                              type(optim_wrapper).__name__,
                              hasattr(optim_wrapper, 'loss_scaler'))
    if problem:
        raise ConfigError(problem)
