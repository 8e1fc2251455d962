# Copyright (c) mmext contributors. All rights reserved.
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from mmext.engine.hooks import RNGStateHook
from mmext.utils.io import safe_load, tensors_digest
from mmext.utils.rng import get_rng_state, set_rng_state
from tests.processes import run_distributed
from tests.test_engine.tiny_training import build

pytestmark = pytest.mark.stack_subset
ROOT = Path(__file__).resolve().parents[3]

WORKERS = dict(num_workers=2)
PERSISTENT = dict(num_workers=2, persistent_workers=True)
CASES = {
    'epochs':
    dict(by_epoch=True),
    'epochs, workers':
    dict(by_epoch=True, loader=WORKERS),
    # Workers that live on keep random states that no checkpoint can see.
    'epochs, persistent workers':
    dict(by_epoch=True, loader=PERSISTENT, noise=0.),
    'iterations':
    dict(),
    'iterations, several passes':
    dict(loader=dict(sampler=dict(type='DefaultSampler'), batch_size=6)),
    'iterations, workers':
    dict(loader=WORKERS, noise=0.),
    'no validation':
    dict(validate=False),
}


def _final(runner):
    return tensors_digest(
        dict(
            model=runner.model.state_dict(),
            optimizer=runner.optim_wrapper.state_dict()))


@pytest.mark.parametrize('name', CASES)
def test_resumed_run_is_the_same_run(tmp_path, name, monkeypatch):
    # mmengine waits two seconds before it passes over the data again.
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    case = CASES[name]
    runner = build(tmp_path / 'whole', **case)
    runner.train()
    expected = _final(runner)
    unit = 'epoch' if case.get('by_epoch') else 'iter'
    # Two steps: a validation follows this checkpoint.
    for step in (2, 3):
        torch.manual_seed(99), np.random.seed(98), random.seed(97)
        resumed = build(
            tmp_path / f'resumed{step}',
            load_from=str(tmp_path / 'whole' / f'{unit}_{step}.pth'),
            resume=True,
            **case)
        resumed.train()
        assert _final(resumed) == expected
        assert resumed.message_hub.get_scalar('train/loss').data[0][-1] == \
            runner.message_hub.get_scalar('train/loss').data[0][-1]


def test_without_the_hook_the_resumed_run_differs(tmp_path):
    """Shows that the test above can fail."""
    runner = build(tmp_path / 'whole', hooks=())
    runner.train()
    resumed = build(
        tmp_path / 'resumed',
        hooks=(),
        load_from=str(tmp_path / 'whole' / 'iter_3.pth'),
        resume=True)
    resumed.train()
    assert _final(resumed) != _final(runner)


def test_training_does_not_depend_on_validation(tmp_path):
    results = []
    for validate in (True, False):
        runner = build(tmp_path / f'{validate}', validate=validate)
        runner.train()
        results.append(tensors_digest(runner.model.state_dict()))
    assert results[0] == results[1]


def test_loading_weights_without_resuming_keeps_the_fresh_states(tmp_path):
    build(tmp_path / 'a').train()
    runner = build(
        tmp_path / 'b', load_from=str(tmp_path / 'a' / 'iter_3.pth'))
    runner.train()
    hook = next(h for h in runner.hooks if isinstance(h, RNGStateHook))
    assert hook._pending is None and runner.iter == 6


def test_state_round_trip_through_a_safe_checkpoint(tmp_path):
    generator = torch.Generator().manual_seed(5)
    np.random.seed(3)
    np.random.randn()  # Leaves a cached Gaussian number behind.

    def draw():
        return (random.random(), np.random.randn(), np.random.rand(),
                torch.rand(2).tolist(),
                torch.rand(2, generator=generator).tolist())

    torch.save(get_rng_state(dict(mine=generator)), tmp_path / 'a.pth')
    expected = draw()
    assert draw() != expected
    set_rng_state(safe_load(tmp_path / 'a.pth'), dict(mine=generator))
    assert draw() == expected


@pytest.mark.parametrize('late', [False, True])
def test_registered_generator_is_resumed(tmp_path, late):

    def hook_of(runner):
        return next(h for h in runner.hooks if isinstance(h, RNGStateHook))

    generator = torch.Generator().manual_seed(1)
    runner = build(tmp_path / 'a')
    hook_of(runner).register_generator('mine', generator)
    torch.rand(7, generator=generator)
    runner.train()
    expected = torch.rand(3, generator=generator)
    resumed = build(
        tmp_path / 'b',
        load_from=str(tmp_path / 'a' / 'iter_4.pth'),
        resume=True)
    fresh = torch.Generator().manual_seed(2)
    if not late:
        hook_of(resumed).register_generator('mine', fresh)
    resumed.train()
    if late:
        hook_of(resumed).register_generator('mine', fresh)
    assert torch.equal(torch.rand(3, generator=fresh), expected)


@pytest.mark.parametrize('change, message', [
    (lambda c: c.pop('rng_state'), 'holds no random states'),
    (lambda c: c['rng_state'].update(ranks=[None]), 'of rank 0 only'),
    (lambda c: c['rng_state'].update(ranks=[None] * 3), '3 processes'),
    (lambda c: c['rng_state'].update(sampler_seed=77), 'order of the data'),
])
def test_inexact_resume_is_said(tmp_path, change, message):
    build(tmp_path / 'a').train()
    checkpoint = safe_load(tmp_path / 'a' / 'iter_3.pth')
    change(checkpoint)
    torch.save(checkpoint, tmp_path / 'changed.pth')
    runner = build(
        tmp_path / 'b', load_from=str(tmp_path / 'changed.pth'), resume=True)
    runner.train()
    log = next((tmp_path / 'b').glob('*/*.log')).read_text()
    assert 'not exact' in log and message in log


_TWO_RANKS = '''
import sys
import torch
import tests.conftest  # Makes the hosts importable.
from mmext.compat import patch_cpu_distributed
patch_cpu_distributed()
from mmengine.dist import get_rank
from tests.test_engine.tiny_training import build
folder, resume = sys.argv[1:]
kwargs = dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='gloo')))
if resume:
    kwargs.update(load_from=resume, resume=True)
runner = build(folder, diff_rank_seed=True, **kwargs)
runner.train()
torch.save(dict(state=dict(runner.model.named_parameters()),
                draw=torch.rand(3)),
           f'{folder}/final{get_rank()}.pth')
'''


@pytest.mark.slow
@pytest.mark.skipif(
    torch.cuda.is_available(), reason='for machines without an accelerator')
def test_each_rank_gets_its_own_states_back(tmp_path):
    script = tmp_path / 'train.py'
    script.write_text(_TWO_RANKS)
    for name, resume in (('a', ''), ('b', str(tmp_path / 'a/iter_3.pth'))):
        run_distributed(
            script, tmp_path / name, resume, timeout=500, PYTHONPATH=str(ROOT))
    draws = []
    for rank in range(2):
        whole, resumed = (
            safe_load(tmp_path / name / f'final{rank}.pth') for name in 'ab')
        assert tensors_digest(whole) == tensors_digest(resumed)
        draws.append(whole['draw'])
    assert not torch.equal(*draws)
