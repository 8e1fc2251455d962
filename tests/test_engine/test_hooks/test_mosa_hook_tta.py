# Copyright (c) mmext contributors. All rights reserved.
"""MoSA under ``tools/test.py --tta``, in both hosts."""
from copy import deepcopy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch.utils.data import Dataset

pytest.importorskip('mmpretrain')
pytest.importorskip('mmseg')

from mmengine.evaluator import BaseMetric  # noqa: E402

from mmext.engine.hooks import MoSAHook  # noqa: E402
from mmext.models.adapters import MoSAModel  # noqa: E402
from mmext.registry import MODELS  # noqa: E402
from ...test_models.test_adapters import test_segmentation as seg  # noqa: E402
from ...tiny_classifiers import adaptformer, labels, vit  # noqa: E402
from ...toy_runs import quick_runner  # noqa: E402


class Views(Dataset):
    """Two images in two views each."""

    metainfo = dict(classes=tuple('abcde'))

    def __init__(self, size, samples):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(2, 3, size, size, generator=generator)
        self.samples = samples

    def __len__(self):
        return 2

    def __getitem__(self, index):
        image = self.images[index]
        return dict(inputs=[image, 2 * image],
                    data_samples=[deepcopy(self.samples[index])] * 2)


class Count(BaseMetric):
    """How many images were predicted."""

    def process(self, data_batch, data_samples):
        self.results += [1] * len(data_samples)

    def compute_metrics(self, results):
        return dict(count=sum(results))


def segmentation():
    samples = seg.batch()[1]
    for sample in samples:
        sample.set_metainfo(dict(
            ori_shape=(32, 32), pad_shape=(32, 32), padding_size=[0] * 4,
            flip=False, flip_direction=None, img_path='a.png'))
    return 'mmseg', 'SegTTAModel', ConfigDict(seg.tuned()), Views(32, samples)


def classification():
    model = dict(type='mmext.MoSAModel', module=vit(), adapter=adaptformer())
    return 'mmpretrain', 'AverageClsScoreTTA', model, Views(16, labels(2))


@pytest.mark.parametrize('task', [classification, segmentation])
def test_views_are_averaged(tmp_path, task):
    """The hook finds the model inside; checkpoints load into it."""
    scope, kind, model, data = task()
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope(scope):
        source = MODELS.build(deepcopy(model))
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'a.pth')
    name = f'{tmp_path}'.replace('/', '_')
    with quick_runner():
        made = Runner(
            dict(type=kind, module=model), str(tmp_path),
            test_dataloader=dict(
                batch_size=2, num_workers=0, dataset=data,
                sampler=dict(type='DefaultSampler', shuffle=False)),
            test_cfg=dict(), test_evaluator=[Count()],
            custom_hooks=[dict(type='mmext.MoSAHook')],
            load_from=str(tmp_path / 'a.pth'), default_scope=scope,
            visualizer=dict(type='Visualizer', vis_backends=[], name=name),
            experiment_name=name)
        assert made.test() == dict(count=2)
    found = MoSAHook.model_of(made)
    assert isinstance(found, MoSAModel)
    for key, value in source.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key
