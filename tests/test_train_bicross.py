# Copyright (c) mmext contributors. All rights reserved.
"""The three stages as a user runs them (properties H14, H17, H21, H38)."""
import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch.nn.modules.module import register_module_forward_hook

from mmext.engine.hooks import DistillHook, MeanTeacherHook
from mmext.models.depth import CrossModalityDistiller
from mmext.registry import HOOKS
from mmext.utils.io import safe_load
from mmext.utils.user_error import ConfigError, UserError
from . import processes
from .bicross_runs import write_stages
from .tool_fixtures import run_tool, tool, tool_environment
from .toy_runs import quick_runner

STEM = 'backbone.vit.patch_embed.backbone.stem.conv.weight'


def drive(*arguments):
    """tools/train_bicross.py in this process."""
    with quick_runner():
        tool('train_bicross').main([str(one) for one in arguments])


@pytest.fixture(scope='module')
def stages(tmp_path_factory):
    """All three stages, two iterations each, four of the last."""
    folder = tmp_path_factory.mktemp('bicross')
    whole = write_stages(folder)
    drive(whole, '--work-dir', folder / 'work')
    return folder


def weights(path):
    return safe_load(path)['state_dict']


def handed_over(stages, stage):
    note = stages / 'work' / f'stage{stage}' / 'finished.json'
    return json.loads(note.read_text())['checkpoint']


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) for key, value in one.items())


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


def test_h38_resume_is_the_same_run(stages):
    """H38: interrupted in stage 3, then all stages again with --resume."""
    whole, again = stages / 'bicross.py', stages / 'again'
    shutil.copytree(stages / 'work', again)
    for n in (1, 2, 3):  # the folder was moved
        note = again / f'stage{n}' / 'finished.json'
        text = note.read_text().replace(str(stages / 'work'), str(again))
        note.write_text(text)
    note.unlink()
    stage = again / 'stage3'
    (stage / 'iter_4.pth').unlink()
    (stage / 'last_checkpoint').write_text(str(stage / 'iter_2.pth'))
    old = (again / 'stage2' / 'iter_2.pth').stat().st_mtime_ns
    drive(whole, '--work-dir', again, '--resume')
    assert (again / 'stage2' / 'iter_2.pth').stat().st_mtime_ns == old
    first, second = (
        safe_load(folder / 'stage3' / 'iter_4.pth')
        for folder in (stages / 'work', again))
    assert same(first['state_dict'], second['state_dict'])
    assert same(first['teacher_state_dict'], second['teacher_state_dict'])
    assert not same(first['state_dict'], first['teacher_state_dict'])


@pytest.mark.parametrize('stage', [1, 2, 3])
def test_h38_resume_in_the_middle_of_an_epoch(stages, tmp_path, stage):
    """H38: every stage, at iteration 3 of 4, and on into the next epoch."""
    data = 'train_dataloader.dataset'
    frames = [f'{data}.frames=8'] if stage < 3 else [
        f'{data}.{one}.frames=8' for one in ('source', 'target')
    ]
    start = [] if stage == 1 else [
        '--checkpoint', handed_over(stages, stage - 1)
    ]
    # draws of the pipeline, too, go on where they were
    text = (stages / f'stage{stage}.py').read_text()
    pack = "dict(type='mmext.PackDepthInputs'"
    assert text.count(pack) == 1
    config = tmp_path / 'flips.py'
    config.write_text(
        text.replace(pack, f"dict(type='mmext.RandomDepthFlip'), {pack}"))
    command = [
        f'--stage{stage}', config, *start, '--no-validate', '--cfg-options',
        *frames, 'train_cfg.max_iters=6',
        'default_hooks.checkpoint.interval=1', '--work-dir'
    ]
    drive(*command, tmp_path / 'whole')
    again = tmp_path / 'again' / f'stage{stage}'
    again.mkdir(parents=True)
    whole = tmp_path / 'whole' / again.name
    shutil.copyfile(whole / 'iter_3.pth', again / 'iter_3.pth')
    (again / 'last_checkpoint').write_text(str(again / 'iter_3.pth'))
    drive(*command, tmp_path / 'again', '--resume')
    names = {path.name for path in again.glob('iter_*.pth')}
    assert names == {f'iter_{i}.pth' for i in (3, 4, 5, 6)}
    for name in ('iter_4.pth', 'iter_6.pth'):
        one, other = (safe_load(path / name) for path in (whole, again))
        keys = ['state_dict'] + ['teacher_state_dict'] * (stage == 3)
        for key in keys:
            assert same(one[key], other[key]), (name, key)
        moments = [each['optimizer']['state'] for each in (one, other)]
        assert moments[0].keys() == moments[1].keys() and moments[0]
        for key, value in moments[0].items():
            assert same(value, moments[1][key]), (name, key)
    first = safe_load(whole / 'iter_3.pth')['state_dict']
    assert not same(first, one['state_dict'])
    if stage == 2:  # its teacher is the file, not what was resumed
        assert not {key for key in one if 'teacher' in key}


