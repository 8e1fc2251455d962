# Copyright (c) mmext contributors. All rights reserved.
"""Members of an ensemble that are trained together."""
import math
from copy import deepcopy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner

from mmext.models.lipschitz.p_norm import get_p
from .lip_ensembles import WIDE, Module, ensemble, saved
from .lip_models import (build, classifier, finished, images, lip_head,
                         preprocessed)
from .lip_runs import run, runner_config


@pytest.mark.stack_subset
def test_joint_training(tmp_path):
    """All members learn on the averaged residuals; p follows the hook."""
    members = [
        classifier(),
        classifier(
            lip_head(loss=dict(type='mmext.LipMixtureLoss')),
            data_preprocessor=WIDE)
    ]
    model = ensemble(members, train='joint')
    runner = run(tmp_path, model, epochs=20)
    log = {
        k: v._log_history
        for k, v in runner.message_hub.log_scalars.items()
    }
    assert log['val/cert/clean'][-1] > 90
    assert log['val/cert/certified@0.01'][-1] > 50
    trained = runner.model
    assert get_p(trained) == math.inf
    start = build(model).state_dict()
    moved = [
        k for k, v in trained.state_dict().items()
        if not torch.equal(v.cpu(), start[k])
    ]
    assert any('members.1' in k for k in moved)
    # One loss: the other head's is not kept.
    assert not [k for k in start if k.startswith('members.1.head.loss_mod')]

    config = runner_config(tmp_path, model, name='test')
    config['load_from'] = str(tmp_path / 'run' / 'epoch_20.pth')
    assert Runner(**config).test()['cert/certified@0.01'] == pytest.approx(
        log['val/cert/certified@0.01'][-1])


def test_joint_loss_of_one_member_is_its_own():
    """The averaged loss of copies equals the loss of the one."""
    for head in ('lip', 'mlp'):
        single = build(classifier(head))
        joint = build(
            ensemble([Module(deepcopy(single)),
                      Module(deepcopy(single))],
                     train='joint'))
        one = single(**preprocessed(single, images()), mode='loss')['loss']
        two = joint(**preprocessed(joint, images()), mode='loss')['loss']
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize('optim_wrapper', [
    dict(
        optimizer=dict(type='Adam', lr=0.03),
        paramwise_cfg=dict(
            custom_keys={'loss_module.scale': dict(lr_mult=0.2)})),
    dict(
        constructor='mmext.LpOptimWrapperConstructor',
        optimizer=dict(type='mmext.AdamWLp', lr=0.03)),
])
def test_joint_loss_has_one_scalar(tmp_path, optim_wrapper):
    """It moves once a step, and members come from their own trainings."""
    head = lip_head(loss=dict(type='mmext.LipMixtureLoss'), lam=0.5)
    member = classifier(head)
    path = saved(tmp_path, 'member', finished(member))
    joint = build(
        ensemble([
            dict(model=member),
            dict(model=member, checkpoint=path),
            dict(model=classifier(), checkpoint=path)
        ],
                 train='joint'))
    scale = joint.members[0].head.loss_module.scale
    wrapper = build_optim_wrapper(joint, optim_wrapper)
    assert sum(p is scale for group in wrapper.param_groups
               for p in group['params']) == 1
    loss = joint(**preprocessed(joint, images()), mode='loss')['loss']
    wrapper.update_params(loss)
    rate = next(g['lr'] for g in wrapper.param_groups
                if any(p is scale for p in g['params']))
    assert abs(scale.item() - 1) == pytest.approx(rate, rel=0.05)
    # What was trained together is evaluated as an average, too.
    other = build(ensemble([member, member, classifier()]))
    other.load_state_dict(joint.state_dict())
