# Copyright (c) mmext contributors. All rights reserved.
"""Reduced precision in the adaptation loop."""
import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.hooks import Hook  # noqa: E402
from mmengine.runner import Runner, autocast  # noqa: E402

from mmext.engine.loops import precision  # noqa: E402
from mmext.utils.user_error import ConfigError  # noqa: E402
from ...toy_runs import quick_runner  # noqa: E402
from .common import (METHODS, SVDP, adaptation_config,  # noqa: E402
                     predictions, report, run, state)

CPU = torch.device('cpu')


class Precision(Hook):
    """Notes the types that student and teacher compute in, and whether
    weights once cast are kept."""

    def __init__(self) -> None:
        self.student, self.teacher, self.cache = set(), set(), set()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx:
            return
        teacher = runner.train_loop.teacher_hook.teacher.module
        for model, seen in ((runner.model, self.student),
                            (teacher, self.teacher)):
            model.backbone.conv1.register_forward_hook(
                lambda module, args, output, seen=seen: seen.add(output.dtype))
            model.backbone.conv1.register_forward_pre_hook(
                lambda module, args: self.cache.add(
                    torch.is_autocast_cache_enabled()))


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
    # torch before 2.11 would use the teacher's casts, without a graph
    assert watch.cache == {False}
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


def test_contexts_inside_keep_no_casts():
    """Those of the optimizer wrappers inherit it."""
    assert torch.is_autocast_cache_enabled()
    with precision.step_precision('bfloat16', CPU):
        with autocast('cpu'), torch.autocast('cpu'):
            assert not torch.is_autocast_cache_enabled()
    assert torch.is_autocast_cache_enabled()


def test_full_precision_changes_no_default():
    """An AmpOptimWrapper inside takes the type of the context around it."""
    with torch.autocast('cpu', torch.float16, enabled=False):
        with precision.step_precision(None, CPU):
            assert torch.get_autocast_dtype('cpu') == torch.float16


def test_float16_without_a_scaler(tmp_path):
    """Refused before the first frame, unless the method takes no step."""
    with pytest.raises(ConfigError, match="expects.*got OptimWrapper.*Set"):
        run(adaptation_config(tmp_path, METHODS['tent'], autocast='float16'))

    class Scaling:
        loss_scaler = None

    precision.check_optim_wrapper(Scaling(), 'float16', 'norm')
    for name in (None, 'bfloat16'):
        precision.check_optim_wrapper(object(), name, 'norm')
    precision.check_optim_wrapper(object(), 'float16', 'none')


def test_clock_waits_for_the_device(monkeypatch):
    """A GPU is still computing when a call returns."""
    waited = []
    monkeypatch.setattr(torch.cuda, 'synchronize', waited.append)
    clock = precision.device_clock
    assert clock(CPU) <= clock(torch.device('cuda:1'))
    assert waited == [torch.device('cuda:1')]
