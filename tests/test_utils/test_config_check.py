# Copyright (c) mmext contributors. All rights reserved.
"""Findings of the config check, one mistake at a time."""
import copy
from typing import Optional

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import PretrainedInit
from mmengine.registry import DATASETS, HOOKS, MODELS
from torch import nn

from mmext.utils.config_check import check_config
from mmext.utils.config_io import load_config, package_root
from mmext.utils.config_signature import accepted_arguments
from mmext.utils.config_types import typed_dicts

pytest.importorskip('mmseg')

SOUND = dict(
    default_scope='mmseg',
    model=dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor'),
        backbone=dict(
            type='MixVisionTransformer',
            embed_dims=8,
            num_stages=1,
            num_layers=[1],
            num_heads=[1],
            patch_sizes=[7],
            strides=[4],
            sr_ratios=[1],
            out_indices=(0, )),
        decode_head=dict(
            type='FCNHead',
            in_channels=8,
            in_index=0,
            channels=4,
            num_convs=1,
            num_classes=19,
            norm_cfg=dict(type='BN'),
            sampler=dict(type='OHEMPixelSampler', thresh=0.7),
            loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0)),
        test_cfg=dict(mode='whole')),
    train_dataloader=dict(
        batch_size=1,
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=dict(
            type='RepeatDataset',
            times=2,
            dataset=dict(
                type='CityscapesDataset',
                data_root='nowhere',
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='PackSegInputs')
                ]))),
    train_cfg=dict(by_epoch=False, max_iters=2),
    optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
    param_scheduler=dict(type='PolyLR', power=0.9, by_epoch=False),
    default_hooks=dict(visualization=dict(type='SegVisualizationHook')),
    custom_hooks=[dict(type='EMAHook', momentum=0.1)])


def findings(**changes):
    cfg = copy.deepcopy(SOUND)
    for path, value in changes.items():
        node = cfg
        *way, last = path.split('__')
        for key in way:
            node = node[int(key) if isinstance(node, list) else key]
        node[last] = value
    from mmengine.config import Config
    return check_config(Config(cfg), allow_missing_paths=True)


def errors(**changes):
    return [str(f) for f in findings(**changes) if f.level == 'error']


def test_a_sound_config_has_only_its_missing_path():
    found = findings()
    assert [f.level for f in found] == ['warning'], found
    assert 'nowhere' in found[0].message


PIPELINE = 'train_dataloader__dataset__dataset__pipeline'


@pytest.mark.parametrize('changes, parts', [
    (dict(model__backbone__typ='x'), ['MixVisionTransformer', "'typ'"]),
    (dict(model__decode_head__loss_decode__type='CrossEntropyLos'),
     ['model.decode_head.loss_decode', 'not a registered']),
    (dict(model__decode_head__sampler__type='IoUMetric'), ['does not build']),
    (dict(custom_hooks=[dict(type='Resize', scale=(1, 1))]),
     ['custom_hooks[0]', 'a transform, where a hook is expected']),
    ({
        PIPELINE: [dict(type='Resize', scales=(1, 1))]
    }, ["'scales'", "Did you mean 'scale'"]),
    ({
        PIPELINE: [dict(type='RandomFlip', prob=7)]
    }, ['does not build']),
    (dict(optim_wrapper__optimizer__lrr=1), ['SGD', "'lrr'"]),
    (dict(param_scheduler__powr=1), ['PolyLR', "'powr'"]),
    (dict(train_cfg=dict(max_iters=2)), ['train_cfg', 'by_epoch']),
    (dict(train_cfg=dict(type='mmext.NoSuchLoop')), ['NoSuchLoop']),
    (dict(optim_wrapper=None), ['optim_wrapper', 'together']),
    (dict(model__backbone__type='mmnothing.Net'),
     ["needs the package 'mmnothing'"]),
    (dict(model__decode_head__in_channels='many'), ['model: does not build']),
])
def test_one_mistake_is_one_line(changes, parts):
    lines = errors(**changes)
    assert len(lines) == 1, lines
    for part in parts:
        assert part in lines[0]
    assert '\n' not in lines[0]


def test_keys_that_nobody_reads_are_warnings():
    found = [
        str(f) for f in findings(
            defalt_hooks=dict(a=1),
            train_pipeline=[dict(type='Resize', scale=(7, 7))],
            data_root='nowhere')
    ]
    assert any("'default_hooks'" in line for line in found)
    assert any('train_pipeline' in line and 'set again' in line
               for line in found)
    # a variable whose value is in use
    assert not any(line.startswith('warning: data_root') for line in found)
    assert not any(line.startswith('error') for line in found)


def test_scope_of_a_nested_dict_is_inherited():
    model = dict(type='A', _scope_='x', b=dict(type='B', c=[dict(type='C')]))
    items = list(typed_dicts(dict(model=model)))
    assert [(i.path, i.scope) for i in items] == [('model', 'x'),
                                                  ('model.b', 'x'),
                                                  ('model.b.c[0]', 'x')]


