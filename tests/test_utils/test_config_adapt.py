# Copyright (c) mmext contributors. All rights reserved.
"""Configs that the adaptation loop or the loss would refuse at its start."""
import pytest
from mmengine.registry import DefaultScope

from mmext.utils.config_adapt import view_problem
from mmext.utils.config_check import check_config
from mmext.utils.config_io import load_config, package_root

pytest.importorskip('mmseg')


def findings(name, **changes):
    path = package_root() / 'configs' / f'{name}.py'
    if not path.is_file():
        pytest.skip('configs are not beside the package')
    cfg = load_config(str(path))
    cfg.merge_from_dict({
        key.replace('__', '.'): value
        for key, value in changes.items()
    })
    return check_config(cfg, allow_missing_paths=True)


def errors(name, **changes):
    return [
        str(f) for f in findings(name, **changes) if f.level == 'error'
    ]


@pytest.mark.parametrize('changes, part', [
    (dict(model__decode_head__num_classes=18), 'predicts 18 classes'),
    (dict(train_cfg__reset='domian'), "'domian'"),
    (dict(train_dataloader__batch_size=2), 'batch_size is 2'),
    (dict(train_cfg__method__reference_view=99), 'whose 6 views'),
    (dict(train_cfg__method__task=dict(type='mmext.DepthTask')), 'DepthTask'),
    (dict(train_cfg__evaluator=dict(type='NoMetric')), 'train_cfg.evaluator'),
])
def test_what_the_loop_refuses(changes, part):
    found = errors('svdp/streetworld', **changes)
    assert len(found) == 1 and part in found[0], found


def test_source_that_the_command_line_may_give():
    found = findings('svdp/streetworld', load_from=None)
    assert any(f.level == 'warning' and 'test.py --adapt' in str(f)
               for f in found)
    assert not errors('svdp/streetworld', load_from=None)


@pytest.mark.parametrize('autocast, wrapper, told', [
    ('float16', 'OptimWrapper', True),
    ('float16', 'AmpOptimWrapper', False),
    ('bfloat16', 'OptimWrapper', False),
])
def test_float16_needs_a_scaler(autocast, wrapper, told):
    found = findings(
        'svdp/streetworld',
        train_cfg__autocast=autocast,
        optim_wrapper__type=wrapper)
    assert told == any("type='AmpOptimWrapper'" in str(f) for f in found)


@pytest.mark.parametrize('changes, level, part', [
    (dict(default_hooks__checkpoint__save_best='mIoU'), 'warning',
     'save_best of AtomicCheckpointHook'),
    (dict(custom_hooks=[dict(type='EarlyStoppingHook', monitor='mIoU')]),
     'warning', 'custom_hooks[0]: EarlyStoppingHook'),
    (dict(custom_hooks=[dict(type='mmext.MeanTeacherHook')]), 'error',
     'custom_hooks[0]: the loop brings a MeanTeacherHook'),
])
def test_hooks_that_do_not_belong_there(changes, level, part):
    found = [
        str(f) for f in findings('svdp/streetworld', **changes)
        if f.level == level and 'hooks' in f.path
    ]
    assert len(found) == 1 and part in found[0], found
    if level == 'error':  # TENT has no teacher
        assert not errors('svdp/tent_streetworld', **changes)


def test_what_the_loop_takes():
    name = 'svdp/streetworld'
    assert not errors(name)
    assert not errors(name, load_from=None, resume=True)
    assert not errors(
        name, load_from=None, train_cfg__allow_random_source=True)
    assert not errors(
        name, train_cfg__evaluator=dict(metrics=[dict(type='IoUMetric')]))


def test_head_with_fewer_classes_than_the_labels():
    name = 'svdp/streetworld_source_segformer-b0'
    found = errors(name, model__decode_head__num_classes=18)
    assert len(found) == 1 and 'the head has 18 classes' in found[0], found
    # unused outputs do no harm
    assert not errors(name, model__decode_head__num_classes=20)


def views(*flips, scales=2):
    resize = [dict(type='Resize', scale=(8 * i, 8)) for i in range(1, scales)]
    return [
        dict(type='LoadImageFromFile'),
        dict(type='TestTimeAug', transforms=[resize, list(flips)])
    ]


PLAIN, MIRRORED, DRAWN = [
    dict(type='RandomFlip', prob=p) for p in (0., 1., .5)
]


@pytest.mark.parametrize('pipeline, reference, refused', [
    (views(PLAIN, MIRRORED), None, False),
    (views(PLAIN, MIRRORED), 0, False),
    (views(PLAIN, MIRRORED), 1, True),
    (views(PLAIN, MIRRORED), -1, True),
    (views(PLAIN, MIRRORED, scales=3), None, True),
    (views(DRAWN, MIRRORED, scales=3), None, False),
    (views(DRAWN), 0, False),
    (views(DRAWN), 1, True),
    (views()[:1], None, False),
    (views()[:1], 1, True),
    ([lambda results: results], 7, False),
    (None, 7, False),
])
def test_reference_view(pipeline, reference, refused):
    with DefaultScope.overwrite_default_scope('mmseg'):
        assert bool(view_problem(pipeline, reference)) == refused
