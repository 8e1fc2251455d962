# Copyright (c) mmext contributors. All rights reserved.
"""CoTTA on a toy segmentor."""
import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.optim import OptimWrapper  # noqa: E402

from mmext.models.segmentation import CoTTA, SourceOnly  # noqa: E402
from .common import (ORI, REFERENCE, make_frame, same, snapshot,  # noqa: E402
                     start)


def cotta(**kwargs):
    return CoTTA(**dict(dict(decay=0.9, reference_view=REFERENCE), **kwargs))


def test_no_prompt_anywhere():
    """Property 34: neither the student nor the teacher has a prompt."""
    method = cotta()
    optim = start(method)
    for net in (method.model, method.teacher.module, method.anchor):
        assert not any('prompt' in k for k in net.state_dict())
    assert len(optim.optimizer.param_groups) == len(
        list(method.model.parameters()))
    assert {g['lr'] for g in optim.optimizer.param_groups} == {1e-3}


def test_first_frame_is_the_gated_source():
    """Properties 14, 16: before any update teacher and source agree."""
    frame = make_frame()
    method = cotta(anchor_threshold=None)
    optim = start(method)
    source = SourceOnly(multi_view=True, reference_view=REFERENCE)
    start(source)
    expected = source.step(frame, None).labels
    assert torch.equal(method.step(frame, optim).labels, expected)
    assert method.anchor is None


def test_step_moves_student_then_teacher():
    """Properties 18, 26: one optimizer step, then a weighted mean."""
    method = cotta(restore_prob=0.)
    optim = start(method)
    result = method.step(make_frame(), optim)
    student, teacher = snapshot(method.model), snapshot(
        method.teacher.module)
    for name, param in method.model.named_parameters():
        before = method.source[name]
        # Adam's first step is as long as its rate, whatever the gradient.
        assert float((student[name] - before).abs().max()) < 1.01e-3
        mean = 0.9 * before + 0.1 * student[name]
        assert torch.allclose(teacher[name], mean, atol=1e-7), name
    assert result.log['loss'] > 0
    assert 0 <= result.log['anchor_agreement'] <= 1


def test_gate_is_counted():
    """The log tells how often the source is sure."""
    sure = cotta(anchor_threshold=0.)
    optim = start(sure)
    assert sure.step(make_frame(), optim).log['anchor_sure'] == 1
    unsure = cotta(anchor_threshold=1.)
    optim = start(unsure)
    assert unsure.step(make_frame(), optim).log['anchor_sure'] == 0


def test_modes():
    """Property 21: eval mode, BN buffers as they were."""
    method = cotta()
    optim = start(method)
    for seed in range(2):
        method.step(make_frame(seed), optim)
    for net in (method.model, method.teacher.module, method.anchor):
        assert not any(m.training for m in net.modules())
        now = net.state_dict()
        assert int(now['backbone.bn1.num_batches_tracked']) == 0
        for name, _ in net.named_buffers():
            if name in method.source:  # means and deviations are not saved
                assert torch.equal(now[name], method.source[name])


@pytest.mark.parametrize('adapt, prefix', [
    ('^decode_head', 'decode_head'),
    ('backbone', 'backbone'),
])
def test_adapt_by_pattern(adapt, prefix):
    """A regular expression chooses what adapts."""
    method = cotta(adapt=adapt)
    optim = start(method)
    before = snapshot(method.model)
    method.step(make_frame(), optim)
    after = snapshot(method.model)
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved and all(k.startswith(prefix) for k in moved)


def test_adapt_nothing():
    """A pattern without a match says what names look like."""
    with pytest.raises(ValueError, match='selects no parameter'):
        start(cotta(adapt='transformer'))


def test_views_per_batch():
    """Property 17: sharing a forward pass changes rounding only."""
    results = []
    for batch in (1, 2, 6):
        method = cotta(views_per_batch=batch)
        start(method)
        labels, _ = method.pseudo_label(make_frame(), REFERENCE)
        results.append(labels)
    for labels in results[1:]:
        assert (labels != results[0]).float().mean() < 1e-3
    assert results[0].shape == ORI


def test_reset():
    """Property 31: after a reset the run repeats itself."""
    method = cotta()
    optim = start(method)
    first = method.step(make_frame(), optim).labels
    state = snapshot(method.model)
    method.reset(optim)
    assert same(snapshot(method.model), method.source)
    assert torch.equal(method.step(make_frame(), optim).labels, first)
    assert same(snapshot(method.model), state)


class Scaled(OptimWrapper):
    """What AmpOptimWrapper does with a scaler, on a CPU."""

    def __init__(self, optimizer, fixed=None):
        super().__init__(optimizer)
        self.fixed = fixed
        self.loss_scaler = torch.amp.GradScaler('cpu', fixed or 2.**16)

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward(**kwargs)

    def step(self, **kwargs):
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update(self.fixed)


@pytest.mark.parametrize('fixed', [None, 512.])
def test_a_step_that_the_scaler_leaves_out(fixed):
    """It is told, and neither the teacher nor the restore goes on."""
    method = cotta(restore_prob=0.3)
    optim = Scaled(start(method).optimizer, fixed)
    assert not method.step(make_frame(), optim).skipped
    moved = snapshot(method.model)
    teacher = snapshot(method.teacher.module)
    weight = next(method.model.parameters())
    hook = weight.register_hook(lambda grad: grad * float('inf'))
    assert method.step(make_frame(1),
                       optim).skipped == 'the gradient is not finite'
    assert same(snapshot(method.model), moved)
    assert same(snapshot(method.teacher.module), teacher)
    assert optim.loss_scaler.get_scale() == (fixed or 2.**15)
    hook.remove()
    assert not method.step(make_frame(2), optim).skipped
    assert not same(snapshot(method.teacher.module), teacher)
