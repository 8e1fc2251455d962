# Copyright (c) mmext contributors. All rights reserved.
"""Checkpoints, options and commands that stop with a message."""
import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmext.engine.hooks import DistillHook
from mmext.registry import HOOKS
from mmext.utils.user_error import ConfigError, UserError
from ..bicross_runs import write_stages
from ..tool_fixtures import tool
from ..toy_runs import quick_runner
from .stage_runs import STEM, drive, handed_over, run


@HOOKS.register_module(force=True)
class _Nothing(Hook):

    def __init__(self, **kwargs):
        pass


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


def test_the_hook_is_for_the_wrappers():

    class Model:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(ConfigError, match='CrossDomainAdapter'):
        DistillHook().before_train(Model())
