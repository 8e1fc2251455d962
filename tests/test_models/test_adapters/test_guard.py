# Copyright (c) mmext contributors. All rights reserved.
"""Training without the hook that guards the optimizer."""
import pytest
import torch

pytest.importorskip('mmpretrain')

from mmext.models.adapters import draws
from mmext.utils.user_error import ConfigError
from ...tiny_classifiers import adaptformer, batch, build, total_loss


@pytest.mark.parametrize('passes', [1, 2])
@pytest.mark.parametrize('storage', ['compact', 'replicated'])
def test_skip_without_a_guard_is_refused(passes, storage):
    """Every step would move all modules, as with ``'zero_grad'``."""
    model = build(inactive='skip', num_passes=passes, storage=storage)
    x, samples = batch(model)
    with pytest.raises(ConfigError, match='mmext.MoSAHook'):
        total_loss(model.train(), x, samples)
    total_loss(model.eval(), x, samples)  # of the merged adapters
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    guard = model.guard(optimizer)
    total_loss(model.train(), x, samples)
    guard.remove()
    guard.remove()
    with pytest.raises(ConfigError, match=r'model\.guard\(optimizer\)'):
        total_loss(model, x, samples)


@pytest.mark.parametrize('options', [
    dict(num_modules=1), dict(adapter=adaptformer(fixed_mask=True)),
    dict(adapter=dict(type='LinearProbe'))
])
def test_without_modules_nothing_is_skipped(options):
    model = build(inactive='skip', **options)
    total_loss(model.train(), *batch(model))


def test_a_training_without_the_hook_is_told_once(monkeypatch):
    told = []
    monkeypatch.setattr(draws, 'print_log',
                        lambda text, **_: told.append(text))
    model = build().train()
    for _ in range(2):
        total_loss(model, *batch(model))
    text, = told
    assert 'MoSAHook' in text and "'mosa'" in text
    for model in (build(num_modules=1), build()):
        model.guard(torch.optim.SGD(model.parameters(), 0.1))
        total_loss(model.train(), *batch(model))
    assert len(told) == 1