class Base:

    def __init__(self, a, b=1):
        pass


class Child(Base):

    def __init__(self, c=1, **kwargs):
        super().__init__(b=c, **kwargs)


class Reader(Base):

    def __init__(self, **kwargs):
        self.x = kwargs.pop('x', None)
        super().__init__(**kwargs)


class Elsewhere(Base):

    def __init__(self, **kwargs):
        self.options = kwargs


class Swallow(Base):

    def __init__(self, a=1, **kwargs):
        super().__init__(a)


def test_keywords_are_followed_up_the_classes():
    assert accepted_arguments(Child).names == {'a', 'c'}  # b is given
    assert accepted_arguments(Reader).names == {'x', 'a', 'b'}
    assert accepted_arguments(Elsewhere).names is None
    swallow = accepted_arguments(Swallow)
    assert swallow.names == {'a'} and swallow.swallowed
    assert accepted_arguments(Base).required == {'a'}
    assert accepted_arguments(lambda u, v=1: 0).names == {'u', 'v'}


# Configs with classes of the user -------------------------------------------


class Inner:
    METAINFO = dict(classes=('a', 'b', 'c'))

    def __init__(self, data_root, pipeline=()):
        self.data_root = data_root


@DATASETS.register_module(force=True)
class CheckedOuterDataset:

    def __init__(self, **kwargs):
        self.inner = Inner(**kwargs)


@MODELS.register_module(force=True)
class CheckedReadingBackbone(nn.Module):

    def __init__(self, limit):
        super().__init__()
        self.scale = nn.Parameter(torch.full((3, ), 2.))
        self.layer = nn.Linear(3, 8)
        if self.scale.max().item() > limit:
            raise ValueError(f'more than {limit}')


@HOOKS.register_module(force=True)
class CheckedScheduleHook(Hook):

    def __init__(self, schedule):
        if schedule['type'] not in ('linear', 'SGD'):
            raise ValueError('no such schedule')


def test_a_data_set_that_takes_any_keyword_is_not_given_lazy_init():
    loader = dict(
        train_dataloader__dataset=dict(
            type='CheckedOuterDataset', data_root='nowhere', pipeline=[]))
    assert not errors(**loader)


def test_a_model_that_reads_its_parameters_is_built_with_storage():
    backbone = dict(type='CheckedReadingBackbone', limit=3)
    assert not errors(model__backbone=backbone)
    lines = errors(model__backbone=dict(backbone, limit=1))
    assert len(lines) == 1 and 'more than 1' in lines[0]


def test_an_option_named_type_of_a_class_of_the_user():
    # neither no registered name nor the argument of an accidental one
    for kind in ('linear', 'SGD'):
        hook = dict(
            type='CheckedScheduleHook', schedule=dict(type=kind, start=0))
        found = findings(custom_hooks=[hook])
        assert {f.level for f in found} == {'warning'}, found
    hook['schedule'] = dict(type='mmext.NoSuch')
    assert 'NoSuch' in errors(custom_hooks=[hook])[0]
    hook['schedule'] = dict(type='curved')
    assert 'no such schedule' in errors(custom_hooks=[hook])[0]


@pytest.mark.parametrize('head', [dict(type='Evaluator'), dict()])
def test_evaluator_with_metrics(head):

    def lines(**evaluator):
        return errors(
            val_dataloader=SOUND['train_dataloader'],
            val_cfg=dict(),
            val_evaluator=evaluator)

    metric = dict(type='IoUMetric')
    assert not lines(**head, metrics=[metric])
    found = lines(**head, metrics=[dict(type='IoUMetri')])
    assert len(found) == 1 and 'val_evaluator.metrics[0]' in found[0], found
    broken = dict(type='DumpResults', out_file_path='x.txt')
    found = lines(**head, metrics=[broken])
    assert len(found) == 1 and 'val_evaluator: does not' in found[0], found
    found = lines(type='IoUMetric', metrics=[])
    assert len(found) == 1 and 'an evaluator is expected' in found[0], found


# Options that are handed on --------------------------------------------------

REPEATED = 'train_dataloader__dataset'


def test_what_the_tools_mend():
    """Without workers they drop what torch refuses there."""
    assert not errors(train_dataloader__persistent_workers=True,
                      train_dataloader__prefetch_factor=4)


