# Copyright (c) mmext contributors. All rights reserved.
"""The partition, merges and loss terms as plain functions."""
import pytest
import torch

from mmext.models.adapters.functional import (check_merge_mode,
                                              check_partition, deep_alignment,
                                              draw_scores, merge_compact,
                                              merge_modules, module_masks,
                                              partition, sparse_mask,
                                              symmetric_kl)

SHAPES = [(16, 9), (7, 13), (64, 65), (67, )]


def sizes(owner, n, dim=None):
    masks = module_masks(owner, n).long()
    return masks.flatten(1).sum(1) if dim is None else masks.sum(dim + 1)


@pytest.mark.parametrize('shape', SHAPES)
def test_partition_is_exact_and_balanced(shape):
    """Properties 1 and 2: for N in 2..64 over the whole tensor."""
    scores = draw_scores(shape, 0, 'a')
    for n in range(2, 65):
        owner = partition(scores, n)
        assert (module_masks(owner, n).sum(0) == 1).all()
        count = sizes(owner, n)
        assert int(count.sum()) == scores.numel()
        assert int(count.max() - count.min()) <= 1


@pytest.mark.parametrize('granularity,axis', [('row', 1), ('column', 0)])
def test_partition_inside_rows_and_columns(granularity, axis):
    """Properties 1 and 2: every row, or column, is shared out evenly."""
    scores = draw_scores((64, 65), 0, 'a')
    for n in range(2, 65):
        owner = partition(scores, n, granularity)
        assert (module_masks(owner, n).sum(0) == 1).all()
        count = sizes(owner, n, axis)
        assert int(count.max() - count.min()) <= 1


@pytest.mark.parametrize('n', [2, 3, 4, 49])
def test_equal_scores_are_partitioned(n):
    """Property 4: ties at every cut, and the N that floats get wrong."""
    for scores in (torch.zeros(8, 49), torch.arange(392.).view(8, 49) // 3):
        owner = partition(scores, n)
        count = sizes(owner, n)
        assert int(count.sum()) == 392
        assert int(count.max() - count.min()) <= 1


def test_more_than_256_modules():
    """Property 1: owners do not wrap around."""
    owner = partition(draw_scores((40, 40), 0, 'a'), 300)
    assert owner.dtype == torch.int16 and int(owner.max()) == 299


def test_masks_depend_on_seed_and_name_only():
    """Property 5: and never on the global generator or the order."""
    torch.manual_seed(1)
    first = draw_scores((5, 6), 3, 'x')
    torch.manual_seed(2)
    assert torch.equal(first, draw_scores((5, 6), 3, 'x'))
    assert not torch.equal(first, draw_scores((5, 6), 3, 'y'))
    assert not torch.equal(first, draw_scores((5, 6), 4, 'x'))


def test_sparse_mask_has_the_density_of_a_module():
    """Specification a.8."""
    mask = sparse_mask(draw_scores((8, 10), 0, 'a'), 4)
    assert int(mask.sum()) == 80 - int(0.75 * 80)


@pytest.mark.parametrize('shape,granularity,text', [
    ((2, 3), 'element', 'at most 6'), ((9, 3), 'row', 'each row'),
    ((3, 9), 'column', 'each column'), ((3, ), 'row', 'at most 3')
])
def test_more_modules_than_elements(shape, granularity, text):
    """A module that owns nothing is refused, with the remedy."""
    with pytest.raises(ValueError, match=text):
        check_partition(shape, 7, granularity, 'up.weight')


def test_unknown_names():
    with pytest.raises(ValueError, match="'element', 'row', 'column'"):
        check_partition((4, 4), 2, 'blocks', 'up.weight')
    with pytest.raises(ValueError, match="'mean', 'union'"):
        check_merge_mode('sum')


def test_compact_and_replicated_merges_agree():
    """Modes ``mean``, ``union``, ``official_joint`` on both storages."""
    init = torch.randn(6, 5, dtype=torch.float64)
    owner = partition(draw_scores((6, 5), 0, 'a'), 4)
    values = torch.randn(6, 5, dtype=torch.float64)
    modules = torch.where(module_masks(owner, 4), values, init)
    for mode in ('mean', 'union', 'official_joint'):
        torch.testing.assert_close(
            merge_compact(values, init, 4, mode),
            merge_modules(modules, owner, mode), rtol=0, atol=1e-14)
    torch.testing.assert_close(
        merge_modules(modules, owner, 'mean'), modules.mean(0))
    assert torch.equal(merge_modules(modules, owner, 'union'), values)


def test_unsplit_biases():
    """Averaged, except that ``official_joint`` takes the last over N."""
    biases = torch.randn(3, 5)
    assert torch.equal(merge_modules(biases, None, 'mean'), biases.mean(0))
    assert torch.equal(merge_modules(biases, None, 'union'), biases.mean(0))
    assert torch.equal(
        merge_modules(biases, None, 'official_joint'), biases[2] / 3)


def test_union_is_n_times_mean_from_zero():
    """Property 11: with a zero start, on split weights."""
    owner = partition(draw_scores((6, 5), 0, 'a'), 4)
    values = torch.where(
        module_masks(owner, 4), torch.randn(6, 5, dtype=torch.float64), 0.)
    torch.testing.assert_close(
        merge_modules(values, owner, 'union'),
        4 * merge_modules(values, owner, 'mean'))


def test_consistency_term():
    """Property 14: zero and without gradient for equal logits, symmetric,
    its targets without gradient, float32 for half precision."""
    z = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    value = symmetric_kl(z, z)
    assert float(value.detach()) == 0
    grad, = torch.autograd.grad(value, z)
    assert float(grad.abs().max()) < 1e-15
    a, b = torch.randn(2, 4, 7, dtype=torch.float64)
    torch.testing.assert_close(symmetric_kl(a, b), symmetric_kl(b, a))
    a.requires_grad_()
    log_p, log_q = a.log_softmax(1), b.log_softmax(1)
    # Only the half that is not detached moves a.
    expected, = torch.autograd.grad(
        0.5 * (log_q.exp() * (log_q - log_p)).sum(1).mean(), a)
    actual, = torch.autograd.grad(symmetric_kl(a, b), a)
    torch.testing.assert_close(actual, expected)
    half = symmetric_kl(a.bfloat16(), b.bfloat16())
    assert half.dtype == torch.float32


def test_consistency_term_averages_over_pixels():
    """Property 14 on a segmentation map: the mean of all pixels' terms."""
    a, b = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)

    def flat(z):
        return z.permute(0, 2, 3, 1).reshape(-1, 3)

    torch.testing.assert_close(
        symmetric_kl(a, b), symmetric_kl(flat(a), flat(b)))


def test_deep_term_divides_by_all_blocks():
    """Property 14: fewer than six blocks work, both sides have gradients."""
    first = [torch.randn(2, 3, requires_grad=True) for _ in range(3)]
    second = [torch.randn(2, 3, requires_grad=True) for _ in range(3)]
    value = deep_alignment(first, second, 12)
    expected = sum((a - b).square().mean() for a, b in zip(first, second)) / 12
    torch.testing.assert_close(value, expected)
    value.backward()
    assert torch.equal(first[0].grad, -second[0].grad)
