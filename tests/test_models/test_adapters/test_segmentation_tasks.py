# Copyright (c) mmext contributors. All rights reserved.
"""Two tasks with heads of their own on one segmentation backbone."""
import copy

import pytest
import torch

pytest.importorskip('mmseg')

from mmext.models.adapters import (load_adapter, read_adapter,  # noqa: E402
                                   save_adapter)
from ...tiny_classifiers import move  # noqa: E402
from ...tiny_segmentors import tiny_config  # noqa: E402
from .common import scores  # noqa: E402
from .test_segmentation import batch, build  # noqa: E402


def test_decode_heads_of_two_tasks(tmp_path):
    """Properties 25 and 28: each decode head comes with its adapter, batch
    norm statistics included, and what the segmentor copied from it."""
    model = build(auxiliary=True)
    decode = copy.deepcopy(tiny_config('segformer', True)['decode_head'])
    decode['num_classes'] = 2
    classes = model.module.num_classes
    with pytest.raises(ValueError, match='auxiliary_head'):
        model.add_adapter('other', head=decode)
    model.add_adapter('other', head=dict(decode_head=decode))
    x, samples = batch()
    first = scores(model, x)
    model.set_active('other')
    move(model, 0.1)
    for sample in samples:
        sample.gt_sem_seg.data %= 2
    model.train()
    model.loss(x, samples)  # moves the statistics of the head in use
    second = scores(model, x)
    assert model.module.num_classes == second.shape[1] == 2
    save_adapter(model, tmp_path / 'other')
    kept = read_adapter(tmp_path / 'other')[1]
    assert [k for k in kept if k.endswith('running_mean')]
    model.set_active('default')
    assert model.module.num_classes == first.shape[1] == classes
    assert torch.equal(scores(model, x), first)

    move(model.module.mosa_tasks, 0.1)
    load_adapter(model, tmp_path / 'other')
    model.set_active('other')
    assert torch.equal(scores(model, x), second)
