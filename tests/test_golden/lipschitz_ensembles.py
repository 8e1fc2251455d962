# Copyright (c) mmext contributors. All rights reserved.
"""Checks of recorded ensembles: members, rules, a vote that is unsound."""
import torch

from mmext.models.lipschitz import boxes, certificates, ensemble
from .lipschitz_nets import decide, pure_net, put_means
from .lipschitz_runs import PLAIN, Run, check
from .recorded import Recorded


@check('ensemble')
def averages(data: Recorded, run: Run) -> None:
    """Property 26: members, average, unanimity and majority."""
    x, y = data['x'], data['label']
    count = int(data.number('K'))
    members = [pure_net(data, f'm{k}_').eval() for k in range(count)]
    for k, member in enumerate(members):
        put_means(member, data[f'm{k}_running_mean'])
    logits = torch.stack([member(x) for member in members])
    data.close(logits, 'member_logits')
    data.close(ensemble.average(logits), 'fusion_logits')
    for j, eps in enumerate(data.raw('eps_list_normalised').tolist()):
        box = boxes.eps_box(x, eps, data['down'], data['up'])
        residuals = torch.stack([
            certificates.interval_residual(*member(box)[1:], y)
            for member in members
        ])
        data.close(residuals, f'e{j}_member_res')
        certified = torch.stack(
            [certificates.certified(r, y) for r in residuals])
        data.equal(certified, f'e{j}_member_cert')
        fusion = decide(data, ensemble.average(residuals), f'e{j}_fusion')
        data.equal(ensemble.unanimous(certified), f'e{j}_unanimous_cert')
        data.equal(ensemble.majority(certified), f'e{j}_majority_cert')
        assert fusion[ensemble.unanimous(certified)].all()
        lipschitz = certificates.lipschitz_residual(
            ensemble.average(logits), y, eps)
        data.equal(
            certificates.certified(lipschitz, y), f'e{j}_fusion_lip_cert')


@check('ensemble', PLAIN)
def soft_vote(data: Recorded, run: Run) -> None:
    """Property 28: no rule on offer certifies the counterexample."""
    worst, attack = data['vote_ub_margin'], data['vote_attack_logits']
    y = torch.zeros(1, dtype=torch.long, device=worst.device)
    data.close(worst.softmax(1).mean(0), 'vote_rule_score')
    data.close(attack.softmax(1).mean(0), 'vote_attack_score')
    # The unsound rule: it certifies what an attack changes.
    assert int(data['vote_rule_score'].argmax()) == 0
    assert int(data['vote_attack_score'].argmax()) != 0
    moved = attack - attack[:, :1]
    assert (moved <= worst).all()
    # On one coordinate the other end of the interval mirrors the attack.
    mirrored = torch.cat([moved[:, :1], moved[:, 1:].flip(1)], 1)
    lower = torch.minimum(moved, mirrored)
    residuals = worst[:, None]
    each = torch.stack([certificates.certified(r, y) for r in residuals])
    assert not certificates.certified(ensemble.average(residuals), y).any()
    assert not ensemble.unanimous(each).any()
    assert not ensemble.majority(each).any()
    bound = ensemble.soft_vote_bound(lower[:, None], residuals, y)
    assert not certificates.certified(bound, y).any()
