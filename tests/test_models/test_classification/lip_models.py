# Copyright (c) mmext contributors. All rights reserved.
"""Tiny l-infinity classifiers and data that they can learn."""
import functools
import math
from copy import deepcopy
from typing import Any, List, Tuple, Union

import torch
from mmengine.registry import DefaultScope, init_default_scope
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from mmext.models.lipschitz.p_norm import set_p
from mmext.registry import MODELS

SIZE, CLASSES = 6, 4
PREPROCESSOR = dict(mean=[100.], std=[60.])


def lip_head(**options: Any) -> dict:
    """Class layer of distance neurons."""
    return dict(
        dict(
            type='mmext.LipClsHead',
            num_classes=CLASSES,
            in_channels=24,
            eps_train=0.05), **options)


def mlp_head(**options: Any) -> dict:
    """The "++" head."""
    return dict(
        dict(
            type='mmext.BoundMLPHead',
            num_classes=CLASSES,
            in_channels=24,
            hidden=12,
            eps_train=0.02,
            kappa=0.5,
            loss=dict(type='mmext.LipCrossEntropyLoss')), **options)


HEADS = dict(lip=lip_head, mlp=mlp_head)


def mlp_body(**options: Any) -> dict:
    """Two distance layers of 24 neurons."""
    return dict(
        dict(
            type='mmext.LipMLP',
            in_channels=1,
            img_size=SIZE,
            depth=2,
            width=24 / 1024), **options)


def classifier(head: Any = 'lip',
               body: Any = None,
               certify: Any = None,
               **options: Any) -> dict:
    """Config of a ``LipschitzClassifier``."""
    model = dict(
        type='mmext.LipschitzClassifier',
        data_preprocessor=deepcopy(PREPROCESSOR),
        backbone=body or mlp_body(),
        head=HEADS[head]() if isinstance(head, str) else head)
    if certify is not None:
        model['test_cfg'] = dict(certify=certify)
    model.update(options)
    return model


def build(model: dict, seed: int = 0, p: float = None, scale: float = 1.):
    """Build, at ``p`` (None: as it is) and in evaluation.

    ``scale`` multiplies the weights of a ``BoundMLPHead``: larger margins.
    """
    if DefaultScope.get_current_instance() is None:
        init_default_scope('mmpretrain')
    torch.manual_seed(seed)
    model = MODELS.build(deepcopy(model))
    if p is not None:
        set_p(model, p)
        model.eval()
    return model


def finished(model: dict, seed: int = 0):
    """At p = inf, in evaluation, running means of its own."""
    built = build(model, seed)
    set_p(built, math.inf)
    built.train()
    channels, *size = built.backbone.input_size
    shifts = [m for m in built.modules() if hasattr(m, 'running_mean')]
    for shift in shifts:
        shift.momentum = 1.
    with torch.no_grad():
        built(preprocessed(built, images(16, channels, tuple(size)))['inputs'])
    return built.eval()


@functools.lru_cache(maxsize=None)
def trained(head: str = 'lip', seed: int = 0) -> tuple:
    """A network that has seen its images for some steps, at p = inf, and
    one with the moving average of its weights."""
    model = build(classifier(head), seed)
    average = deepcopy(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), 0.03, eps=1e-10)
    data = preprocessed(model, images(64))
    for step in range(60):
        p = 8 * 2**(step / 4) if step < 28 else math.inf
        set_p(model, p)
        optimizer.zero_grad()
        model(**data, mode='loss')['loss'].backward()
        optimizer.step()
        for key, value in model.state_dict().items():
            average[key].lerp_(value, 0.1)
    other = build(classifier(head), seed, math.inf)
    other.load_state_dict(average)
    return model.eval(), other


def images(count: int = 12,
           channels: int = 1,
           size: Union[int, Tuple[int, int]] = SIZE,
           seed: int = 0) -> dict:
    """A batch of a dataloader: uint8 images of noisy class patterns."""
    shape = (channels, *(size if isinstance(size, tuple) else (size, size)))
    rng = torch.Generator().manual_seed(99)
    patterns = torch.randint(0, 256, (CLASSES, *shape), generator=rng)
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    noise = torch.randint(-40, 41, (count, *shape), generator=rng)
    pixels = (patterns[labels] + noise).clamp(0, 255).to(torch.uint8)
    return dict(inputs=pixels, data_samples=samples(labels))


def samples(labels: Any) -> List[DataSample]:
    """Data samples with these labels."""
    return [DataSample().set_gt_label(int(label)) for label in labels]


def preprocessed(model: Any, batch: dict) -> dict:
    """What the model's forward takes."""
    return model.data_preprocessor(
        dict(
            inputs=batch['inputs'].clone(),
            data_samples=deepcopy(batch['data_samples'])), False)


def predict(model: Any, batch: dict) -> list:
    """Predictions of a batch."""
    return model(**preprocessed(model, batch), mode='predict')


def stacked(predictions: list, name: str) -> torch.Tensor:
    """A field of all predictions."""
    return torch.stack([torch.as_tensor(s.get(name)) for s in predictions])


class Patterns(Dataset):
    """The images of :func:`images` as a data set for the Runner."""

    metainfo = dict(classes=tuple('abcd'))

    def __init__(self, size: int = 64, seed: int = 0, **options: Any) -> None:
        self.batch = images(size, seed=seed, **options)

    def __len__(self) -> int:
        return len(self.batch['inputs'])

    def __getitem__(self, index: int) -> dict:
        return dict(
            inputs=self.batch['inputs'][index],
            data_samples=deepcopy(self.batch['data_samples'][index]))
