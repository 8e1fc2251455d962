# Copyright (c) mmext contributors. All rights reserved.
"""Reduced precision in the adaptation loop."""
import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.hooks import Hook  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from ...toy_runs import quick_runner  # noqa: E402
from .common import (SVDP, adaptation_config, predictions,  # noqa: E402
                     report, run, state)


class Precision(Hook):
    """Notes the types that student and teacher compute in."""

    def __init__(self) -> None:
        self.student, self.teacher = set(), set()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx:
            return
        teacher = runner.train_loop.teacher_hook.teacher.module
        for model, seen in ((runner.model, self.student),
                            (teacher, self.teacher)):
            model.backbone.conv1.register_forward_hook(
                lambda module, args, output, seen=seen: seen.add(output.dtype))


def test_bfloat16(tmp_path):
    """Property 42: finite, float32 weights, labels near those of float32."""
    cfg = adaptation_config(
        tmp_path, SVDP, work='half', autocast='bfloat16',
        save_predictions=True)
    watch = Precision()
    with quick_runner():
        half = Runner.from_cfg(cfg)
        half.register_hook(watch)
        half.train()
    assert watch.student == watch.teacher == {torch.bfloat16}
    assert report(half)['autocast'] == 'bfloat16'
    for key, value in state(half).items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert value.dtype == torch.float32, key
            assert value.isfinite().all(), key
    prompt = half.model.visual_prompt.patch
    source = half.train_loop.method.source['visual_prompt.patch']
    assert not torch.equal(prompt, source)

    full = run(
        adaptation_config(
            tmp_path, SVDP, work='full', save_predictions=True))
    first, second = predictions(half), predictions(full)
    assert first.keys() == second.keys() and len(first) == 4
    same = [(first[name] == second[name]).mean() for name in first]
    # random weights leave many pixels undecided; a trained model does not
    assert min(same) > 0.9
    means = [report(runner)['stats']['r1/fog'] for runner in (half, full)]
    for name in ('loss', 'uncertainty'):
        assert means[0][name] == pytest.approx(means[1][name], rel=0.05)


def test_unknown_precision(tmp_path):
    """A type that does not exist is refused by name."""
    with pytest.raises(ValueError, match="'bfloat16' or 'float16'.*'half'"):
        run(adaptation_config(tmp_path, SVDP, autocast='half'))
