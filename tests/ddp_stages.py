# Copyright (c) mmext contributors. All rights reserved.
"""Two processes of stages 2 and 3 against one; run as ``python -m``."""
import os
import sys

import torch
import torch.multiprocessing as mp
from mmengine.model import MMDistributedDataParallel
from torch import distributed

from tests.test_models.test_depth.stage_models import (adapter, distiller,
                                                       domains, pairs)


def stage2():
    """The distiller; its teacher has no gradients to exchange."""
    torch.manual_seed(0)
    return distiller()


def stage3():
    """The adapter after its warm-up."""
    torch.manual_seed(0)
    model = adapter(warmup_iters=1)
    model.step = 1
    return model


STAGES = dict(stage2=(stage2, pairs), stage3=(stage3, domains))


def batch(make, rank):
    """What a process sees."""
    found = make()
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
    for build, make in STAGES.values():
        compare(build, make, rank)
    # the warm-up of stage 3 leaves the domain head without gradients
    model = stage3()
    model.step = 0
    parallel = MMDistributedDataParallel(model, find_unused_parameters=True)
    grads(parallel, model, batch(domains, rank))
    queue.put(rank)
    distributed.destroy_process_group()


def compare(build, make, rank):
    """Gradients of both processes are the mean of those of each alone."""
    model = build()
    parallel = MMDistributedDataParallel(model, find_unused_parameters=True)
    found = grads(parallel, model, batch(make, rank))
    alone = []
    for other in range(2):
        model = build()
        alone.append(grads(model, model, batch(make, other)))
    assert any(g is not None and g.any() for g in alone[0].values())
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
