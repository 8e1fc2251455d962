# Copyright (c) mmext contributors. All rights reserved.
"""What the tools see in a config, whichever way its types are written."""
import pytest
import torch
from mmengine.config import Config

from mmext.engine.loops import TestTimeAdaptLoop
from mmext.registry import LOOPS
from mmext.utils.config_types import is_adaptation, type_name
from mmext.utils.launch import (_replace_sync_bn, brings_weights, is_certified,
                                is_depth, is_tuned, predicts_depth, set_resume)
from mmext.utils.user_error import UserError


@pytest.mark.parametrize(
    'write', [
        lambda name: name,
        lambda name: f'mmext.{name}',
        lambda name: f'mmext.models.some.{name}',
        lambda name: type(name, (), {}),
    ],
    ids=['name', 'scope', 'module', 'class'])
def test_types(write):
    """A name, with scope or module, and the class of new-style configs."""
    assert type_name(write('SVDP')) == 'SVDP'
    assert is_adaptation(
        Config(dict(train_cfg=dict(type=write('TestTimeAdaptLoop')))))
    assert not is_adaptation(
        Config(dict(train_cfg=dict(type=write('IterBasedTrainLoop')))))
    tuned = dict(type=write('MoSAModel'))
    assert is_tuned(tuned) and is_tuned(dict(type='Outer', module=tuned))
    assert is_depth(dict(type=write('BiCrossDepthEstimator')))
    assert predicts_depth(dict(type=write('DepthEstimator')))
    assert not is_depth(dict(type=write('DepthEstimator')))
    certified = dict(type=write('LipschitzClassifier'))
    assert is_certified(certified) and not is_certified(tuned)
    assert is_certified(dict(type='Average', module=certified))
    members = [dict(checkpoint='a.pth')]
    assert brings_weights(
        dict(type=write('CertifiedEnsemble'), members=members))
    assert not brings_weights(dict(type=write('ImageClassifier')))
    model = dict(neck=[dict(norm_cfg=dict(type=write('SyncBatchNorm')))])
    assert _replace_sync_bn(model) == 1
    assert model['neck'][0]['norm_cfg'] == dict(type='BN')


def test_a_loop_that_derives_of_ours(monkeypatch):
    monkeypatch.setitem(LOOPS.module_dict, 'OwnLoop',
                        type('OwnLoop', (TestTimeAdaptLoop, ), {}))
    assert is_adaptation(Config(dict(train_cfg=dict(type='mmext.OwnLoop'))))


def test_no_type():
    assert type_name(None) == 'None'
    assert not is_adaptation(Config())
    assert not is_tuned(None)


@pytest.mark.parametrize('content, part', [
    (dict(), 'lacks meta, state_dict'),
    (dict(state_dict=dict()), 'weights only, without meta'),
    ([1], 'is a list'),
])
@pytest.mark.parametrize('by_config', [False, True])
def test_resuming_from_what_is_no_run(tmp_path, content, part, by_config):
    path = str(tmp_path / 'x.pth')
    torch.save(content, path)
    cfg = Config(dict(work_dir=str(tmp_path)))
    if by_config:
        cfg.resume, cfg.load_from = True, path
    with pytest.raises(UserError, match=part) as caught:
        set_resume(cfg, None if by_config else path)
    assert f'load_from={path}' in str(caught.value)
