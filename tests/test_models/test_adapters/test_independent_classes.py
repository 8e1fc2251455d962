# Copyright (c) mmext contributors. All rights reserved.
"""The consistency term of classes that do not exclude each other."""
import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

pytest.importorskip('mmpretrain')

from mmpretrain.structures import DataSample

from mmext.models.adapters.functional import symmetric_kl
from ...tiny_classifiers import WIDTH, build, vit


def bernoulli(a, b):
    first, second = Bernoulli(logits=a), Bernoulli(logits=b)
    both = kl_divergence(first, second) + kl_divergence(second, first)
    return 0.5 * both.sum(1).mean()


@pytest.mark.parametrize('shape', [(4, 1), (4, 7), (2, 1, 3, 5)])
def test_divergence_of_yes_and_no(shape):
    """As :func:`symmetric_kl` of a softmax: zero for equal logits,
    symmetric, targets without gradient, float32 for half precision."""
    a, b = torch.randn(2, *shape, dtype=torch.float64)
    torch.testing.assert_close(symmetric_kl(a, b, True), bernoulli(a, b))
    torch.testing.assert_close(
        symmetric_kl(a, b, True), symmetric_kl(b, a, True))
    assert float(symmetric_kl(a, a, True)) == 0
    a.requires_grad_()
    first, second = Bernoulli(logits=a), Bernoulli(logits=b)
    expected, = torch.autograd.grad(
        0.5 * kl_divergence(second, first).sum(1).mean(), a)
    actual, = torch.autograd.grad(symmetric_kl(a, b, True), a)
    torch.testing.assert_close(actual, expected)
    half = symmetric_kl(a.bfloat16(), b.bfloat16(), True)
    assert half.dtype == torch.float32
    assert symmetric_kl(500 * a, -500 * b, True).isfinite()


def test_two_classes_are_one_yes_and_no():
    """A softmax over (z, 0) is the sigmoid of z."""
    a, b = torch.randn(2, 6, 1, dtype=torch.float64)
    pairs = [torch.cat([z, torch.zeros_like(z)], 1) for z in (a, b)]
    torch.testing.assert_close(
        symmetric_kl(a, b, True), symmetric_kl(*pairs))


def spied(model, x, samples):
    """The logged divergence and the logits of both passes."""
    seen, head = [], model.host.logits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.host, 'logits', staticmethod(
            lambda *args: seen.append(head(*args)) or seen[-1]))
        losses = model.train().loss(x, samples)
    return losses['loss_kl'].detach(), seen[0].detach().chunk(2)


@pytest.mark.parametrize('count', [1, 5])
def test_images_with_several_labels(count):
    """One label alone has a divergence; more do not share their scores."""
    module = vit()
    module['head'] = dict(type='MultiLabelLinearClsHead', num_classes=count,
                          in_channels=WIDTH)
    model = build(module, perturb=True)
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    samples = [
        DataSample().set_gt_score(torch.arange(count) % 2) for _ in x]
    value, logits = spied(model, x, samples)
    assert value > 0
    torch.testing.assert_close(value, bernoulli(*logits))


@pytest.mark.parametrize('head, independent', [
    (dict(num_classes=2, out_channels=1, threshold=0.3, loss_decode=dict(
        type='CrossEntropyLoss', use_sigmoid=True)), True),
    (dict(num_classes=3, loss_decode=dict(
        type='CrossEntropyLoss', use_sigmoid=True)), True),
    (dict(num_classes=3, loss_decode=[
        dict(type='CrossEntropyLoss', use_sigmoid=True),
        dict(type='DiceLoss', loss_name='loss_dice')]), True),
    (dict(num_classes=3, loss_decode=[
        dict(type='CrossEntropyLoss'),
        dict(type='DiceLoss', loss_name='loss_dice')]), False),
    (dict(num_classes=3, loss_decode=dict(type='CrossEntropyLoss')), False),
])
def test_decode_heads(head, independent):
    """One channel for two classes, or losses of the sigmoid."""
    pytest.importorskip('mmseg')
    from . import test_segmentation as seg
    config = seg.tuned()
    config['module']['decode_head'].update(head)
    model = seg.build(module=config['module'])
    x, samples = seg.batch()
    for sample in samples:
        sample.gt_sem_seg.data %= 2
    value, logits = spied(model, x, samples)
    assert value > 0
    torch.testing.assert_close(value, symmetric_kl(*logits, independent))
