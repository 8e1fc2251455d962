# Copyright (c) mmext contributors. All rights reserved.
"""Two processes train one model."""
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmpretrain')

from ...processes import run_ranks  # noqa: E402
from ...tiny_classifiers import batch, build  # noqa: E402

ROOT = Path(__file__).parents[3]
STEPS = 3

WORKER = '''
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tests.test_models.test_adapters.test_distributed import steps

torch.set_num_threads(1)
dist.init_process_group('gloo')
rank = dist.get_rank()
torch.save({name: steps(DistributedDataParallel, rank, name)
            for name in ('compact', 'replicated')},
           f'{sys.argv[1]}/rank_{rank}.pth')
dist.destroy_process_group()
'''


def steps(wrap, rank, storage):
    """A few steps of a tiny model; what a rank ends with."""
    # Another seed of the run on each rank: masks and draws ignore it.
    model = build(split='both', storage=storage, seed=0 if rank is None else
                  rank, loss=dict(deep_weight=0.1))
    wrapped = wrap(model)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.05)
    model.guard(optimizer)
    tables, history = [], []
    for step in range(STEPS):
        x, samples = batch(model, count=4)
        x = x + step
        if rank is not None:
            x, samples = x[rank::2], samples[rank::2]
        model.train()
        tables.append(model.draw())
        losses = wrapped(x, samples, mode='loss')
        optimizer.zero_grad()
        model.parse_losses(losses)[0].backward()
        optimizer.step()
        history.append({k: v.clone() for k, v in model.state_dict().items()})
    return dict(tables=torch.stack(tables), history=history)


@pytest.mark.skipif(not torch.distributed.is_available(),
                    reason='torch without distributed')
def test_two_ranks(tmp_path):
    """Property 31: the same masks, indices and weights on both ranks, no
    unused parameter, and what one process makes of the whole batch."""
    run_ranks(WORKER, tmp_path)
    ranks = [torch.load(tmp_path / f'rank_{rank}.pth') for rank in range(2)]
    for storage in ranks[0]:
        compare([rank[storage] for rank in ranks],
                steps(lambda m: m, None, storage))


def compare(ranks, one):
    """The same on both ranks, and as in one process."""
    for other in (ranks[1], one):
        assert torch.equal(ranks[0]['tables'], other['tables'])
    for step in range(STEPS):
        first, second = (r['history'][step] for r in ranks)
        for key, value in one['history'][step].items():
            assert torch.equal(first[key], second[key]), key
            torch.testing.assert_close(first[key], value, rtol=0, atol=1e-9)
