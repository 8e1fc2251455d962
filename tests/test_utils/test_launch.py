# Copyright (c) mmext contributors. All rights reserved.
"""What the tools see in a config, whichever way its types are written."""
import pytest
from mmengine.config import Config

from mmext.engine.loops import TestTimeAdaptLoop
from mmext.registry import LOOPS
from mmext.utils.config_types import is_adaptation, type_name
from mmext.utils.launch import (_replace_sync_bn, brings_weights, is_depth,
                                is_tuned, predicts_depth)


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
