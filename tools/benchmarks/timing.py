# Copyright (c) mmext contributors. All rights reserved.
"""Clocks and repeats of the benchmarks in this folder."""
import statistics
import time
from typing import Callable, Dict, List

import torch


def wall_clock(device: str = 'cpu') -> Callable[[], float]:
    """A clock in seconds that waits for what a device has been given.

    Args:
        device (str): Device of the work. Defaults to 'cpu'.

    Returns:
        Callable: Reads the clock.
    """
    if device == 'cpu':
        return time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return clock


def in_turn(functions: Dict[str, Callable],
            repeats: int,
            clock: Callable[[], float] = time.process_time,
            warm_up: int = 1) -> Dict[str, List[float]]:
    """Seconds of some functions, run one after the other, many times.

    Args:
        functions (dict[str, Callable]): What to time.
        repeats (int): How often.
        clock (Callable): Reads a clock in seconds. Defaults to
            ``time.process_time``.
        warm_up (int): Rounds before, without a time. Defaults to 1.

    Returns:
        dict[str, list[float]]: Seconds of every run.
    """
    seconds: Dict[str, List[float]] = {name: [] for name in functions}
    for i in range(warm_up + repeats):
        for name, function in functions.items():
            start = clock()
            function()
            taken = clock() - start
            if i >= warm_up:
                seconds[name].append(taken)
    return seconds


def ratio(seconds: Dict[str, List[float]], first: str, second: str) -> float:
    """Median of the ratios of runs that followed each other."""
    return statistics.median(a / b
                             for a, b in zip(seconds[first], seconds[second]))


def times(function: Callable,
          repeats: int,
          device: str = 'cpu') -> List[float]:
    """Seconds of some runs of one function, after a warm-up."""
    return in_turn(dict(one=function), repeats, wall_clock(device))['one']


def best(function: Callable, repeats: int, device: str = 'cpu') -> float:
    """Shortest of :func:`times`: other programs can only lengthen them."""
    return min(times(function, repeats, device))


def gpu_clocks() -> float:
    """Clocks of all multiprocessors of the first GPU, per second."""
    device = torch.cuda.get_device_properties(0)
    return device.multi_processor_count * 1e3 * getattr(
        device, 'clock_rate', 1.7e6)
