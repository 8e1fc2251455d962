# Copyright (c) mmext contributors. All rights reserved.
"""What a stage begins with (properties H14, H37 and H38)."""
import json

import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from ..bicross_runs import write_stages
from ..test_models.test_segmentation.common import same
from ..toy_runs import quick_runner
from .stage_runs import NO_VAL, STEM, drive, handed_over, run, weights


@pytest.mark.stack_subset
def test_h38_stages_hand_over(stages):
    """H38: end to end on stock runners; what each stage began with."""
    work = stages / 'work'
    notes = [
        json.loads((work / f'stage{n}' / 'finished.json').read_text())
        for n in (1, 2, 3)
    ]
    assert notes[0]['started_from'] is None
    for before, after in zip(notes, notes[1:]):
        assert after['started_from'] == before['checkpoint']
    rgb, spike, last = (weights(one['checkpoint']) for one in notes)
    assert rgb[STEM].size(1) == 3
    assert spike[STEM].size(1) == last[STEM].size(1) == 16
    # two steps of 1e-5 away from stage 1, and all but the stem
    key = 'backbone.vit.blocks.0.mlp.fc1.weight'
    assert 0 < float((rgb[key] - spike[key]).abs().max()) < 1e-4
    assert {k for k in last if k.startswith('domain_loss')}
    assert not [k for k in last if k.startswith(('projection', 'model.'))]