def test_stages_after_a_new_one_start_anew(stages, monkeypatch):
    """Though their notes name a file of the same path."""
    module, ran = tool('train_bicross'), []

    def run_stage(cfg, stage, args):
        ran.append((stage, args.resume))
        return module.written(cfg.work_dir, args.pick)

    monkeypatch.setattr(module, 'run_stage', run_stage)
    for first in (4, 3, 2, 1):
        ran.clear()
        note = stages / 'work' / f'stage{first}' / 'finished.json'
        text = note.read_text() if first < 4 else ''
        note.unlink(missing_ok=True)
        module.main([
            str(stages / 'bicross.py'), '--work-dir',
            str(stages / 'work'), '--resume'
        ])
        assert ran == [(f'stage{n}', n == first) for n in range(first, 4)]
        if text:
            note.write_text(text)


def test_what_an_older_run_left_is_not_gone_on_from(stages, tmp_path,
                                                    monkeypatch):
    """A new run in its folder was interrupted before its first checkpoint."""
    module, begun = tool('train_bicross'), []

    def interrupted(cfg):
        begun.append((bool(cfg.get('resume')), cfg.load_from))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, 'build_runner', interrupted)
    work, start = tmp_path / 'work', handed_over(stages, 2)
    shutil.copytree(stages / 'work' / 'stage3', work / 'stage3')
    command = [
        '--stage3',
        str(stages / 'stage3.py'), '--checkpoint', start, '--work-dir',
        str(work)
    ]
    for options in ([], ['--resume']):
        with pytest.raises(KeyboardInterrupt):
            module.main(command + options)
    assert begun == [(False, start)] * 2
    last = work / 'stage3' / 'iter_2.pth'
    (last.parent / 'last_checkpoint').write_text(str(last))
    (last.parent / 'iter_4.pth').unlink()
    with pytest.raises(KeyboardInterrupt):
        module.main(command + ['--resume'])
    assert begun[-1] == (True, str(last))


@HOOKS.register_module(force=True)
class _Record(Hook):
    """States of student and teacher after each iteration."""
    priority = 'VERY_LOW'
    seen: list = []

    def before_train(self, runner):
        self._keep(runner)

    def after_train_iter(self, runner, **kwargs):
        self._keep(runner)

    def _keep(self, runner):
        mean = next(
            (h for h in runner.hooks if isinstance(h, MeanTeacherHook)), None)
        copies = [runner.model.state_dict(), runner.model.teacher.state_dict()]
        if mean is not None:
            copies[1] = mean.teacher.module.state_dict()
        self.seen.append([{
            k: v.clone()
            for k, v in one.items()
        } for one in copies])


@HOOKS.register_module(force=True)
class _Nothing(Hook):

    def __init__(self, **kwargs):
        pass


def run(config, work, **options):
    """Train one stage; what was recorded."""
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.experiment_name = str(work), work.name
    cfg.visualizer.name = work.name
    cfg.custom_hooks.append(dict(type='_Record', _scope_='mmext'))
    cfg.merge_from_dict(options)
    _Record.seen = []
    with quick_runner():
        runner = Runner.from_cfg(cfg)
        runner.train()
    return runner, _Record.seen


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


NO_VAL = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)


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


def test_rgb_network_is_not_tested_as_one_for_spikes(stages, tmp_path):
    """Issue section 7: only training starts a stem anew."""
    cfg = Config.fromfile(stages / 'stage2.py')
    other = Config.fromfile(stages / 'stage3.py')
    cfg.merge_from_dict(
        dict(
            test_dataloader=other.val_dataloader,
            test_evaluator=other.val_evaluator,
            test_cfg=dict(type='TestLoop'),
            work_dir=str(tmp_path),
            experiment_name='rgb',
            load_from=handed_over(stages, 1)))
    with pytest.raises(ConfigError, match=r'RGB \(3 channels\).*spikes'):
        with quick_runner():
            Runner.from_cfg(cfg).test()
    cfg.load_from = handed_over(stages, 2)
    cfg.experiment_name = 'spike'
    with quick_runner():
        assert Runner.from_cfg(cfg).test()['num_images'] == 2


