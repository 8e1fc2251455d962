# Copyright (c) mmext contributors. All rights reserved.
"""Losses, thresholds and the reversal, against the recorded ones."""
import numpy as np
import pytest
import torch

from mmext.models.distillers import (contrastive_loss, garg_mask,
                                     gradient_reversal, pseudo_label_mask,
                                     range_mask, sig_loss, ssi_loss, ssi_terms,
                                     uncertainty_loss)
from .bicross_files import load


def tensors(data):
    """The arrays as tensors."""
    return {
        key: torch.from_numpy(value)
        for key, value in data.items() if value.dtype.kind != 'U'
    }


def near(found, expected, message='', largest=0.):
    """Values: 1e-5 relative, 1e-6 absolute.

    Where values are sums of entries up to ``largest``, at least two units in
    the last place of that.
    """
    torch.testing.assert_close(
        torch.as_tensor(found).detach().float(),
        torch.as_tensor(expected).float(),
        rtol=1e-5,
        atol=max(1e-6, 2.4e-7 * largest),
        msg=lambda text: f'{message} {text}')


def grad_near(found, expected, message=''):
    """Gradients: 1e-4 of the largest entry."""
    largest = float(expected.abs().max())
    torch.testing.assert_close(
        found,
        expected,
        rtol=0,
        atol=1e-4 * largest + 1e-12,
        msg=lambda text: f'{message} {text}')


def test_h1_sig():
    """H1: loss, statistics, gradient, and what is guarded."""
    data = tensors(load('loss_sig'))
    pred, target = data['sig_pred'].requires_grad_(), data['sig_gt']
    limit = float(data['sig_maxdepth'])
    masks = {
        'sig': target > 0,
        'sig_maxdepth': (target > 0) & (target <= limit)
    }
    for name, mask in masks.items():
        loss = sig_loss(pred, target, mask)
        near(loss, data[f'{name}_loss'])
        grad, = torch.autograd.grad(loss, pred)
        grad_near(grad, data[f'{name}_grad_pred'])
        assert bool((grad[~mask] == 0).all())
    mask = masks['sig']
    assert int(mask.sum()) == int(data['sig_n_valid'])
    g = torch.log(pred[mask] + 0.1) - torch.log(target[mask] + 0.1)
    near(g.mean(), data['sig_g_mean'])
    near(g.var(), data['sig_g_var_unbiased'])
    same = data['sig_identical_x'].requires_grad_()
    loss = sig_loss(same, same.detach())
    loss.backward()
    assert float(loss) == float(data['sig_identical_loss']) == 0
    assert bool((same.grad == 0).all())
    assert bool(torch.isnan(data['sig_single_loss']))
    one = torch.tensor([2.], requires_grad=True)
    for mask in (None, torch.tensor([False])):
        loss = sig_loss(one, torch.tensor([3.]), mask)
        grad, = torch.autograd.grad(loss, one)
        assert float(loss) == 0 and float(grad) == 0


def test_h3_uncertainty():
    """H3: three variants with both gradients."""
    data = tensors(load('loss_uncertainty'))
    error = ((data['pred'] - data['gt']).abs() / data['gt']).clamp(0, 1)
    near(error, data['rel_err_clamped'])
    for mode in ('l1', 'l2', 'l1log'):
        pred = data['pred'].clone().requires_grad_()
        key = 'uncer_positive' if mode == 'l1log' else 'uncer'
        u = data[key].clone().requires_grad_()
        loss = uncertainty_loss(u, pred, data['gt'], mode=mode)
        near(loss, data[f'{mode}_loss'])
        grads = torch.autograd.grad(loss, (u, pred))
        grad_near(grads[0], data[f'{mode}_grad_uncer'], mode)
        grad_near(grads[1], data[f'{mode}_grad_pred'], mode)
        loss = uncertainty_loss(
            u, pred, data['gt'], mode=mode, detach_target=True)
        grads = torch.autograd.grad(loss, (u, pred), allow_unused=True)
        grad_near(grads[0], data[f'{mode}_grad_uncer'], mode)
        assert grads[1] is None


def test_h4_contrastive():
    """H4: value and gradients."""
    data = tensors(load('loss_contrastive'))
    rgb, spike = (
        data[key].requires_grad_() for key in ('rgb_embed', 'spike_embed'))
    near(rgb @ spike.t(), data['logits'])
    loss = contrastive_loss(rgb, spike)
    near(loss, data['loss'])
    grads = torch.autograd.grad(loss, (rgb, spike))
    grad_near(grads[0], data['grad_rgb'])
    grad_near(grads[1], data['grad_spike'])


@pytest.mark.parametrize('reduction', ['batch', 'image'])
def test_h5_ssi(reduction):
    """H5: scale, shift, data term and each stride."""
    data = tensors(load('loss_ssi'))
    pred, target = data['pred'].requires_grad_(), data['target']
    terms = ssi_terms(pred, target, reduction=reduction)
    for key, name in (('scale', 'scale'), ('shift', 'shift'),
                      ('aligned', 'ssi_pred'), ('data', f'{reduction}_data')):
        mask = target > 0 if key == 'aligned' else ...
        near(terms[key][mask], data[name][mask], name)
    for k, term in enumerate(terms['gradients']):
        near(term, data[f'{reduction}_grad_reg_scale{k}'], f'stride {2**k}')
    near(sum(terms['gradients']), data[f'{reduction}_grad_reg'])
    loss = ssi_loss(pred, target, reduction=reduction)
    near(loss, data[f'{reduction}_total'])
    grad, = torch.autograd.grad(loss, pred)
    grad_near(grad, data[f'{reduction}_grad_pred'])


def test_h19_thresholds():
    """H19: the edge cases, and no NaN."""
    raw = load('stage3_threshold_cases')
    data = tensors(raw)
    for index, name in enumerate(raw['case_names']):
        u, teacher, student = (
            data[f'{name}.{key}']
            for key in ('uncertainty', 'teacher_depth', 'student_depth'))
        candidates = range_mask(teacher, 1e-3, float(data['dmax'])) \
            & garg_mask(*teacher.shape[-2:])
        assert int(candidates.sum()) == int(data['n_candidates'][index])
        mask, tau = pseudo_label_mask(u, candidates)
        assert float(tau) == float(data['threshold'][index]), name
        assert int(mask.sum()) == int(data['n_selected'][index]), name
        student = student.clone().requires_grad_()
        loss = sig_loss(student.clamp_min(1e-3), teacher, mask)
        grad, = torch.autograd.grad(loss, student)
        assert bool(torch.isfinite(grad).all())
        expected = data['loss'][index]
        near(loss, 0. if bool(torch.isnan(expected)) else expected, name)


def test_h23_reversal():
    """H23: the bare reversal."""
    data = tensors(load('stage3_glfa_step'))
    x = data['grl_probe_x'].requires_grad_()
    out = gradient_reversal(x, float(data['beta']))
    np.testing.assert_array_equal(out.detach(), x.detach())
    out.backward(data['grl_probe_gradout'])
    near(x.grad, data['grl_probe_gradin'])
