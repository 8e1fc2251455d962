# Copyright (c) mmext contributors. All rights reserved.
"""Tiny wrappers of stages 2 and 3, their teachers, and what to feed them."""
import torch
from mmengine.registry import MODELS, init_default_scope

from tests.tiny_depth import depth_config, depth_sample

TICKS = 16


def build(kind, seed=0, model_options=None, **options):
    init_default_scope('mmseg')
    torch.manual_seed(seed)
    inner = depth_config(
        losses=True, in_channels=TICKS, **(model_options or {}))
    key = 'student' if kind == 'CrossModalityDistiller' else 'model'
    return MODELS.build(dict(type=f'mmext.{kind}', **{key: inner}, **options))


def distiller(**options):
    """A stage 2 with its teacher, and head sizes for a test."""
    options['ckd'] = dict(
        dict(hidden=8, out_channels=4), **options.get('ckd', {}))
    model = build('CrossModalityDistiller', **options)
    torch.manual_seed(1)
    model.attach_teacher(model.build_teacher())
    return model


def pairs(n=2):
    torch.manual_seed(5)
    return dict(
        inputs=dict(
            rgb=torch.randn(n, 3, 32, 64),
            spike=torch.randn(n, TICKS, 32, 64).sign()),
        data_samples=[depth_sample(40, 70) for _ in range(n)])


def domains(source=2, target=2):
    torch.manual_seed(6)
    return dict(
        inputs=dict(
            source=torch.randn(source, TICKS, 32, 64).sign(),
            target=torch.randn(target, TICKS, 32, 64).sign()),
        data_samples=dict(
            source=[depth_sample(40, 70) for _ in range(source)], target=[]))


def adapter(teacher_seed=3, **options):
    """A stage 3 with a teacher that is another network."""
    options.setdefault('warmup_iters', 0)
    model = build('CrossDomainAdapter', **options)
    teacher = build('CrossDomainAdapter', **dict(options, seed=teacher_seed))
    model.attach_teacher(teacher)
    return model


def train(model, batches, lr=1e-3):
    optimizer = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad], lr=lr)
    for batch in batches:
        losses = model(**batch, mode='loss')
        total = sum(v for k, v in losses.items() if 'loss' in k)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return losses


def same(one, other):
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(),
                                          other.state_dict().values()))