def bare_names(node):
    """A config without the prefix of any of our parts."""
    if isinstance(node, dict):
        return {key: bare_names(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(bare_names(value) for value in node)
    ours = isinstance(node, str) and node.startswith('mmext.')
    return node[len('mmext.'):] if ours else node


def test_h37_a_stage_of_nothing_but_mmdepth(stages, tmp_path):
    """H37: trained under the default scope mmdepth, without a prefix."""
    cfg = Config.fromfile(stages / 'stage3.py')
    cfg.merge_from_dict(
        dict(
            default_scope='mmdepth',
            custom_imports=None,
            visualizer=dict(
                _delete_=True, type='mmext.DepthLocalVisualizer', name='bare'),
            load_from=handed_over(stages, 2),
            work_dir=str(tmp_path),
            experiment_name='bare',
            tta_model=None))
    cfg.default_hooks.visualization.type = 'mmext.DepthVisualizationHook'
    plain = Config(bare_names(cfg.to_dict()))
    assert 'mmext.' not in str(plain.to_dict())
    try:
        with quick_runner():
            runner = Runner.from_cfg(plain)
            runner.train()
    finally:
        init_default_scope('mmseg')
    names = {type(hook).__name__ for hook in runner.hooks}
    assert {'MeanTeacherHook', 'DistillHook', 'AtomicCheckpointHook'} <= names
    assert type(runner.val_loop).__name__ == 'TeacherStudentValLoop'
    whole = weights(stages / 'work' / 'stage3' / 'iter_4.pth')
    assert same(weights(tmp_path / 'iter_4.pth'), whole)


def test_temporal_modules_are_handed_over(stages, tmp_path):
    """New in stage 2, whichever way it starts; trained; kept in stage 3."""
    temporal = dict(type='mmext.SpikeSE', channels=16, reduction=2)
    rgb = handed_over(stages, 1)
    for name, start in (('loaded', dict(load_from=rgb)), ('taught', {})):
        _, seen = run(
            stages / 'stage2.py', tmp_path / name, **start, **{
                'model.teacher_ckpt': rgb,
                'model.student.temporal': temporal
            })
        keys = [key for key in seen[0][0] if key.startswith('temporal.')]
        assert len(keys) == 2 and not set(keys) & set(seen[0][1])
        assert all(seen[0][0][key].any() for key in keys)
        for key in keys:
            assert not torch.equal(seen[0][0][key], seen[-1][0][key])
        saved = weights(tmp_path / name / 'iter_2.pth')
        assert all(torch.equal(saved[key], seen[-1][0][key]) for key in keys)
    _, seen = run(
        stages / 'stage3.py', tmp_path / 'third', **NO_VAL, **{
            'load_from': str(tmp_path / 'taught' / 'iter_2.pth'),
            'model.model.temporal': temporal,
            'train_cfg.max_iters': 1
        })
    for state in seen[0]:
        assert all(torch.equal(saved[key], state[key]) for key in keys)


def test_h14_stage2_from_the_teacher_only(stages, tmp_path):
    """H14: one path is enough for both, and the teacher stays."""
    path = handed_over(stages, 1)
    runner, seen = run(stages / 'stage2.py', tmp_path / 'one',
                       **{'model.teacher_ckpt': path})
    rgb = weights(path)
    for student, teacher in seen:
        assert same(teacher, rgb)
    for key, value in rgb.items():
        assert torch.equal(seen[0][0][key], value) == (key != STEM), key
    assert not runner.model.teacher.training


@pytest.mark.parametrize('key', ['state_dict', 'model_state_dict', None])
def test_stage2_with_an_inflated_stem(stages, tmp_path, key):
    """The mean of the RGB filters, however stage 1's network is loaded."""
    path = handed_over(stages, 1)
    rgb = weights(path)
    options = {'model.teacher_ckpt': path, 'model.stem': 'inflate'}
    # of ours, of other programs, or bare
    options['load_from'] = str(tmp_path / 'rgb.pth')
    torch.save({key: rgb} if key else rgb, options['load_from'])
    mean = rgb[STEM].mean(1, keepdim=True).expand(-1, 16, -1, -1)
    _, seen = run(stages / 'stage2.py', tmp_path / 'load', **options)
    for name, value in rgb.items():
        expected = mean if name == STEM else value
        assert torch.equal(seen[0][0][name], expected), name
        assert torch.equal(seen[0][1][name], value), name


def test_inflated_stem_from_the_teacher_and_resumed(stages, tmp_path):
    path = handed_over(stages, 1)
    options = {'model.teacher_ckpt': path, 'model.stem': 'inflate'}
    _, seen = run(stages / 'stage2.py', tmp_path / 'run', **options)
    mean = weights(path)[STEM].mean(1)
    for moment in seen[0][0][STEM].unbind(1):
        assert torch.equal(moment, mean)
    # training goes on with what it has learnt
    last = str(tmp_path / 'run' / 'iter_2.pth')
    _, again = run(
        stages / 'stage2.py', tmp_path / 'run', **options, **{
            'load_from': last,
            'resume': True,
            'train_cfg.max_iters': 3
        })
    assert len(again) == 2
    assert same(again[0][0], weights(last))
    assert not torch.equal(again[0][0][STEM], seen[0][0][STEM])
    assert same(again[0][1], weights(path))


WIDE = """
{0}['decode_head']['channels'] = {0}['uncertainty_head']['channels'] = 24
"""

DISTIL = """
model.update(
    teacher=teacher, fkd=dict(connector=dict(in_channels=16, out_channels=24)))
del teacher
"""


def test_a_teacher_of_another_kind(stages, tmp_path):
    """A wider RGB network teaches, through a connector, in all stages."""
    write_stages(tmp_path)
    one, two = (tmp_path / f'stage{n}.py' for n in (1, 2))
    one.write_text(one.read_text() + WIDE.format('model'))
    two.write_text(two.read_text() + 'teacher = estimator(3)\n' +
                   WIDE.format('teacher') + DISTIL)
    work = tmp_path / 'work'
    drive(tmp_path / 'bicross.py', '--work-dir', work)
    notes = [
        json.loads((work / f'stage{n}' / 'finished.json').read_text())
        for n in (1, 2, 3)
    ]
    for before, after in zip(notes, notes[1:]):
        assert after['started_from'] == before['checkpoint']
    student = weights(notes[1]['checkpoint'])
    assert student['connector.weight'].shape[:2] == (24, 16)
    assert student[STEM].size(1) == 16
    # nothing is left to do
    drive(tmp_path / 'bicross.py', '--work-dir', work, '--resume')
    # the student's own start, and one that fits the student
    begin = str(work / 'begin.pth')
    torch.save(dict(state_dict=student), begin)
    options = {'model.teacher_ckpt': notes[0]['checkpoint']}
    _, own = run(tmp_path / 'stage2.py', tmp_path / 'own', **options)
    _, given = run(
        tmp_path / 'stage2.py', tmp_path / 'given', **options, load_from=begin)
    for seen, equal in ((own, False), (given, True)):
        assert same(seen[0][1], weights(notes[0]['checkpoint']))
        assert same(seen[0][0], student) == equal


def test_a_teacher_that_is_named_and_fits_starts_the_student(stages, tmp_path):
    cfg = Config.fromfile(stages / 'stage1.py')
    path = handed_over(stages, 1)
    _, seen = run(
        stages / 'stage2.py', tmp_path / 'named', **{
            'model.teacher': cfg.model.to_dict(),
            'model.teacher_ckpt': path
        })
    for key, value in weights(path).items():
        assert torch.equal(seen[0][0][key], value) == (key != STEM), key