@pytest.mark.parametrize('changes, part', [
    (dict(train_dataloader__num_worker=2), "Did you mean 'num_workers'"),
    (dict(train_dataloader__num_workers='two'), 'train_dataloader: '),
    (dict(train_dataloader__num_workers=2,
          train_dataloader__prefetch_factor='x'), 'train_dataloader: '),
    (dict(
        train_dataloader__sampler=dict(
            type='mmext.StreamSampler', shuffle=True)), 'shuffle'),
    (dict(train_dataloader__dataset__times='many'), "'many'"),
    ({
        REPEATED:
        dict(
            type='mmext.DomainSequence',
            rounds=0,
            domains=dict(a=SOUND['train_dataloader']['dataset']['dataset']))
    }, 'rounds'),
    (dict(param_scheduler=dict(type='PolyLR', power='x')), "'x'"),
    (dict(param_scheduler=dict(type='PolyLR', begin=10, end=5)),
     'param_scheduler: does not build'),
    (dict(param_scheduler=[dict(type='PolyLR', begin=9, by_epoch=False)]),
     'param_scheduler[0]: does not build'),
    (dict(train_cfg__max_iters='x'), "'max_iters'"),
    (dict(randomness=dict(seed=1, sed=3)), "Did you mean 'seed'"),
    (dict(randomness=dict(deterministic=True)), "needs 'seed'"),
    (dict(optim_wrapper__clip_grad=dict(max_normm=1)), 'max_normm'),
    (dict(optim_wrapper__clip_grad=dict(max_norm='x')), 'clip_grad'),
    (dict(custom_hooks=[dict(type='EMAHook', priority='SOMETIMES')]),
     "'SOMETIMES'"),
    (dict(
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', intervall=5))),
     "Did you mean 'interval'"),
    (dict(
        default_hooks=dict(
            checkpoint=dict(type='mmext.AtomicCheckpointHook', intervall=5))),
     "Did you mean 'interval'"),
])
def test_options_that_others_refuse(changes, part):
    lines = errors(**changes)
    assert len(lines) == 1 and part in lines[0], lines


def test_options_that_others_take():
    assert not errors(
        randomness=dict(seed=None, deterministic=True),
        optim_wrapper__clip_grad=dict(type='value', clip_value=1.),
        train_dataloader__num_workers=2,
        train_dataloader__persistent_workers=True,
        train_dataloader__num_batch_per_epoch=3,
        train_dataloader__collate_fn=dict(type='pseudo_collate'),
        param_scheduler=[
            dict(type='LinearLR', start_factor=.1, by_epoch=False, end=1),
            dict(type='OneCycleLR', eta_max=1., total_steps=9, by_epoch=False)
        ],
        custom_hooks=[
            dict(type='EMAHook', priority='VERY_LOW', update_buffers=True)
        ],
        default_hooks=dict(
            checkpoint=dict(type='mmext.AtomicCheckpointHook', interval=5)))


def test_text_for_a_number_of_a_class_of_the_user_is_a_warning():
    hook = dict(type='CheckedNumberHook', level='high')
    found = [str(f) for f in findings(custom_hooks=[hook])]
    assert any("'high'" in line for line in found), found
    assert not any(line.startswith('error') for line in found), found


@HOOKS.register_module(force=True)
class CheckedNumberHook(Hook):

    def __init__(self, level: Optional[int] = None, on: bool = True):
        self.level = level


@pytest.mark.parametrize('hook, level', [
    (dict(type='mmext.DistillHook', init_student='no'), 'error'),
    (dict(type='CheckedNumberHook', on='no'), 'warning'),
    (dict(type='CheckedNumberHook', on=False), None),
])
def test_text_for_a_switch(hook, level):
    found = [str(f) for f in findings(custom_hooks=[hook])]
    lines = [line for line in found if 'True or False' in line]
    assert [line.split(':')[0] for line in lines] == [level] * bool(level)
    assert all("'no'" in line for line in lines)


def test_a_run_that_ends_before_p_is_infinite():
    path = package_root() / 'configs/lipschitz/liplenet++_cifar10.py'
    if not path.is_file():
        pytest.skip('configs are not beside the package')
    cfg = load_config(str(path))
    for epochs, warned in ((cfg.train_cfg.max_epochs, False), (3, True)):
        cfg.train_cfg.max_epochs = epochs
        found = [str(f) for f in check_config(cfg, allow_missing_paths=True)]
        assert any('p becomes infinite' in f for f in found) == warned, found
        assert not any(f.startswith('error') for f in found), found


@pytest.mark.parametrize('place, value', [
    ('model__pretrained', 'absent/x.pth'),
    ('model__backbone__pretrained', 'absent/x.pth'),
    ('model__backbone__init_cfg',
     dict(type=PretrainedInit, checkpoint='absent/x.pth')),
    ('model__backbone__init_cfg',
     dict(type='mmengine.model.PretrainedInit', checkpoint='absent/x.pth')),
])
def test_missing_weights_of_a_model(place, value):
    found = [str(f) for f in findings(**{place: value})]
    assert len(found) == 2 and 'absent/x.pth is missing' in found[1], found
    assert all(line.startswith('warning') for line in found)


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmseg'])
def test_a_misspelt_type_of_ours_in_any_scope(scope):
    """Also where a host has registries without a parent."""
    pytest.importorskip(scope)
    cfg = dict(default_scope=scope, model=dict(type='mmext.LipMPL'))
    found = [str(one) for one in check_config(cfg, 'train')]
    assert any('mmext.LipMPL' in text for text in found), found
