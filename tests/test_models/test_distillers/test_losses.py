# Copyright (c) mmext contributors. All rights reserved.
"""Losses, masks and heads of distillation, properties H1-H5, H16, H19-H24."""
import math

import pytest
import torch

pytest.importorskip('mmengine')

from mmengine.registry import MODELS

from mmext.models.distillers import (DomainAdversarialLoss, FeatureTap,
                                     ProjectionHead, contrastive_loss,
                                     garg_mask, gradient_reversal,
                                     masked_feature_loss, pixel_filter,
                                     pseudo_label_mask, range_mask, sig_loss,
                                     ssi_loss, uncertainty_loss)
from mmext.utils.user_error import ConfigError


def depths(*shape):
    return torch.rand(*shape) * 60 + 1


def test_h2_scale_invariance():
    """H2: exact with eps 0, approximate with 0.1."""
    p, d = depths(200).double(), depths(200).double()
    for c in (0.1, 7.):
        torch.testing.assert_close(
            sig_loss(c * p, c * d, eps=0), sig_loss(p, d, eps=0))
        torch.testing.assert_close(
            sig_loss(c * d, d, eps=0),
            torch.tensor(math.sqrt(0.15) * abs(math.log(c))).double())
    changed = float(sig_loss(0.1 * p, 0.1 * d) - sig_loss(p, d))
    assert 1e-8 < abs(changed) < 0.2


def test_h1_outside_the_mask_nothing_counts():
    p, d = depths(2, 1, 4, 6).requires_grad_(), depths(2, 1, 4, 6)
    mask = torch.rand(2, 1, 4, 6) > 0.5
    losses = [sig_loss(p, d, mask), uncertainty_loss(p / 60, p, d, mask)]
    bad = torch.where(mask, p, float('nan')), torch.where(mask, d, 0.)
    again = [sig_loss(*bad, mask), uncertainty_loss(bad[0] / 60, *bad, mask)]
    for one, other in zip(losses, again):
        torch.testing.assert_close(one, other)
        grad, = torch.autograd.grad(other, p, retain_graph=True)
        assert bool((grad[~mask] == 0).all())
    # a diverged net is not hidden
    assert math.isnan(float(sig_loss(p * float('nan'), d)))


@pytest.mark.parametrize('name', [
    'SigLoss', 'SSILoss', 'UncertaintyLoss', 'MaskedFeatureLoss',
    'ContrastiveLoss', 'DomainAdversarialLoss'
])
@pytest.mark.stack_subset
def test_h37_losses_build_by_both_names(name):
    """H37: mmext.X and mmdepth.X."""
    options = dict(in_channels=4) if name.startswith('Domain') else {}
    for scope in ('mmext', 'mmdepth'):
        MODELS.build(dict(type=f'{scope}.{name}', **options))


def test_losses_of_empty_masks_are_zero_with_zero_gradients():
    p, d = depths(2, 1, 8, 8).requires_grad_(), depths(2, 1, 8, 8)
    none = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    for loss in (sig_loss(p, d, none), ssi_loss(p, d, none),
                 ssi_loss(p, d, none,
                          reduction='image'), uncertainty_loss(p, p, d, none),
                 uncertainty_loss(p, p, d, none, mode='l1log'),
                 masked_feature_loss(d, p, none)):
        grad, = torch.autograd.grad(loss, p)
        assert loss.item() == 0 and bool((grad == 0).all())


def test_losses_refuse_unknown_settings():
    with pytest.raises(ConfigError, match='l1log'):
        MODELS.build(dict(type='mmext.UncertaintyLoss', mode='l3'))
    with pytest.raises(ConfigError, match='image'):
        MODELS.build(dict(type='mmext.SSILoss', reduction='sum'))
    with pytest.raises(ConfigError, match='connector=dict.in_channels=3'):
        MODELS.build(dict(type='mmext.MaskedFeatureLoss'))(torch.zeros(
            1, 4, 2, 2), torch.zeros(1, 3, 2, 2))


