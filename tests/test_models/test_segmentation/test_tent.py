# Copyright (c) mmext contributors. All rights reserved.
"""TENT on toy segmentors."""
import math

import pytest
import torch
import torch.nn as nn

pytest.importorskip('mmseg')

from mmext.models.segmentation import SourceOnly, Tent  # noqa: E402
from mmext.models.segmentation.tent import mean_entropy  # noqa: E402
from ...tiny_segmentors import build_tiny  # noqa: E402
from ...toy_models import build_toy  # noqa: E402
from .common import BASE, REFERENCE, make_frame, snapshot, start  # noqa: E402


def by_type(model):
    kinds = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    return {
        id(p)
        for m in model.modules() if isinstance(m, kinds)
        for p in m.parameters(recurse=False)
    }


@pytest.mark.parametrize('build', [
    build_toy, lambda: build_tiny('segformer'),
    lambda: build_tiny('deeplabv3plus')
])
def test_norms_by_type(build):
    """Property 33: exactly the affine parameters of normalisation."""
    model = build()
    start(Tent(reference_view=REFERENCE), model)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert trained == by_type(model) and trained


def test_names_do_not_decide():
    """Property 33: MiT's stage norms are called ``layers.i.2``."""
    model = build_tiny('segformer')
    start(Tent(reference_view=REFERENCE), model)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {f'backbone.layers.{i}.2.weight' for i in range(4)} <= trained


@pytest.mark.parametrize('loss', ['pseudo_label', 'entropy'])
def test_step(loss):
    """Properties 16, 21, 33: the label before the step; norms move only."""
    method = Tent(loss=loss, reference_view=REFERENCE)
    model = build_toy()
    optim = start(method, model)
    source = SourceOnly(reference_view=REFERENCE)
    start(source)
    frame = make_frame()
    expected = source.step(frame, None).labels
    before = snapshot(model)
    result = method.step(frame, optim)
    assert torch.equal(result.labels, expected)
    after = snapshot(model)
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved == {
        'backbone.bn1.weight', 'backbone.bn1.bias', 'backbone.norm2.weight',
        'backbone.norm2.bias'
    }
    assert not any(m.training for m in model.modules())
    assert result.log['loss'] > 0


def test_only_the_reference_view_counts():
    """Property 33: other views make no difference."""
    states = []
    for seed in (0, 1):
        method = Tent(reference_view=REFERENCE)
        model = build_toy()
        optim = start(method, model)
        frame = make_frame(0)
        other = make_frame(seed)
        for i, view in enumerate(other.views):
            if i != REFERENCE:
                frame.views[i] = view
        method.step(frame, optim)
        states.append(snapshot(model))
    assert all(
        torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_entropy():
    """The mean entropy: log C when nothing is known, 0 when all is."""
    assert float(mean_entropy(torch.zeros(1, 5, 3, 4))) == pytest.approx(
        math.log(5))
    certain = torch.zeros(1, 5, 3, 4)
    certain[:, 2] = 1e4
    assert float(mean_entropy(certain)) == 0


def test_unknown_loss():
    """A loss that does not exist is refused."""
    with pytest.raises(ValueError, match="'pseudo_label' or 'entropy'"):
        Tent(loss='hinge')


def test_single_view_needs_no_index():
    """A plain test pipeline has one view, which is the reference."""
    method = Tent()
    optim = start(method)
    frame = make_frame(ratios=(1., ), flips=False)
    assert frame.views[0].size == BASE
    assert not method.step(frame, optim).skipped
