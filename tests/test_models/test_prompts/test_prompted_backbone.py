# Copyright (c) mmext contributors. All rights reserved.
"""A prompted backbone keeps the plain backbone's state-dict keys."""
import pytest
import torch
import torch.nn as nn

from mmext.models.prompts import PromptedBackbone
from mmext.registry import MODELS


@MODELS.register_module(force=True)
class TinyBackbone(nn.Module):
    """Two layers; one is called ``backbone`` to make matters worse."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.backbone(x))


class Model(nn.Module):
    """A backbone as one of several parts, under a prefix of any depth."""

    def __init__(self, backbone, before=False) -> None:
        super().__init__()
        if before:
            self.a_neck = nn.Conv2d(4, 4, 1)
        self.backbone = backbone
        self.neck = nn.Conv2d(4, 4, 1)


class Wrapper(nn.Module):

    def __init__(self, model) -> None:
        super().__init__()
        self.module = model


def prompted():
    return PromptedBackbone(
        dict(type='TinyBackbone'),
        dict(type='mmext.SparseVisualPrompt', size=(8, 10),
             sparse_rate=0.1, seed=0))


CASES = dict(
    bare=lambda backbone: backbone,
    model=Model,
    neck_first=lambda backbone: Model(backbone, before=True),
    deeper=lambda backbone: Wrapper(Model(backbone, before=True)))


@pytest.mark.parametrize('case', CASES)
def test_keys_are_plain_under_any_prefix(case):
    """Saved keys are the plain model's plus ``prompt.patch``."""
    plain = CASES[case](TinyBackbone())
    ours = CASES[case](prompted())
    extra = set(ours.state_dict()) - set(plain.state_dict())
    assert len(extra) == 1 and extra.pop().endswith('prompt.patch')
    assert set(plain.state_dict()) < set(ours.state_dict())


@pytest.mark.parametrize('case', CASES)
def test_checkpoints_pass_both_ways(case):
    """A plain checkpoint loads; ours loads back strictly, bit-equal."""
    torch.manual_seed(0)
    plain, ours = CASES[case](TinyBackbone()), CASES[case](prompted())
    missing, unexpected = ours.load_state_dict(
        dict(plain.state_dict()), strict=False)
    assert [k.rsplit('.', 2)[-2:] for k in missing] == [['prompt', 'patch']]
    assert not unexpected
    for key, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)
    with torch.no_grad():
        for param in ours.parameters():
            param.add_(1.)
    other = CASES[case](prompted())
    other.load_state_dict(ours.state_dict(), strict=True)
    for key, value in ours.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)
    back = CASES[case](TinyBackbone())
    missing, unexpected = back.load_state_dict(ours.state_dict(),
                                               strict=False)
    assert not missing and len(unexpected) == 1


def test_missing_keys_are_reported():
    """A partial checkpoint is still noticed."""
    ours = Model(prompted())
    state = dict(Model(TinyBackbone()).state_dict())
    del state['backbone.backbone.weight']
    with pytest.raises(RuntimeError, match='backbone.backbone.weight'):
        ours.load_state_dict(state)


def test_forward():
    """Without positions the plain image passes; with them a prompted one."""
    backbone = prompted().eval()
    x = torch.randn(1, 3, 8, 10)
    plain = backbone.backbone(x)
    assert torch.equal(backbone(x), plain)
    backbone.place(torch.rand(8, 10))
    assert not torch.equal(backbone(x), plain)
    backbone(x).sum().backward()
    assert backbone.prompt.patch.grad.abs().sum() > 0
    # Another size has no positions, so nothing is added.
    y = torch.randn(1, 3, 6, 6)
    assert torch.equal(backbone(y), backbone.backbone(y))
