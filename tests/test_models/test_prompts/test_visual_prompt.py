# Copyright (c) mmext contributors. All rights reserved.
"""The prompts as modules."""
import torch

from mmext.models.prompts import DenseVisualPrompt, SparseVisualPrompt
from mmext.models.prompts.functional import place_prompts
from mmext.registry import MODELS


def test_registered():
    """Both build from a config."""
    prompt = MODELS.build(
        dict(type='mmext.SparseVisualPrompt', size=(540, 960)))
    assert prompt.patch.shape == (518, 3, 1, 1)
    dense = MODELS.build(dict(type='mmext.DenseVisualPrompt', size=(4, 6)))
    assert dense.specific.shape == dense.agnostic.shape == (3, 4, 6)


def test_seed_leaves_the_global_generator_alone():
    """Start values depend on the seed, not on torch's generator."""
    state = torch.get_rng_state()
    first = SparseVisualPrompt((40, 60), 0.1, seed=5)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(first.patch,
                       SparseVisualPrompt((40, 60), 0.1, seed=5).patch)
    other = SparseVisualPrompt((40, 60), 0.1, seed=6)
    assert not torch.equal(first.patch, other.patch)
    fresh = [SparseVisualPrompt((4, 4), 1.).patch for _ in range(2)]
    assert not torch.equal(*fresh)


def test_start_values_are_normal():
    """N(0, std^2), in normalised units."""
    patch = SparseVisualPrompt((540, 960), 0.02, std=0.5, seed=0).patch
    assert abs(float(patch.detach().mean())) < 0.02
    assert abs(float(patch.detach().std()) - 0.5) < 0.02


def test_sparse_forward():
    """The image changes at the positions only."""
    prompt = SparseVisualPrompt((6, 8), 0.25, seed=0)
    where = place_prompts(torch.rand(6, 8), 12)
    x = torch.randn(2, 3, 6, 8)
    changed = (prompt(x, where) != x).any(1).flatten(1)
    expected = torch.zeros(48, dtype=torch.bool)
    expected[where] = True
    assert torch.equal(changed, expected.expand(2, -1))


def test_dense_starts_from_the_plain_image():
    """With std=0 the prompted image is the image, at any size."""
    prompt = DenseVisualPrompt((6, 8))
    for size in ((6, 8), (9, 12)):
        x = torch.randn(1, 3, *size)
        assert torch.equal(prompt(x), x)


def test_dense_forward():
    """Two maps add up; a mirrored view takes the mirrored sum."""
    prompt = DenseVisualPrompt((6, 8), std=1., seed=1)
    x = torch.zeros(1, 3, 6, 8)
    total = (prompt.specific + prompt.agnostic)[None]
    assert torch.equal(prompt(x), total)
    assert torch.equal(prompt(x, flip=True), total.flip(-1))
    assert prompt(torch.zeros(1, 3, 12, 16)).shape == (1, 3, 12, 16)
    prompt(x).sum().backward()
    assert (prompt.agnostic.grad == 1).all()
