# Copyright (c) mmext contributors. All rights reserved.
"""Where the members of an ensemble come from, and which are refused."""
import json
import math
from copy import deepcopy

import pytest
import torch

from mmext.models.classification import LipschitzClassifier
from mmext.models.lipschitz.bounds import CertificationError
from mmext.models.lipschitz.p_norm import get_p, set_p
from mmext.utils.user_error import UserError
from ...classification_fixtures import write_fashion_mnist
from ...tool_fixtures import ROOT, tool
from ...toy_runs import quick_runner
from .lip_ensembles import EPS, WIDE, Module, ensemble, evaluated, saved, three
from .lip_models import (CLASSES, build, classifier, finished, images,
                         lip_head, mlp_body, mlp_head, predict, preprocessed)


def test_members_from_files(tmp_path):
    """Configs and checkpoints, as a user has them."""
    config = tmp_path / 'member.py'
    model = classifier(certify=dict(eps=[0.1]))
    preprocessor = model.pop('data_preprocessor')
    config.write_text(
        f'model = {model!r}\ndata_preprocessor = {preprocessor!r}\n')
    source = finished(classifier(), 3)
    paths = [
        saved(tmp_path, 'a', source, lp_norm=math.inf),
        saved(tmp_path, 'b', finished(classifier(), 4))
    ]
    members = [dict(config=str(config), checkpoint=p) for p in paths]
    built = evaluated(
        dict(
            type='mmext.CertifiedEnsemble',
            members=members,
            test_cfg=dict(certify=dict(eps=EPS))))
    assert get_p(built) == math.inf
    for name, value in built.members[0].state_dict().items():
        assert torch.equal(value, source.state_dict()[name])
    # init_weights, which the Runner calls, leaves them as they were loaded.
    before = deepcopy(built.state_dict())
    built.init_weights()
    assert all(
        torch.equal(v, before[k]) for k, v in built.state_dict().items())
    assert 'certified' in predict(built, images())[0]


def test_stock_classifiers_are_members(tmp_path):
    """A Lip backbone that was trained under ``ImageClassifier``."""
    stock = classifier(lip_head(std=[60.]), type='ImageClassifier')
    path = saved(tmp_path, 'a', build(stock))
    model = evaluated(ensemble([dict(model=stock, checkpoint=path)]))
    assert isinstance(model.members[0], LipschitzClassifier)
    assert 'certified' in predict(model, images())[0]


def test_members_need_not_name_their_loss(tmp_path):
    """Its learnable scalar is left out; any other key must fit."""
    mixture = classifier(lip_head(loss=dict(type='mmext.LipMixtureLoss')))
    path = saved(tmp_path, 'a', finished(mixture))
    plain = evaluated(ensemble([dict(model=classifier(), checkpoint=path)]))
    named = evaluated(ensemble([dict(model=mixture, checkpoint=path)]))
    for a, b in zip(predict(plain, images()), predict(named, images())):
        assert a.certified_radius == b.certified_radius
    path = saved(tmp_path, 'b', finished(classifier()))
    assert evaluated(ensemble([dict(model=mixture, checkpoint=path)]))


def test_checkpoints_that_are_refused(tmp_path):
    model = classifier()
    source = finished(model)
    early = saved(tmp_path, 'early', source, lp_norm=137.)
    with pytest.raises(ValueError, match='saved at p = 137'):
        build(ensemble([dict(model=model, checkpoint=early)]))
    forced = evaluated(
        ensemble([dict(model=model, checkpoint=early)],
                 certify=dict(eps=EPS, force_inf=True)))
    assert get_p(forced) == math.inf
    assert 'certified' in predict(forced, images())[0]
    other = classifier(mlp_head())
    with pytest.raises(ValueError, match='missing'):
        build(
            ensemble(
                [dict(model=other, checkpoint=saved(tmp_path, 'lip',
                                                    source))]))
    with pytest.raises(FileNotFoundError):
        build(ensemble([dict(model=model, checkpoint='nowhere.pth')]))

    def of(name, classes):
        path = str(tmp_path / name)
        torch.save(
            dict(
                state_dict=source.state_dict(),
                meta=dict(dataset_meta=dict(classes=classes))), path)
        return dict(model=model, checkpoint=path)

    with pytest.raises(ValueError, match='same classes in the same order'):
        build(
            ensemble([of('c.pth', tuple('abcd')),
                      of('d.pth', tuple('abdc'))]))


