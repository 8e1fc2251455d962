# Copyright (c) mmext contributors. All rights reserved.
"""The rules that certify ensembles."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmext.models.lipschitz.ensemble import (average, fit_weights, majority,
                                             simplex_weights, soft_vote_bound,
                                             unanimous, vote)
from mmext.utils.user_error import ConfigError

TIGHT = dict(rtol=1e-9, atol=1e-9)


@pytest.fixture
def golden(recorded_arrays):
    return recorded_arrays('lipschitz', 'ensemble.npz')


def certified(residual, labels):
    """All entries but the label's are negative."""
    others = residual.scatter(-1,
                              labels.expand(residual.shape[:-1])[..., None],
                              float('-inf'))
    return others.amax(-1) < 0


def radii(logits, labels):
    index = labels.expand(logits.shape[:-1])[..., None]
    others = logits.scatter(-1, index, float('-inf')).amax(-1)
    return (logits.gather(-1, index)[..., 0] - others) / 2


def test_golden_ensemble(golden):
    """Property 26: averages and decisions as recorded."""
    labels = golden['label']
    logits = average(golden['member_logits'])
    torch.testing.assert_close(logits, golden['fusion_logits'], **TIGHT)
    for j, eps in enumerate(golden['eps_list_normalised']):
        residual = golden[f'e{j}_member_res']
        fused = average(residual)
        torch.testing.assert_close(fused, golden[f'e{j}_fusion_res'], **TIGHT)
        members = certified(residual, labels)
        assert torch.equal(members, golden[f'e{j}_member_cert'])
        assert torch.equal(
            certified(fused, labels), golden[f'e{j}_fusion_cert'])
        assert torch.equal(unanimous(members), golden[f'e{j}_unanimous_cert'])
        assert torch.equal(majority(members), golden[f'e{j}_majority_cert'])
        assert torch.equal(
            radii(logits, labels) > eps, golden[f'e{j}_fusion_lip_cert'])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_radius_of_the_average(seed, count):
    """Property 26: R_F >= sum a_k R_k; unanimity implies F certified."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 40, 4, generator=rng, dtype=torch.float64)
    weights = torch.rand(count, generator=rng, dtype=torch.float64) + 1e-3
    labels = torch.randint(4, (40, ), generator=rng)
    mine = radii(average(logits, weights), labels)
    theirs = radii(logits, labels)
    assert (mine >= average(theirs, weights) - 1e-12).all()
    eps = 0.2
    assert (mine[unanimous(theirs > eps)] > eps - 1e-12).all()


def test_an_average_may_be_worse_than_the_vote():
    """T2(d): two of three certified, the average wrong."""
    eps = 0.5
    theirs = torch.tensor([1.1, 1.1, -3.]) * eps
    logits = torch.stack([theirs * 2, torch.zeros(3)], 1)[:, None]
    labels = torch.zeros(1, dtype=torch.int64)
    members = radii(logits, labels) > eps
    assert majority(members).all() and vote(logits) == 0
    assert radii(average(logits), labels) < 0
    assert not unanimous(members).any()


def test_one_member_and_copies():
    """Property 27: K = 1 and K copies are the single model."""
    values = torch.randn(1, 5, 3)
    assert torch.equal(average(values), values[0].double())
    copies = average(values.expand(4, -1, -1), [1, 2, 3, 5])
    torch.testing.assert_close(copies, values[0].double(), **TIGHT)
    assert torch.equal(
        majority(torch.tensor([[True], [True], [False]])),
        torch.tensor([True]))
    assert not majority(torch.tensor([[True], [False]])).any()


def test_soft_vote_counterexample(golden):
    """Property 28: no rule certifies what the unsound one does."""
    upper = golden['vote_ub_margin'][:, None]
    label = torch.zeros(1, dtype=torch.int64)
    unsound = upper.softmax(2).mean(0)
    torch.testing.assert_close(unsound[0], golden['vote_rule_score'])
    assert unsound.argmax(1) == 0
    attacked = golden['vote_attack_logits'][:, None]
    assert attacked.softmax(2).mean(0).argmax(1) != 0

    members = certified(upper, label)
    assert not certified(average(upper), label).any()
    assert not unanimous(members).any() and not majority(members).any()
    # x in [-3, 3]: the first member's lower bounds are -3.
    lower = upper.clone()
    lower[0, 0, 1:] = -3.
    assert (soft_vote_bound(lower, upper, label)[0, 1:] >= 0).any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_soft_vote_bound_bounds(seed):
    """The sound form holds at random points of the box of margins."""
    rng = torch.Generator().manual_seed(seed)
    centre = torch.randn(3, 6, 5, generator=rng, dtype=torch.float64) * 2
    width = torch.rand(3, 6, 5, generator=rng, dtype=torch.float64)
    labels = torch.randint(5, (6, ), generator=rng)
    index = labels.expand(3, -1)[..., None]
    centre, width = (v.scatter(2, index, 0.) for v in (centre, width))
    bound = soft_vote_bound(centre - width, centre + width, labels, [1, 2, 3])
    for _ in range(30):
        place = torch.rand(3, 6, 5, generator=rng, dtype=torch.float64)
        margin = centre + (2 * place - 1) * width
        prob = average(margin.softmax(2), [1, 2, 3])
        gap = prob - prob.gather(1, labels[:, None])
        assert (gap <= bound + 1e-12).all()


def test_soft_vote_bound_of_wide_boxes():
    wide = torch.full((2, 1, 3), 1e4)
    label = torch.zeros(1, dtype=torch.int64)
    assert soft_vote_bound(-wide, wide, label).isfinite().all()


def test_weights():
    """Property 29: other sums are divided out, nonsense is refused."""
    assert simplex_weights(None, 4).tolist() == [0.25] * 4
    assert simplex_weights([1, 3], 2).tolist() == [0.25, 0.75]
    for bad in ([1, -1], [0, 0], [1], [1, float('nan')], [1, float('inf')]):
        with pytest.raises(ConfigError, match='eights|weight'):
            simplex_weights(bad, 2)


def test_weight_zero_leaves_a_member_out():
    values = torch.stack([torch.zeros(2, 3), torch.full((2, 3), np.inf)])
    assert torch.equal(average(values, [1, 0]), values[0].double())


def test_fit_weights():
    """Never worse than equal weights or a member, on its own images."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (60, ), generator=rng)
    good = torch.randn(2, 60, 4, generator=rng) - 1.2
    noise = torch.randn(2, 60, 4, generator=rng) + 2.
    residual = torch.cat([good, noise])
    residual = residual.scatter(2, labels.expand(4, -1)[..., None], 0.)
    fit = fit_weights(residual, labels)
    assert fit.weights.sum() == pytest.approx(1) and (fit.weights >= 0).all()
    assert fit.certified > fit.uniform
    assert fit.certified >= max(fit.members)
    assert fit.weights[:2].sum() > 0.8
    score = certified(average(residual, fit.weights), labels).double().mean()
    assert float(score) == pytest.approx(fit.certified)
    strict = fit_weights(residual, labels, torch.full((4, 60), 0.5))
    assert strict.certified < fit.certified
    again = fit_weights(residual, labels)
    assert torch.equal(fit.weights, again.weights)


def test_fit_weights_needs_images():
    with pytest.raises(ValueError, match='held-out'):
        fit_weights(torch.zeros(2, 0, 3), torch.zeros(0, dtype=torch.int64))