def test_a_plain_spike_network_is_tested_whole(tmp_path):
    """Issue section 7: not with an RGB network, nor with half of one."""
    write_stages(tmp_path)
    text = (tmp_path / 'stage1.py').read_text()
    for old, new in (('model = estimator(3)', 'model = estimator(ticks)'),
                     ("street('rgb'", "street('spike'"), ('val_', 'test_'),
                     ('test_interval', 'val_interval'), ('ValLoop',
                                                         'TestLoop')):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / 'plain.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'plain.py')
    init_default_scope('mmseg')
    good = MODELS.build(cfg.model).state_dict()
    head = 'decode_head.output.0.weight'
    for given, message in ((good, None), ({
            **good, 'domain_loss.weight':
            torch.zeros(1)
    }, None), ({
            **good, STEM: good[STEM][:, :3]
    }, r'another shape:\n.*stem'), ({
            key: value
            for key, value in good.items() if key != head
    }, '1 missing')):
        torch.save(dict(state_dict=given), tmp_path / 'it.pth')
        command = [str(tmp_path / name) for name in ('plain.py', 'it.pth')
                   ] + ['--work-dir', str(tmp_path / 'work')]
        with quick_runner():
            if message is None:
                tool('test').main(command)
                continue
            with pytest.raises(UserError, match=message):
                tool('test').main(command)


@pytest.mark.parametrize('stage,options,message', [
    (2, {}, 'no checkpoint of it'),
    (2, {
        'model.teacher_ckpt': 'none.pth'
    }, 'none.pth'),
    (2, {
        'model.teacher_ckpt': 3
    }, r'spikes \(16 channels\).*RGB'),
    (2, {
        'load_from': 'other'
    }, 'does not hold a BiCrossDepthEstimator'),
    (3, {
        'load_from': 1
    }, r'RGB \(3 channels\).*spikes'),
    (3, {
        'custom_hooks.0.type': 'mmext._Nothing'
    }, 'MeanTeacherHook'),
])
def test_wrong_checkpoints_stop_with_a_message(stages, tmp_path, stage,
                                               options, message):
    """Issue section 7: stage 2 from a missing or wrong checkpoint."""
    options = dict(options)
    for key, value in options.items():
        if isinstance(value, int):
            options[key] = handed_over(stages, value)
        elif value == 'other':
            options[key] = str(tmp_path / 'other.pth')
            torch.save(dict(state_dict=dict(fc=torch.zeros(2))), options[key])
    with pytest.raises(UserError, match=message):
        run(stages / f'stage{stage}.py', tmp_path / 'bad', **options)


@pytest.mark.parametrize('arguments,message', [
    ((), 'names the stages'),
    (('--stage1', 'stage1.py', '--stage3', 'stage3.py'), 'give --stage2'),
    (('stage1.py', ), 'names no stages'),
    (('--stage2', 'stage2.py'), 'stage2 needs a checkpoint.*RGB network'),
    (('--stage3', 'stage3.py', '--checkpoint', 'x.pth'), 'x.pth, which does'),
])
def test_the_tool_says_what_is_wrong(stages, monkeypatch, arguments, message):
    monkeypatch.chdir(stages)
    with pytest.raises(UserError, match=message):
        drive(*arguments, '--work-dir', 'nowhere')
    assert not (stages / 'nowhere').exists()


def test_options_go_to_their_stage():
    split = tool('train_bicross').split_options
    given = {'a.b': 1, 'stage2.a.b': 2, 'stage2.c': 3}
    assert split(given, 'stage1') == {'a.b': 1}
    assert split(given, 'stage2') == {'a.b': 2, 'c': 3}
    with pytest.raises(UserError, match='give --work-dir'):
        split({'work_dir': 'x'}, 'stage1')


