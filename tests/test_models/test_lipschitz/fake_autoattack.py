# Copyright (c) mmext contributors. All rights reserved.
"""Stands in for the packages that have AutoAttack."""
import sys
from types import ModuleType
from typing import List

import torch


class FakeAutoAttack:
    """Moves every image by eps, as no defence does; remembers its calls."""

    calls: List[dict] = []

    def __init__(self, model, norm, eps, **options):
        assert norm == 'Linf' and not model.training
        assert next(model.parameters()).device
        self.model, self.eps, self.options = model, eps, options

    def attack(self, x, y):
        """Images after the attack."""
        assert torch.is_grad_enabled() and 0 <= x.min() and x.max() <= 1
        assert len(self.model(x)) == len(y)
        self.calls.append(dict(self.options, eps=self.eps, x=x, y=y))
        return (x + self.eps).clamp(0, 1)


class FakeTorchattacks(FakeAutoAttack):
    """The interface of torchattacks."""

    def __call__(self, x, y):
        assert self.options['n_classes'] == self.model(x).shape[1]
        return self.attack(x, y)


class FakeOriginal(FakeAutoAttack):
    """The interface of the authors' package."""

    def run_standard_evaluation(self, x, y, bs):
        assert bs == len(x) and self.options['device'] == x.device
        return self.attack(x, y)


FAKES = dict(torchattacks=FakeTorchattacks, autoattack=FakeOriginal)


def install(monkeypatch, package: str = 'torchattacks') -> List[dict]:
    """Make one package, and only that, importable.

    Returns:
        list[dict]: Grows by the options, ``eps``, ``x`` and ``y`` of each
        attack.
    """
    module = ModuleType(package)
    module.AutoAttack = FAKES[package]
    calls: List[dict] = []
    monkeypatch.setattr(FakeAutoAttack, 'calls', calls)
    monkeypatch.setitem(sys.modules, package, module)
    monkeypatch.setattr('mmext.models.lipschitz.attacks.has',
                        lambda name: name == package)
    monkeypatch.setattr('mmext.models.lipschitz.attacks.require',
                        lambda name, needed_by: sys.modules[name])
    return calls