def test_h4_contrastive():
    """H4: a common shift, a batch of one, orthogonal embeddings."""
    a, b = torch.randn(5, 7), torch.randn(5, 7)
    loss = contrastive_loss(a, b)
    torch.testing.assert_close(contrastive_loss(a, b + torch.randn(7)), loss)
    assert float(contrastive_loss(a[:1], b[:1])) == 0
    found = [
        float(contrastive_loss(s * torch.eye(4), torch.eye(4)))
        for s in (1, 10, 100)
    ]
    assert found[0] > found[1] > found[2] and found[2] < 1e-6
    both = contrastive_loss(a, b, True, 0.07, True)
    torch.testing.assert_close(both, contrastive_loss(b, a, True, 0.07, True))


def test_h5_ssi_is_invariant():
    """H5: to scale and shift of the prediction; constants are no fault."""
    p, d = depths(2, 12, 16), depths(2, 12, 16)
    d[:, ::3] = 0
    for reduction in ('batch', 'image'):
        loss = ssi_loss(p, d, reduction=reduction)
        other = ssi_loss(3 * p + 8, d, reduction=reduction)
        torch.testing.assert_close(other, loss, rtol=1e-4, atol=1e-4)
    flat = torch.full_like(p, 7.3).requires_grad_()
    loss = ssi_loss(flat, d)
    loss.backward()
    assert bool(torch.isfinite(loss)) and bool(torch.isfinite(flat.grad).all())


@pytest.mark.parametrize('size,box', [((352, 1216), (143, 349, 43, 1172)),
                                      ((384, 384), (156, 380, 13, 370)),
                                      ((384, 864), (156, 380, 31, 832)),
                                      ((480, 640), (195, 476, 23, 616)),
                                      ((250, 400), (102, 247, 14, 385)),
                                      ((375, 1242), (153, 371, 44, 1197))])
def test_garg_mask(size, box):
    rows, columns = torch.where(garg_mask(*size))
    assert (int(rows.min()), int(rows.max()) + 1, int(columns.min()),
            int(columns.max()) + 1) == box


def test_range_mask_is_strict_and_refuses_what_is_no_number():
    d = torch.tensor([1e-3, 2e-3, 79., 80., float('nan'), float('inf')])
    assert range_mask(d).tolist() == [False, True, True] + 3 * [False]
    assert range_mask(d, max_depth=None).tolist() == [False] + 3 * [True] + \
        2 * [False]


