# Copyright (c) mmext contributors. All rights reserved.
"""Two processes of stage 3 against one; run as ``python -m``."""
import os
import sys

import torch
import torch.multiprocessing as mp
from mmengine.model import MMDistributedDataParallel
from torch import distributed

from tests.test_models.test_depth.test_stages import adapter, domains


def batch(rank):
    """What a process sees."""
    found = domains()
    generator = torch.Generator().manual_seed(rank)
    for key, value in found['inputs'].items():
        found['inputs'][key] = torch.randn(
            value.shape, generator=generator).sign()
    return found


def grads(call, model, data):
    """Gradients of the losses of a batch."""
    losses = call(**data, mode='loss')
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    return {n: p.grad for n, p in model.named_parameters()}


def work(rank, port, queue):
    """One of two processes; each has its own L_sig and its own median."""
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    distributed.init_process_group('gloo', rank=rank, world_size=2)
    torch.manual_seed(0)
    model = adapter(warmup_iters=1)
    model.step = 1
    parallel = MMDistributedDataParallel(model, find_unused_parameters=True)
    found = grads(parallel, model, batch(rank))
    alone = []
    for other in range(2):
        model = adapter(warmup_iters=1)
        model.step = 1
        alone.append(grads(model, model, batch(other)))
    for name, grad in found.items():
        if alone[0][name] is None:
            assert grad is None or not grad.any(), name
            continue
        mean = (alone[0][name] + alone[1][name]) / 2
        torch.testing.assert_close(
            grad,
            mean,
            rtol=1e-4,
            atol=1e-6 + 1e-5 * mean.abs().max(),
            msg=lambda text: f'{name} {text}')
    # the warm-up leaves the domain head without gradients
    model.step = 0
    parallel.zero_grad()
    grads(parallel, parallel.module, batch(rank))
    queue.put(rank)
    distributed.destroy_process_group()


if __name__ == '__main__':
    context = mp.get_context('fork')
    results = context.Queue()
    ranks = [
        context.Process(target=work, args=(rank, int(sys.argv[1]), results))
        for rank in range(2)
    ]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join()
    sys.exit(max(abs(one.exitcode) for one in ranks))
