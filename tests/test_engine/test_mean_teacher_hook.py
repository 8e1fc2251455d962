# Copyright (c) mmext contributors. All rights reserved.
"""The teacher in ordinary training."""
import os.path as osp

import pytest
import torch
from torch import nn

pytest.importorskip('mmengine')

from mmengine.evaluator import BaseMetric  # noqa: E402
from mmengine.hooks import EMAHook, Hook  # noqa: E402
from mmengine.model import BaseModel  # noqa: E402
from mmengine.runner import Runner, load_checkpoint  # noqa: E402

from mmext.engine.hooks.mean_teacher_hook import MeanTeacherHook  # noqa: E402
from mmext.models.teachers import GroupEMA  # noqa: E402
from mmext.utils.io import safe_load  # noqa: E402
from mmext.utils.user_error import ConfigError  # noqa: E402
from ..toy_runs import quick_runner  # noqa: E402


class Model(BaseModel):
    """Linear, batch norm, linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = torch.stack(list(inputs))
        out = self.net(x)
        if mode == 'loss':
            return dict(loss=out.square().mean())
        return [float(out.sum())]


class Data(torch.utils.data.Dataset):
    """Fixed numbers."""
    metainfo = {}

    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return dict(inputs=torch.randn(4, generator=generator))


class Keep(BaseMetric):
    """What the validated model said."""

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(said=sum(results))


class Watch(Hook):
    """The student after each iteration."""
    priority = 'VERY_LOW'

    def __init__(self):
        self.students = []

    def after_train_iter(self, runner, **kwargs):
        self.students.append({
            k: v.clone()
            for k, v in runner.model.state_dict().items()
        })


def build(work_dir, iters=4, resume=False, val=True, val_cfg=None,
          accumulate=1, **kwargs):
    loader = dict(
        dataset=Data(), batch_size=4, num_workers=0,
        collate_fn=dict(type='pseudo_collate'),
        sampler=dict(type='DefaultSampler', shuffle=False))
    options = dict(decay=0.8, **kwargs)
    evaluation = dict(
        val_dataloader=loader, val_cfg=val_cfg or dict(),
        val_evaluator=[Keep()]) if val else {}
    runner = Runner(
        Model(), str(work_dir), resume=resume,
        train_dataloader=loader,
        train_cfg=dict(by_epoch=False, max_iters=iters, val_interval=2),
        optim_wrapper=dict(
            optimizer=dict(type='Adam', lr=0.1),
            accumulative_counts=accumulate),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False,
                            interval=2)),
        custom_hooks=[dict(type='mmext.MeanTeacherHook', **options)],
        visualizer=dict(type='Visualizer', vis_backends=[],
                        name=f'teacher-{osp.basename(str(work_dir))}'),
        experiment_name=f'teacher-{osp.basename(str(work_dir))}-{resume}',
        randomness=dict(seed=0), **evaluation)
    return runner


def train(*args, **kwargs):
    watch = Watch()
    with quick_runner():
        runner = build(*args, **kwargs)
        runner.register_hook(watch)
        runner.train()
    hook = next(h for h in runner.hooks if isinstance(h, MeanTeacherHook))
    return runner, hook, watch.students


def test_teacher_follows_every_iteration(tmp_path):
    """Property 26: the mean from the first iteration on."""
    _, hook, students = train(tmp_path)
    expected = {k: v.clone() for k, v in Model().named_parameters()}
    for student in students:
        for name, value in expected.items():
            expected[name] = 0.8 * value + 0.2 * student[name]
    for name, value in hook.teacher.module.named_parameters():
        assert torch.allclose(value, expected[name], atol=1e-6)


@pytest.mark.parametrize('iters,begin,steps', [(6, 0, (1, 3, 5)),
                                               (6, 2, (3, 5)),
                                               (5, 0, (1, 3, 4))])
def test_teacher_follows_steps_not_iterations(tmp_path, iters, begin, steps):
    """Of two accumulated iterations, and what is left at the end."""
    _, hook, students = train(
        tmp_path, iters=iters, begin=begin, accumulate=2, val=False)
    start = {k: v.clone() for k, v in Model().named_parameters()}
    expected, before = dict(start), start
    for index, student in enumerate(students):
        moved = [not torch.equal(student[k], before[k]) for k in start]
        assert any(moved) == (index % 2 == 1 or index == iters - 1)
        before = student
        if index in steps:
            for name, value in expected.items():
                expected[name] = 0.8 * value + 0.2 * student[name]
    for name, value in hook.teacher.module.named_parameters():
        assert torch.allclose(value, expected[name], atol=1e-6)


@pytest.mark.parametrize('evaluate', ['teacher', 'student'])
def test_validation_sees_what_is_saved(tmp_path, evaluate):
    """A stock load of the checkpoint scores what validation scored."""
    runner, hook, students = train(tmp_path, evaluate=evaluate)
    said = runner.message_hub.get_scalar('val/said').current()
    path = osp.join(tmp_path, 'iter_4.pth')
    saved = safe_load(path)
    plain = Model().eval()
    if evaluate == 'teacher':
        load_checkpoint(plain, path, strict=True)
    else:
        plain.load_state_dict(saved['ema_state_dict'])
    inputs = [Data()[i]['inputs'] for i in range(8)]
    assert sum(plain(inputs)) == pytest.approx(said, abs=1e-4)
    # Training went on with the student's own weights.
    for key, value in students[-1].items():
        assert torch.equal(runner.model.state_dict()[key], value)


@pytest.mark.parametrize('evaluate', ['teacher', 'student'])
def test_validation_of_both(tmp_path, evaluate):
    """One pass each; training goes on as if only one had been scored."""
    both = dict(type='mmext.TeacherStudentValLoop')
    runner, hook, students = train(
        tmp_path / 'both', evaluate=evaluate, val_cfg=both)
    _, _, alone = train(tmp_path / 'alone', evaluate=evaluate)
    for key, value in students[-1].items():
        assert torch.equal(value, alone[-1][key])
    saved = safe_load(tmp_path / 'both' / 'iter_4.pth')
    inputs = [Data()[i]['inputs'] for i in range(8)]
    other = 'student' if evaluate == 'teacher' else 'teacher'
    for name, lead in ((evaluate, ''), (other, f'{other}/')):
        plain = Model().eval()
        plain.load_state_dict(
            saved['state_dict' if name == 'teacher' else 'ema_state_dict'])
        said = runner.message_hub.get_scalar(f'val/{lead}said').current()
        assert sum(plain(inputs)) == pytest.approx(said, abs=1e-4)


@pytest.mark.parametrize('evaluate', ['teacher', 'student'])
def test_pictures_of_both(tmp_path, evaluate):
    """What hooks write last, under one name, is of the main network."""
    with quick_runner():
        runner = build(tmp_path, evaluate=evaluate, val_cfg=dict(
            type='mmext.TeacherStudentValLoop'))
        runner.train()
    seen = []
    runner.val_loop.run_iter = lambda index, data: seen.append(
        {k: v.clone() for k, v in runner.model.state_dict().items()})
    runner.val_evaluator.evaluate = lambda size: dict(said=0.)
    runner.val()
    first, last = seen[0], seen[-1]
    teacher = next(h for h in runner.hooks
                   if isinstance(h, MeanTeacherHook)).teacher.module
    expected = last if evaluate == 'teacher' else first
    for name, value in teacher.named_parameters():
        assert torch.equal(expected[name], value)
    assert any(not torch.equal(first[name], last[name]) for name in first)


def test_validation_of_both_needs_a_teacher(tmp_path):
    both = dict(type='mmext.TeacherStudentValLoop')
    with quick_runner():
        runner = build(tmp_path, val_cfg=both)
    # without training there is no teacher yet
    assert set(runner.val()) == {'said'}
    runner._hooks = [
        h for h in runner.hooks if not isinstance(h, MeanTeacherHook)
    ]
    with pytest.raises(ConfigError, match='MeanTeacherHook'):
        runner.val()


def test_checkpoint_layout(tmp_path):
    """Teacher in ``state_dict``, student in ``ema_state_dict``."""
    runner, hook, _ = train(tmp_path)
    saved = safe_load(osp.join(tmp_path, 'iter_4.pth'))
    assert saved['state_dict'].keys() == Model().state_dict().keys()
    for name, value in hook.teacher.module.named_parameters():
        assert torch.equal(saved['state_dict'][name], value)
    for name, value in runner.model.state_dict().items():
        assert torch.equal(saved['ema_state_dict'][name], value)


def test_resume(tmp_path):
    """Property 37: two and two iterations equal four, bit for bit."""
    whole, hook, _ = train(tmp_path / 'whole')
    train(tmp_path / 'parts', iters=2)
    parts, other, _ = train(tmp_path / 'parts', resume=True)
    assert parts.iter == 4
    for mine, theirs in ((whole.model, parts.model),
                         (hook.teacher.module, other.teacher.module)):
        for key, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[key]), key


def test_manual_update(tmp_path):
    """``update='manual'`` leaves the teacher to its user."""
    _, hook, _ = train(tmp_path, update='manual', val=False)
    for name, value in Model().named_parameters():
        assert torch.equal(dict(hook.teacher.module.named_parameters())[name],
                           value)


def test_load_is_not_resume(tmp_path):
    """``load_from`` starts student and teacher from the teacher."""
    train(tmp_path / 'first')
    path = osp.join(tmp_path, 'first', 'iter_4.pth')
    saved = safe_load(path)['state_dict']
    with quick_runner():
        runner = build(tmp_path / 'second', iters=1, val=False,
                       update='manual')
        runner._load_from = path
        runner.train()
    hook = next(h for h in runner.hooks if isinstance(h, MeanTeacherHook))
    for name, value in hook.teacher.module.named_parameters():
        assert torch.equal(value, saved[name])


@pytest.mark.parametrize('options, match', [
    (dict(update='epoch'), "'iter' or 'manual'"),
    (dict(evaluate='both'), "'teacher' or 'student'"),
])
def test_wrong_options(options, match):
    """Settings that do not exist are refused."""
    with pytest.raises(ValueError, match=match):
        MeanTeacherHook(**options)


def test_teacher_before_training():
    """Asking too early says when there is a teacher."""
    with pytest.raises(RuntimeError, match='before_train'):
        MeanTeacherHook().teacher
    assert GroupEMA(Model()).decay == 0.999


def test_beside_an_ema_hook(tmp_path):
    """Two averages in one checkpoint: a resumed student would be wrong."""
    with quick_runner():
        runner = build(tmp_path, iters=1, val=False)
        runner.register_hook(EMAHook())
        with pytest.raises(ConfigError, match='Take EMAHook out'):
            runner.train()


def test_two_teachers(tmp_path):
    """Each would put its own where the other looks for the student."""
    with quick_runner():
        runner = build(tmp_path, iters=1, val=False)
        runner.register_hook(MeanTeacherHook(decay=0.5))
        with pytest.raises(ConfigError, match='Leave one of them'):
            runner.train()
