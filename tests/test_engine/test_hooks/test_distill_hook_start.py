# Copyright (c) mmext contributors. All rights reserved.
"""What stage 3 starts from."""
from types import SimpleNamespace

import pytest

pytest.importorskip('mmseg')
pytest.importorskip('timm')

from mmext.engine.hooks import DistillHook
from ...test_models.test_depth.stage_models import build

FILE = dict(type='Pretrained', checkpoint='stage2.pth')


def told(model, **runner):
    """Warnings while training begins."""
    found = []
    runner = dict(
        dict(
            model=model,
            hooks=[],
            iter=0,
            _load_from=None,
            optim_wrapper=SimpleNamespace(_accumulative_counts=1),
            logger=SimpleNamespace(warning=found.append)), **runner)
    DistillHook().before_train(SimpleNamespace(**runner))
    return found


@pytest.mark.parametrize('options', [
    dict(),
    dict(init_cfg=dict(type='Normal', layer='Linear', std=0.01)),
])
def test_a_stage_3_from_random_weights_is_told(options):
    model = build('CrossDomainAdapter', losses=('sup', 'sca'), **options)
    assert [text for text in told(model) if 'RANDOM WEIGHTS' in text]


@pytest.mark.parametrize('options, runner', [
    (dict(), dict(_load_from='stage2.pth')),
    (dict(), dict(iter=7)),
    (dict(init_cfg=FILE), dict()),
    (dict(init_cfg=[dict(type='Normal', layer='Linear'), FILE]), dict()),
    (dict(model_options=dict(init_cfg=FILE)), dict()),
])
def test_a_stage_3_that_has_a_start(options, runner):
    model = build('CrossDomainAdapter', losses=('sup', 'sca'), **options)
    assert told(model, **runner) == []