@pytest.mark.parametrize('n', [7, 10, 64])
def test_h20_keep_ratio(n):
    """H20: the threshold drops itself where 1e-8 is lost, else stays."""
    order = torch.randperm(n)
    for base, kept in ((0.3, n // 2), (0., n // 2 + 1)):
        u = (base + order.float() * 1e-3).reshape(1, 1, 1, n)
        u = u if base else u * 1e-2
        mask, _ = pseudo_label_mask(u, torch.ones_like(u).bool())
        assert int(mask.sum()) == kept


def test_thresholds_of_other_kinds():
    u = torch.rand(3, 1, 6, 6) + torch.arange(3.).reshape(3, 1, 1, 1)
    all_ = torch.ones_like(u).bool()
    mask, _ = pseudo_label_mask(u, all_, dict(type='quantile', per_image=True))
    assert mask.flatten(1).sum(1).tolist() == [18] * 3
    assert int(pseudo_label_mask(u, all_)[0].sum()) == 54
    mask, tau = pseudo_label_mask(u, all_, 'mean')
    torch.testing.assert_close(tau, u.mean())
    mask, tau = pseudo_label_mask(u, all_, 0.5)
    assert bool((mask == (u < 0.5)).all())
    mask, tau = pseudo_label_mask(u, ~all_)
    assert not mask.any() and float(tau) == 0
    for bad in ('median', dict(type='quantile', q=2), dict(q=0.5)):
        with pytest.raises(ConfigError, match='per_image'):
            pseudo_label_mask(u, all_, bad)


def test_h16_pixel_filter():
    """H16: all, none, and exactly zero gradient at what is left out."""
    teacher, student = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    student.requires_grad_()
    sure, unsure = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    everything = pixel_filter(sure, unsure, (4, 4), rgb_q=1, spike_q=0)
    assert everything.all() and everything.shape == (2, 1, 4, 4)
    torch.testing.assert_close(
        masked_feature_loss(teacher, student, everything),
        masked_feature_loss(teacher, student))
    nothing = pixel_filter(sure, unsure, (4, 4), rgb_q=0, spike_q=1)
    loss = masked_feature_loss(teacher, student, nothing)
    grad, = torch.autograd.grad(loss, student)
    assert not nothing.any() and float(loss) == 0
    assert bool((grad == 0).all())
    some = pixel_filter(sure, unsure, (4, 4))
    loss = masked_feature_loss(teacher, student, some)
    grad, = torch.autograd.grad(loss, student)
    assert bool(((grad != 0) == some.expand_as(grad)).all())
    certain, uncertain = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4)
    certain[..., 2:], uncertain[..., 1::2] = 1, 1
    mask = pixel_filter(certain, uncertain, stat='mean')
    assert mask.flatten().tolist() == [False, True, False, False]


def features(n=4):
    return torch.randn(n, 5, 3, 3, requires_grad=True)


def test_h23_reversal():
    """H23: identity forward, -beta backward, 0 leaves features alone."""
    x, weight = features(), torch.randn(4, 5, 3, 3)
    for beta in (0.01, 0.):
        out = gradient_reversal(x, beta)
        grad, = torch.autograd.grad((out * weight).sum(), x)
        assert bool((out == x).all())
        torch.testing.assert_close(grad, -beta * weight)
    source, target = features(), features()
    loss = DomainAdversarialLoss(5, beta=0.)(source, target)['loss_sca']
    for grad in torch.autograd.grad(loss, (source, target)):
        assert bool((grad == 0).all())


@pytest.mark.parametrize('joint', [True, False])
def test_h24_shared_head(joint):
    """H24: ln 2 each at the start; permuting permutes; accuracy."""
    loss = DomainAdversarialLoss(
        5, hidden=6, joint_batch=joint, loss_weight=1.)
    source, target = features(), features(3)
    order = torch.tensor([2, 0, 3, 1])
    first = loss.log_probabilities(source, target)[0]
    second = loss.log_probabilities(source[order], target)[0]
    torch.testing.assert_close(first[order], second)
    for parameter in loss.head[-1].parameters():
        parameter.data.zero_()
    found = loss(source, target)
    torch.testing.assert_close(found['loss_sca'],
                               torch.tensor(2 * math.log(2)))
    for grad in torch.autograd.grad(found['loss_sca'], (source, target)):
        assert bool((grad == 0).all())
    # a head that knows nothing says one domain for all
    assert round(7 * float(found['sca_accuracy'])) in (3, 4)


def test_h24_one_batch_or_two_differ():
    """H24: by the statistics of BatchNorm, which is why it is an option."""
    source, target = features(), features()
    target = target + 3
    loss = DomainAdversarialLoss(5, hidden=6)
    one = loss.log_probabilities(source, target)
    loss.joint_batch = False
    two = loss.log_probabilities(source, target)
    assert not torch.allclose(one[0], two[0])


def test_h26_heads_take_a_batch_of_one():
    """H26: BatchNorm has no statistics of one image."""
    head = ProjectionHead(5, 6, 4)
    assert head(features(1)).shape == (1, 4)
    before = head[3].running_mean.clone()
    head(features(2))
    assert not torch.equal(before, head[3].running_mean)
    loss = DomainAdversarialLoss(5, hidden=6, share_head=False)
    assert bool(torch.isfinite(loss(features(1), features(3))['loss_sca']))


class Net(torch.nn.Module):

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        self.late = 0

    def forward(self, x):
        x = self.b(self.a(x))
        self.late += 1
        return x


def test_h11_taps_belong_to_their_instance():
    """H11: two models, alternately and nested; names; the early end."""
    one, two = Net(), Net()
    x = torch.randn(3, 2)
    with FeatureTap(one, ['a', 'b']) as first, FeatureTap(two,
                                                          ['a']) as second:
        two(x)
        one(x)
        two(2 * x)
    torch.testing.assert_close(first['a'], one.a(x))
    torch.testing.assert_close(second['a'], two.a(2 * x))
    assert first['b'].requires_grad
    assert not one.a._forward_hooks and not two.a._forward_hooks
    with pytest.raises(KeyError, match='did not call'):
        FeatureTap(one, ['a'])['a']
    with pytest.raises(ConfigError, match="no 'c'"):
        FeatureTap(one, ['c'])
    ran = one.late
    with FeatureTap(one, ['a'], stop=True) as tap:
        one(x)
    assert one.late == ran
    torch.testing.assert_close(tap['a'], one.a(x))
    with pytest.raises(ZeroDivisionError):
        with FeatureTap(one, ['a'], stop=True):
            1 / 0
