# Copyright (c) mmext contributors. All rights reserved.
"""What is found missing before a run, and where it is looked for."""
import errno
import os
from argparse import ArgumentParser

import pytest
import torch
from mmengine.config import Config

from mmext.utils import config_paths
from mmext.utils.config_build import drop_pretrained
from mmext.utils.config_io import (CfgOptions, load_config, merge_options,
                                   package_root)
from mmext.utils.config_paths import (checkpoints, dataset_leaves,
                                      find_checkpoint, missing_data)
from mmext.utils.config_types import config_scope
from mmext.utils.dependency import missing_message
from mmext.utils.launch import finish_config, set_pipeline
from mmext.utils.preflight import (check_checkpoint, check_data, check_host,
                                   check_outputs, check_types,
                                   missing_pretrained)
from mmext.utils.user_error import UserError, run_tool
from ..tool_fixtures import tool


def test_leaves_are_found_through_every_wrapper():
    leaf = dict(type='A', data_root='a')
    nested = dict(
        type='mmext.DomainSequence',
        domains=dict(
            fog=leaf,
            night=dict(
                type='RepeatDataset',
                dataset=dict(type='ConcatDataset', datasets=[leaf, leaf]))))
    assert [path for path, _ in dataset_leaves(nested, 'd')] == [
        'd.domains.fog', 'd.domains.night.dataset.datasets[0]',
        'd.domains.night.dataset.datasets[1]'
    ]
    pair = dict(type='mmext.SourceTargetDataset', source=leaf, target=leaf)
    assert [path for path, _ in dataset_leaves(pair, 'd')
            ] == ['d.source', 'd.target']
    assert set_pipeline(nested, ['x']) == 0  # there is none to replace
    leaf['pipeline'] = ['old']
    assert set_pipeline(nested, ['new']) == 3
    assert leaf['pipeline'] == ['new']


def test_missing_data_names_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    leaf = dict(
        type='X',
        data_root='d',
        data_prefix=dict(img='i', seg='s'),
        ann_file='list.txt')
    os.makedirs('d/i')
    os.makedirs('d/s')
    (tmp_path / 'd' / 's' / '0.png').touch()
    # one folder is empty, one file is missing
    assert missing_data(None, leaf) == [
        str(tmp_path / 'd' / 'i'),
        str(tmp_path / 'd' / 'list.txt')
    ]
    assert missing_data(None, dict(leaf, download=True)) == []
    remote = dict(leaf, backend_args=dict(backend='petrel'))
    assert missing_data(None, remote) == []


@pytest.mark.stack_subset
def test_every_missing_data_set_is_told_with_its_help(tmp_path):
    pytest.importorskip('mmseg')
    domains = {
        'fog':
        dict(
            type='mmext.ACDCDataset',
            data_root=str(tmp_path / 'acdc'),
            data_prefix=dict(img_path='rgb_anon/fog/train'),
            pipeline=[])
    }
    loader = dict(dataset=dict(type='mmext.DomainSequence', domains=domains))
    cfg = Config(dict(default_scope='mmseg', train_dataloader=loader))
    with pytest.raises(UserError) as caught:
        check_data(cfg, ['train_dataloader', 'val_dataloader'])
    text = str(caught.value)
    assert str(tmp_path / 'acdc' / 'rgb_anon' / 'fog' / 'train') in text
    for part in ('Expected layout', 'How to get it', 'acdc.vision',
                 'configs/svdp/streetworld.py'):
        assert part in text
    check_data(cfg, ['val_dataloader'])  # not used, not missed


def test_checkpoints_are_found_beside_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint('https://host/a.pth') == 'https://host/a.pth'
    assert find_checkpoint('a.pth') is None
    (tmp_path / 'a.pth').touch()
    assert find_checkpoint('a.pth') == str(tmp_path / 'a.pth')
    # shipped files: by path from any working directory, and by name
    package = tmp_path / 'site' / 'mmext'
    weights = package / 'datasets' / 'town' / 'weights'
    weights.mkdir(parents=True)
    (weights / 'net.safetensors').touch()
    monkeypatch.setattr(config_paths, '_PACKAGE', package)
    relative = 'mmext/datasets/town/weights/net.safetensors'
    assert find_checkpoint(relative) == str(weights / 'net.safetensors')
    assert find_checkpoint('mmext://town/net') == 'mmext://town/net'
    assert find_checkpoint('mmext://town/other') is None