@pytest.mark.parametrize('members, message', [
    ([], 'at least one'),
    ([dict()], 'config .* or model'),
    ([dict(model=classifier(), config='x.py')], 'config .* or model'),
    ([dict(model=classifier(), weigth=1.)], 'weigth'),
    ([
        dict(model=classifier()),
        dict(model=classifier(lip_head(num_classes=5)))
    ], 'same classes'),
    ([
        dict(model=classifier()),
        dict(model=classifier(body=mlp_body(img_size=7)))
    ], 'same images'),
    ([dict(model=classifier(data_preprocessor=dict()))], 'mean and std'),
    ([dict(model=dict(type='mmext.CertifiedEnsemble', members=[]))
      ], r'members\[0\] is itself an ensemble. List its members'),
    ([
        dict(
            model=classifier(
                dict(type='LinearClsHead', num_classes=4, in_channels=24)))
    ], 'LinearClsHead'),
])
def test_members_that_are_refused(members, message):
    with pytest.raises(ValueError, match=message):
        build(dict(type='mmext.CertifiedEnsemble', members=members))


def test_states_that_are_refused():
    """Property 17 for ensembles."""
    model = evaluated(ensemble([Module(m) for m in three()]))
    with pytest.raises(RuntimeError, match='own'):
        model(**preprocessed(model, images()), mode='loss')
    with pytest.raises(ValueError, match='joint'):
        build(ensemble([classifier()], train='jointly'))
    model.train()
    with pytest.raises(CertificationError, match='eval'):
        predict(model, images())
    model.eval()
    set_p(model.members[1], 8.)
    with pytest.raises(CertificationError, match='p = 8'):
        predict(model, images())


def test_the_preprocessor_of_the_runner_is_the_members():
    """A top-level ``data_preprocessor`` of a config normalises members."""
    member = classifier()
    member.pop('data_preprocessor')
    model = evaluated(
        ensemble([member, classifier(data_preprocessor=WIDE)],
                 data_preprocessor=dict(
                     mean=[33.], std=[78.], num_classes=CLASSES)))
    assert not model.data_preprocessor._enable_normalize
    assert float(model.members[0].data_preprocessor.std) == 78.
    assert float(model.members[1].data_preprocessor.std) == 75.
    assert 'certified' in predict(model, images())[0]


def test_tool_needs_no_checkpoint(tmp_path, monkeypatch):
    """``tools/test.py CONFIG``: the members name theirs."""
    monkeypatch.chdir(tmp_path)
    write_fashion_mnist('data', 20)
    members = []
    for seed in range(2):
        model = classifier(lip_head(num_classes=10), mlp_body(img_size=28))
        path = saved(tmp_path, str(seed), finished(model, seed))
        members.append(dict(model=model, checkpoint=path))
    base = str(ROOT / 'configs' / '_base_')
    config = tmp_path / 'pair.py'
    text = (f"_base_ = ['{base}/datasets/fashion-mnist_pad1.py',\n"
            f"          '{base}/lip_runtime.py']\n"
            f'model = {ensemble(members)!r}\n'
            "test_dataloader = dict(dataset=dict(data_root='data'),\n"
            '                       num_workers=0, persistent_workers=False)\n'
            'test_cfg = dict()\n'
            'train_dataloader = val_dataloader = val_evaluator = None\n')
    config.write_text(text)
    test, certify = tool('test').main, tool('analysis_tools/certify').main
    with quick_runner():
        test([str(config), '--out', 'metrics.json'])
        certify([str(config), 'none', '--samples', '3', '--out-dir', 'c'])
    assert json.loads((tmp_path / 'c/certified.json').read_text())['images']
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert metrics['cert/certified@0.03'] <= metrics['cert/clean']
    assert 'cert/majority@0.03' in metrics
    nested = tmp_path / 'nested.py'
    nested.write_text(
        text.replace(repr(members), repr([dict(config=str(config))])))
    for main in (test, certify):
        with pytest.raises(UserError, match='itself an ensemble'):
            main([str(nested)])
    del members[0]['checkpoint']
    config.write_text(f'model = {ensemble(members)!r}\n')
    with pytest.raises(UserError, match='no weights'):
        test([str(config)])
