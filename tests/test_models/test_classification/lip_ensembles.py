# Copyright (c) mmext contributors. All rights reserved.
"""Averages of tiny l-infinity classifiers, and files of their members."""
import torch

from .lip_models import build, classifier, finished, lip_head

EPS = [0.002, 0.01, 0.03]

WIDE = dict(mean=[90.], std=[75.])


def ensemble(members, **options):
    """Config of a ``CertifiedEnsemble`` of these (module or dict)."""
    certify = options.pop('certify', dict(eps=EPS))
    return dict(
        type='mmext.CertifiedEnsemble',
        members=[m if 'model' in m else dict(model=m)
                 for m in members] if isinstance(members, list) else members,
        test_cfg=dict(certify=certify) if certify else None,
        **options)


class Module(dict):
    """A member that is built already."""

    def __init__(self, model, **options):
        super().__init__(model=model, **options)


def three(mixed=True):
    """Three networks: other seeds, heads, architectures, normalisations."""
    if not mixed:
        return [finished(classifier(), seed) for seed in range(3)]
    return [
        finished(classifier()),
        finished(classifier('mlp'), 1),
        finished(
            classifier(
                lip_head(in_channels=16),
                dict(
                    type='mmext.LipConv',
                    in_channels=1,
                    img_size=6,
                    width=2 / 32,
                    hidden=16),
                data_preprocessor=WIDE), 2),
    ]


def evaluated(model):
    """In evaluation, as a test runner has it."""
    return build(model).eval()


def saved(folder, name, model, **extra):
    """A member's checkpoint and the path."""
    path = str(folder / f'{name}.pth')
    torch.save(dict(state_dict=model.state_dict(), meta=dict(), **extra), path)
    return path
