# Copyright (c) mmext contributors. All rights reserved.
"""Teacher, weights of losses and precision in a run (H17, H21)."""
import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from torch.nn.modules.module import register_module_forward_hook

from mmext.models.depth import CrossModalityDistiller
from ..test_models.test_segmentation.common import same
from .stage_runs import NO_VAL, handed_over, run, weights


def test_h17_h21_teacher_of_stage3(stages, tmp_path):
    """H17, H21: untouched by the warm-up, then an average, never a copy."""
    start = handed_over(stages, 2)
    _, seen = run(
        stages / 'stage3.py', tmp_path / 'mean', **{
            'load_from': start,
            'train_cfg.max_iters': 3,
            'val_cfg': None,
            'val_dataloader': None,
            'val_evaluator': None
        })
    given = weights(start)
    for key in given:
        if not key.startswith('projection'):
            assert torch.equal(seen[0][0][key], given[key])
    assert same(seen[0][1], seen[1][1])  # one step of warm-up
    for before, after in zip(seen[1:], seen[2:]):
        for key, value in after[1].items():
            if value.is_floating_point() and 'running' not in key:
                torch.testing.assert_close(
                    value,
                    0.99 * before[1][key] + 0.01 * after[0][key],
                    rtol=1e-5,
                    atol=1e-7)
    assert not same(seen[2][0], seen[2][1])


def test_h17_accumulated_gradients(stages, tmp_path):
    """H17: warm-up and average go by steps of two iterations each."""
    runner, seen = run(
        stages / 'stage3.py', tmp_path / 'two', **NO_VAL, **{
            'load_from': handed_over(stages, 2),
            'optim_wrapper.accumulative_counts': 2,
            'train_cfg.max_iters': 6
        })
    key = 'backbone.vit.blocks.0.mlp.fc1.weight'
    moved = [[
        index for index in range(6)
        if not torch.equal(seen[index][who][key], seen[index + 1][who][key])
    ] for who in (0, 1)]
    assert moved == [[1, 3, 5], [3, 5]]  # student, teacher
    scalars = runner.message_hub.log_scalars
    assert len(scalars['train/loss_depth'].data[0]) == 6
    assert len(scalars['train/loss_scp'].data[0]) == 4


@pytest.mark.parametrize('loop,shares', [
    (dict(type='IterBasedTrainLoop', max_iters=4), (1, 3 / 4, 2 / 4, 1 / 4)),
    (dict(by_epoch=True, max_epochs=2), (1, 1, 1 / 2, 1 / 2)),
])
def test_weights_decay_in_a_run(stages, tmp_path, monkeypatch, loop, shares):
    """The hook says how far the training is, at every iteration."""
    used, weight = [], CrossModalityDistiller._weight

    def record(self, options):
        used.append((options['path'], weight(self, options)))
        return used[-1][1]

    monkeypatch.setattr(CrossModalityDistiller, '_weight', record)
    run(
        stages / 'stage2.py', tmp_path / 'decay', **{
            'model.teacher_ckpt': handed_over(stages, 1),
            'model.decay': 'linear',
            'model.fkd.weight': 0.02,
            'train_cfg': dict(loop, _delete_=True)
        })
    for path, full in (('decode_head.layer_4', 0.01), ('decode_head.path_4',
                                                       0.02)):
        found = [value for name, value in used if name == path]
        # asked more than once an iteration
        each = len(found) // 4
        assert each and found == pytest.approx(
            [full * share for share in shares for _ in range(each)])


def test_stage3_in_bfloat16(stages, tmp_path):
    """Mixed precision on CPUs: sound losses, weights stay float32."""
    kinds = set()
    watch = register_module_forward_hook(lambda module, _, out: kinds.add(
        out.dtype) if isinstance(module, torch.nn.Linear) else None)
    try:
        runner, seen = run(
            stages / 'stage3.py', tmp_path / 'amp', **{
                'load_from': handed_over(stages, 2),
                'optim_wrapper.type': 'mmext.CPUAmpOptimWrapper',
                'train_cfg.max_iters': 2,
                'val_cfg': None,
                'val_dataloader': None,
                'val_evaluator': None
            })
    finally:
        watch.remove()
    assert torch.bfloat16 in kinds
    losses = {
        key: scalar.data[0]
        for key, scalar in runner.message_hub.log_scalars.items()
        if 'loss' in key
    }
    assert 'train/loss_scp' in losses  # from the end of the warm-up on
    for each in losses.values():
        assert np.isfinite(each).all()
    for state in seen[-1]:
        assert all(value.dtype == torch.float32 and value.isfinite().all()
                   for value in state.values() if value.is_floating_point())
    assert not same(seen[0][0], seen[2][0])