def test_checkpoint_help_of_the_config_is_used_for_its_own_file():
    cfg = Config(
        dict(load_from='no/source.pth', load_from_help='make source.pth so'))
    with pytest.raises(UserError, match='make source.pth so'):
        check_checkpoint(cfg)
    cfg.load_from = 'no/other.pth'  # the help is inherited, but not for this
    with pytest.raises(UserError) as caught:
        check_checkpoint(cfg)
    assert 'make source.pth so' not in str(caught.value)
    assert os.path.abspath('no/other.pth') in str(caught.value)


@pytest.mark.parametrize('scope', ['mmseg', 'mmpretrain'])
def test_embedded_streets_stand_in_for_segmentors_only(scope):
    cfg = Config(dict(default_scope=scope))
    with pytest.raises(UserError, match='How to get it') as caught:
        check_checkpoint(cfg, 'no/such.pth')
    assert ('streetworld' in str(caught.value)) == (scope == 'mmseg')


@pytest.mark.parametrize('kind,advice', [
    ('mmext.CrossDomainAdapter', 'train stage 2 first; tools/train_bicross'),
    ('mmdepth.CrossModalityDistiller', 'train stage 1 first; tools/train_bi'),
    ('mmext.BiCrossDepthEstimator', 'train or download the source model'),
])
def test_what_depth_starts_from(kind, advice):
    """The stage before, and no streets with labels of classes."""
    cfg = Config(
        dict(
            default_scope='mmseg',
            model=dict(type=kind),
            load_from='no/epoch_10.pth'))
    with pytest.raises(UserError, match=advice) as caught:
        check_checkpoint(cfg)
    assert 'embedded' not in str(caught.value)
    with pytest.raises(UserError, match='right path on the command line'):
        check_checkpoint(cfg, 'no/such.pth')


