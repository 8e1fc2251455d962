# Copyright (c) mmext contributors. All rights reserved.
import pytest
import torch
from torch import nn

from mmext.utils.user_error import ConfigError
from tests.test_engine.tiny_training import DropoutModel, build

pytestmark = pytest.mark.stack_subset


def _runner(tmp_path, spoil_at=(3, ), model=None, **hook):
    return build(
        tmp_path,
        model=model or DropoutModel(spoil_at=spoil_at),
        hooks=(dict(type='mmext.InvalidLossHook', **hook), ),
        validate=False)


def _finite(runner):
    return all(v.isfinite().all() for v in runner.model.state_dict().values())


def test_raise_names_the_loss_and_saves_nothing_bad(tmp_path):
    runner = _runner(tmp_path)
    with pytest.raises(
            FloatingPointError, match='loss=nan is not finite at iteration 3'):
        runner.train()
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == [
        'iter_1.pth', 'iter_2.pth'
    ]


def test_raise_looks_every_interval(tmp_path):
    runner = _runner(tmp_path, interval=4)
    with pytest.raises(FloatingPointError, match='iteration 4'):
        runner.train()


def test_skip_leaves_out_exactly_that_update(tmp_path):
    runner = _runner(tmp_path, spoil_at=(3, 5), action='skip')
    states = []
    original = runner.model.train_step

    def train_step(*args, **kwargs):
        states.append([p.detach().clone() for p in runner.model.parameters()])
        return original(*args, **kwargs)

    runner.model.train_step = train_step
    runner.train()
    states.append(list(runner.model.parameters()))
    changed = [
        any(not torch.equal(a, b) for a, b in zip(before, after))
        for before, after in zip(states, states[1:])
    ]
    assert changed == [True, True, False, True, False, True]
    assert _finite(runner)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'loss=nan is not finite at iteration 3; the update was left out' \
        in log


def test_skip_keeps_gradient_accumulation_in_step(tmp_path):
    runner = build(
        tmp_path,
        model=DropoutModel(spoil_at=(4, )),
        hooks=(dict(type='mmext.InvalidLossHook', action='skip'), ),
        validate=False)
    runner.optim_wrapper['accumulative_counts'] = 2
    steps = []
    runner.train_loop  # Built before the wrapper is.
    before = torch.optim.Adam.step

    def step(self, *args, **kwargs):
        steps.append(runner.iter + 1)
        return before(self, *args, **kwargs)

    torch.optim.Adam.step = step
    try:
        runner.train()
    finally:
        torch.optim.Adam.step = before
    # The sound half of iterations 3 and 4 is still used.
    assert steps == [2, 4, 6]
    assert _finite(runner)


class SpoilsItself(DropoutModel):
    """A finite loss at call 3 whose gradient is not: sqrt(0)."""

    def forward(self, inputs, data_samples=None, mode='loss'):
        losses = super().forward(inputs, data_samples, mode)
        if mode == 'loss' and self.calls == 3:
            zero = self.net[0].weight.sum() * 0
            losses['loss'] = losses['loss'] + zero.sqrt()
        return losses


def test_restore_recovers_from_a_spoilt_update(tmp_path):
    runner = _runner(tmp_path, model=SpoilsItself(), action='restore')
    runner.train()
    # Call 3 spoils the weights, call 4 shows it; back to before call 3.
    assert _finite(runner)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'at iteration 4; the update was left out and the state before ' \
        'iteration 3 restored' in log


def test_restore_puts_back_model_and_optimizer(tmp_path):
    from mmext.utils.io import safe_load, tensors_digest
    runner = _runner(tmp_path, spoil_at=(6, ), action='restore', interval=2)
    runner.train()
    # Copies are taken before iterations 1, 3 and 5.
    expected = safe_load(tmp_path / 'iter_4.pth')
    final = safe_load(tmp_path / 'iter_6.pth')
    for key in ('state_dict', 'optimizer'):
        mine = final[key]
        other = expected[key]
        if key == 'state_dict':
            # The copy is taken inside iteration 5, after its forward pass.
            mine = {k: v for k, v in mine.items() if 'net.1' not in k}
            other = {k: v for k, v in other.items() if 'net.1' not in k}
        assert tensors_digest(mine) == tensors_digest(other)


def test_invalid_from_the_start_cannot_be_restored(tmp_path):
    with pytest.raises(FloatingPointError, match='first loss is not finite'):
        _runner(tmp_path, spoil_at=(1, ), action='restore').train()


def test_patience(tmp_path):
    with pytest.raises(FloatingPointError, match='3 losses in a row'):
        _runner(
            tmp_path, spoil_at=(2, 3, 4), action='skip', patience=3).train()


class OwnStep(DropoutModel):

    def train_step(self, data, optim_wrapper):
        loss = self(**data)['loss']
        optim_wrapper.backward(loss)
        optim_wrapper.step()
        return dict(loss=loss.detach())


def test_a_step_that_cannot_be_guarded_is_said(tmp_path):
    with pytest.raises(FloatingPointError, match='update_params'):
        _runner(tmp_path, model=OwnStep(spoil_at=(2, )), action='skip').train()


@pytest.mark.parametrize('kwargs', [
    dict(action='ignore'),
    dict(interval=0),
    dict(patience=0),
    dict(action='skip', interval=2),
])
def test_wrong_arguments(tmp_path, kwargs):
    from mmext.engine.hooks import InvalidLossHook
    with pytest.raises(ConfigError, match='but got'):
        InvalidLossHook(**kwargs)


def test_model_without_parameters_under_guard_is_harmless(tmp_path):
    model = DropoutModel()
    model.net[0] = nn.Linear(4, 8).requires_grad_(False)
    runner = _runner(tmp_path, model=model, action='restore')
    runner.train()
    assert runner.iter == 6