def test_what_is_handed_over(tmp_path):
    written = tool('train_bicross').written
    with pytest.raises(UserError, match='no checkpoint to hand over'):
        written(str(tmp_path), 'last')
    with pytest.raises(UserError, match='save_best'):
        written(str(tmp_path), 'best')
    names = ['iter_2.pth', 'best_d1_iter_2.pth', 'best_val_sig_iter_2.pth']
    for age, name in enumerate(reversed(names)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    (tmp_path / 'last_checkpoint').write_text('/moved/away/iter_2.pth')
    assert written(str(tmp_path), 'last').endswith('/iter_2.pth')
    best = [f'/moved/away/{name}' for name in names[1:]]
    # the newest of those that the run has written
    assert written(str(tmp_path), 'best', best).endswith(names[2])
    assert written(str(tmp_path), 'best', best[:1]).endswith(names[1])
    with pytest.raises(UserError, match='save_best'):
        written(str(tmp_path), 'best')


def test_the_best_is_of_this_run(stages, tmp_path):
    """Though the folder holds that of an older one, resumed or not."""
    stage, command = tmp_path / 'stage1', [
        '--stage1', stages / 'stage1.py', '--work-dir', tmp_path, '--pick',
        'best', '--cfg-options', 'default_hooks.checkpoint.rule=less'
    ]
    save_best = 'default_hooks.checkpoint.save_best=abs_rel'
    stage.mkdir()
    old = stage / 'best_abs_rel_iter_9.pth'
    shutil.copyfile(handed_over(stages, 1), old)
    os.utime(old, (4e9, 4e9))

    def handed():
        note = json.loads((stage / 'finished.json').read_text())
        return note['checkpoint']

    drive(*command, save_best)
    mine = stage / 'best_abs_rel_iter_2.pth'
    assert handed() == str(mine)
    # gone on with, and nothing better is found
    (stage / 'finished.json').unlink()
    drive(*command, save_best, '--resume')
    assert handed() == str(mine)
    with pytest.raises(UserError, match='written no best'):
        drive(*command)
    assert old.is_file() and mine.is_file()


def test_the_hook_is_for_the_wrappers():

    class Model:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(ConfigError, match='CrossDomainAdapter'):
        DistillHook().before_train(Model())


def test_h39_two_processes_average_their_gradients():
    """H39: stages 2 and 3, as one process that averages.

    L_sig and the contrastive loss pool the batch of their own process only.
    """
    processes.run(sys.executable, '-m', 'tests.ddp_stages',
                  processes.free_port())


def test_two_processes(stages, tmp_path):
    """Stage 3 with ``tools/dist_train.sh`` on CPUs: one model, one result."""
    if torch.cuda.is_available():
        pytest.skip('checks the machines without a GPU')
    start = handed_over(stages, 2)
    run_tool(
        'tools/dist_train.sh',
        stages / 'stage3.py',
        '2',
        '--work-dir',
        'two',
        '--cfg-options',
        f'load_from={start}',
        cwd=tmp_path)
    saved = safe_load(tmp_path / 'two' / 'iter_4.pth')
    student, teacher = saved['state_dict'], saved['teacher_state_dict']
    for state in (student, teacher):
        assert all(value.isfinite().all() for value in state.values())
        assert not same(state, weights(start))
    assert {key for key in student if key.startswith('domain_loss')}
    lines = next((tmp_path / 'two').glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for line in lines.read_text().splitlines()]
    scores = [one for one in lines if any('abs_rel' in key for key in one)]
    assert len(scores) == 1
    counts = [v for k, v in scores[0].items() if k.endswith('num_images')]
    assert counts and set(counts) == {2}


def test_all_stages_in_two_processes(stages, tmp_path):
    """The command of the method's page: one note, one checkpoint a stage."""
    if torch.cuda.is_available():
        pytest.skip('checks the machines without a GPU')
    text = processes.run_distributed(
        processes.ROOT / 'tools' / 'train_bicross.py',
        stages / 'bicross.py',
        '--launcher',
        'pytorch',
        '--no-validate',
        '--work-dir',
        'two',
        cwd=tmp_path,
        **tool_environment(tmp_path))
    work, before = tmp_path / 'two', None
    for n, last in ((1, 2), (2, 2), (3, 4)):
        folder = work / f'stage{n}'
        note = json.loads((folder / 'finished.json').read_text())
        assert note['started_from'] == before
        before = note['checkpoint']
        assert os.path.samefile(tmp_path / before, folder / f'iter_{last}.pth')
        assert text.count(f'stage{n} wrote') == 1
        # both have seen their half of the samples
        alone = weights(stages / 'work' / f'stage{n}' / f'iter_{last}.pth')
        both = weights(tmp_path / before)
        assert both.keys() == alone.keys() and not same(both, alone)
        assert all(value.isfinite().all() for value in both.values())
    assert len(list(work.glob('stage3/*/vis_data/scalars.json'))) == 1