def test_checkpoints_of_a_config_are_listed():
    cfg = dict(
        load_from='a.pth',
        model=dict(
            backbone=dict(
                init_cfg=[dict(type='Pretrained', checkpoint='b.pth')])),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook')))
    assert list(checkpoints(cfg)) == [('load_from', 'a.pth'),
                                      ('model.backbone.init_cfg[0].checkpoint',
                                       'b.pth')]


def test_checkpoints_named_by_class_or_pretrained():
    from mmengine.model import PretrainedInit
    cfg = dict(
        model=dict(
            pretrained='a.pth',
            backbone=dict(
                pretrained='no/b.pth',
                init_cfg=dict(type=PretrainedInit, checkpoint='c.pth')),
            neck=dict(
                init_cfg=dict(
                    type='mmengine.model.PretrainedInit', checkpoint='d')),
            text=dict(type='HuggingFace', pretrained='openai/clip-base'),
            timm=dict(pretrained=True)),
        visualizer=dict(pretrained='e.pth'))
    assert list(checkpoints(cfg)) == [
        ('model.pretrained', 'a.pth'),
        ('model.backbone.pretrained', 'no/b.pth'),
        ('model.backbone.init_cfg.checkpoint', 'c.pth'),
        ('model.neck.init_cfg.checkpoint', 'd')
    ]
    cfg = Config(
        dict(
            model=dict(
                pretrained='open-mmlab://resnet50_v1c',
                backbone=dict(
                    pretrained='nowhere/b.pth',
                    init_cfg=dict(
                        type='Pretrained',
                        checkpoint='torchvision://resnet50')))))
    found = missing_pretrained(cfg)
    assert len(found) == 1 and 'nowhere/b.pth' in found[0]
    assert found[0].endswith('model.backbone.pretrained=None')


def test_a_shipped_config_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load_config('configs/_base_/mmseg_runtime.py')
    assert cfg.default_scope == 'mmseg'
    assert cfg.filename.startswith(str(package_root()))
    with pytest.raises(UserError, match='mmseg_runtime.py'):  # the nearest
        load_config('configs/_base_/mmseg_runtme.py')


def test_options_that_fit_and_do_not_fit():
    cfg = Config(dict(a=dict(b=[dict(c=1)]), default_hooks=dict()))
    assert merge_options(cfg, {
        'a.b.0.c': 5,
        'defalt_hooks.x': 1
    }) == ['defalt_hooks.x']
    assert cfg.a.b[0].c == 5
    with pytest.raises(UserError, match='does not fit'):
        merge_options(cfg, {'a.b.7.c': 5})
    # mmengine would make a dict with the key '0'
    for key in ('custom_hooks.0.lr', 'a.0', 'a.b.0.d.1'):
        with pytest.raises(UserError, match=f'{key}: .* is no list'):
            merge_options(cfg, {key: 5})
    assert set(cfg) == {'a', 'default_hooks', 'defalt_hooks'}


def test_finish_config_mends_what_torch_and_mmengine_refuse():
    from argparse import Namespace
    cfg = Config(
        dict(
            model=dict(norm_cfg=dict(type='SyncBN')),
            default_hooks=dict(rng_state=None, timer=None),
            test_evaluator=dict(type='X'),
            train_dataloader=dict(
                num_workers=0, persistent_workers=True, prefetch_factor=2)))
    finish_config(cfg, Namespace(cfg_options=None, launcher='none'))
    assert cfg.train_dataloader.to_dict() == dict(
        num_workers=0, persistent_workers=False)
    assert cfg.default_hooks.to_dict() == dict(timer=None)
    assert cfg.test_cfg.type == 'TestLoop'
    assert cfg.model.norm_cfg.type == 'SyncBN'  # mmengine reverts it itself


def test_run_tool_prints_once_and_sets_the_exit_code(capsys, monkeypatch):

    def fail():
        raise UserError('say so')

    for rank, message in (('0', 'Error: say so\n'), ('1', '')):
        monkeypatch.setenv('RANK', rank)
        with pytest.raises(SystemExit) as caught:
            run_tool(fail)
        assert caught.value.code == 2
        assert capsys.readouterr().err == message
    with pytest.raises(SystemExit) as caught:
        run_tool(lambda: 1)
    assert caught.value.code == 1


def test_missing_pretrained_weights_are_named(tmp_path):
    present = tmp_path / 'there.pth'
    present.write_bytes(b'')
    model = dict(
        backbone=dict(
            type='A',
            init_cfg=dict(type='Pretrained', checkpoint='nowhere/a.pth')),
        head=dict(
            type='B',
            init_cfg=dict(type='Pretrained', checkpoint=str(present))))
    message, = missing_pretrained(Config(dict(model=model)))
    assert 'nowhere/a.pth' in message
    assert 'model.backbone.init_cfg=None' in message
    assert 'see the comments of the config' in message
    # the config's own words, where they are of this file
    cfg = Config(dict(model=model, weights_help='make nowhere/a.pth so\n'))
    message, = missing_pretrained(cfg)
    assert '\n    make nowhere/a.pth so\n    or train from' in message
    assert 'comments' not in message
    cfg.model.backbone.init_cfg.checkpoint = 'nowhere/b.pth'
    message, = missing_pretrained(cfg)
    assert 'nowhere/a.pth' not in message and 'comments' in message


def test_weights_beside_the_package_are_what_the_model_loads(
        tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config_paths, '_PACKAGE', tmp_path / 'site' / 'mmext')
    (tmp_path / 'site').mkdir()
    (tmp_path / 'site' / 'a.pth').touch()
    init = dict(type='Pretrained', checkpoint='a.pth')
    model = dict(backbone=dict(init_cfg=[init]), pretrained='a.pth')
    cfg = Config(dict(model=model))
    assert missing_pretrained(cfg) == []
    found = str(tmp_path / 'site' / 'a.pth')
    assert cfg.model.backbone.init_cfg[0].checkpoint == found
    assert cfg.model.pretrained == found
    drop_pretrained(cfg.model)
    assert cfg.model.pretrained is None and not cfg.model.backbone.init_cfg


def test_a_missing_teacher_is_named_unless_the_hook_has_one():
    cfg = Config(dict(model=dict(teacher_ckpt='nowhere/t.pth')))
    message, = missing_pretrained(cfg)
    assert 'model.teacher_ckpt' in message and 'train stage 1' in message
    cfg.custom_hooks = [dict(type='mmext.DistillHook', teacher_ckpt='t.pth')]
    assert missing_pretrained(cfg) == []
    members = [dict(checkpoint='m.pth')]
    assert list(checkpoints(dict(model=dict(members=members)))) == [
        ('model.members[0].checkpoint', 'm.pth')]


def test_prefixes_of_a_data_set_of_the_user(tmp_path):
    """Only its class knows what they are joined with."""

    class Frames(torch.utils.data.Dataset):

        def __init__(self, data_root, ann_file):
            pass

    leaf = dict(
        type=Frames, data_root=str(tmp_path), ann_file='lists/train.txt')
    (tmp_path / 'a.png').touch()
    assert missing_data(None, leaf) == []
    assert missing_data(None, dict(leaf, data_root='gone'))


@pytest.mark.parametrize('values, key, expected', [
    (['work_dir=/data/my runs'], 'work_dir', '/data/my runs'),
    (["work_dir='/data/my runs'"], 'work_dir', '/data/my runs'),
    (['size=[4, 5]'], 'size', [4, 5]),
    (['lr = 0.1'], 'lr ', 0.1),
])
def test_texts_keep_their_spaces(values, key, expected):
    parser = ArgumentParser()
    parser.add_argument('--o', nargs='+', action=CfgOptions)
    assert parser.parse_args(['--o', *values]).o[key] == expected
    with pytest.raises(SystemExit):
        parser.parse_args(['--o', 'a=[1,2'])


def run_config(**changes):
    cfg = Config(
        dict(
            model=dict(type='ToyModel'),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            train_dataloader=dict(
                batch_size=2,
                dataset=dict(type='ToyData'),
                sampler=dict(type='DefaultSampler', shuffle=True)),
            optim_wrapper=dict(
                type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
            param_scheduler=[dict(type='LinearLR', end=3)],
            test_dataloader=dict(dataset=dict(type='ToyData')),
            test_cfg=dict(),
            default_hooks=dict(logger=dict(type='LoggerHook', interval=5))))
    merge_options(cfg, changes)
    return cfg


@pytest.mark.parametrize('key, value, message', [
    ('train_dataloader.batch_sise', 4, "did you mean 'batch_size'"),
    ('train_dataloader.batch_size', 'four', 'train_dataloader'),
    ('train_dataloader.sampler.shufle', True, 'shufle'),
    ('optim_wrapper.optimizer.lrr', 1, "SGD has no argument 'lrr'"),
    ('optim_wrapper.acumulative_counts', 1, "'accumulative_counts'"),
    ('train_cfg.max_epoch', 1, "did you mean 'max_epochs'"),
    ('train_cfg.max_epochs', 'three', "got the text 'three'"),
    ('param_scheduler.0.strt_factor', 1, "'start_factor'"),
    ('default_hooks.logger.intervall', 1, "did you mean 'interval'"),
    ('optim_wrapper.type', 'OptimWraper', 'optim_wrapper'),
])
def test_typos_in_parts_of_hosts_are_told(key, value, message):
    with config_scope({}):
        check_types(run_config(), 'train')
        with pytest.raises(UserError, match=f'(?i){message}') as caught:
            check_types(run_config(**{key: value}), 'train')
        assert key.split('.')[0] in str(caught.value)
        if 'hooks' not in key:  # a test does not build it
            check_types(run_config(**{key: value}), 'test')


@pytest.mark.parametrize('number, told', [(errno.EACCES, True),
                                          (errno.ENOSPC, True),
                                          (errno.ENOENT, False)])
def test_places_that_cannot_be_written_end_in_a_message(
        number, told, capsys):

    def fail():
        raise OSError(number, os.strerror(number), '/there/x.npy')

    with pytest.raises(SystemExit if told else OSError) as caught:
        run_tool(fail)
    if told:
        assert caught.value.code == 2
        assert f'/there/x.npy: {os.strerror(number)}' in capsys.readouterr(
        ).err


def test_places_to_write_to_are_tried_before_a_run(tmp_path):
    file = tmp_path / 'lip.py'
    file.write_text('kept')
    new = tmp_path / 'new'
    check_outputs({
        'work_dir': str(new / 'a'),
        '--out': None
    }, {
        '--out': str(new / 'b' / 'x.json'),
        '--dump': str(file)
    })
    assert sorted(os.listdir(new)) == ['a', 'b']
    assert os.listdir(new / 'b') == [] and file.read_text() == 'kept'
    check_outputs({'--out': str(new)}, {'--out': None})
    for folders, files in (({'work_dir': f'{file}/x'}, {}),
                           ({'work_dir': str(file)}, {}),
                           ({}, {'--out': f'{file}/x.json'}),
                           ({}, {'--out': str(new)})):
        with pytest.raises(UserError, match='cannot be written'):
            check_outputs(folders, files)


def test_only_known_packages_are_offered_for_installation():
    with pytest.raises(UserError, match="Did you mean 'mmpretrain'") as caught:
        check_host(Config(dict(default_scope='mmpretain')))
    assert 'pip install' not in str(caught.value)
    text = missing_message('some_lab', 'X')
    assert 'pip install' not in text and 'Check the name' in text
    assert "pip install 'mmext[onedl]'" in missing_message('mmseg', 'X')
    assert 'pip install opencv-python.' in missing_message('cv2', 'X')


@pytest.mark.parametrize('path', [
    'model_converters/export_adapter', 'model_converters/merge_adapter',
    'deployment/export_lip_onnx', 'analysis_tools/peft_report'
])
def test_misspelt_options_of_tools_are_refused(path, tmp_path):
    config = tmp_path / 'a.py'
    config.write_text("model = dict(type='X')")
    given = [] if 'report' in path else ['none', str(tmp_path / 'out')]
    with pytest.raises(UserError, match="no key 'modl'; did you mean 'model"):
        tool(path).main([str(config), *given, '--cfg-options', 'modl.x=1'])
