# Copyright (c) mmext contributors. All rights reserved.
"""Our classification models in mmpretrain's hub."""
import copy

import numpy as np
import pytest
import torch

mmpretrain = pytest.importorskip('mmpretrain')

import mmext  # noqa: E402
from mmext.utils.config_io import load_config, read_model_index  # noqa: E402
from tests.processes import run_python  # noqa: E402
from ..tool_fixtures import ROOT  # noqa: E402

pytestmark = pytest.mark.stack_subset
TINY = dict(
    module=dict(
        backbone=dict(
            arch=dict(
                _delete_=True, embed_dims=8, num_layers=2, num_heads=2,
                feedforward_channels=16), init_cfg=None),
        head=dict(in_channels=8)),
    adapter=dict(bottleneck=4))
NAME = 'mosa_vit-base-p16_cub'


def test_classifiers_are_listed_and_segmentors_are_not():
    names = mmext.register_model_zoo()
    assert mmext.register_model_zoo() == names and NAME in names
    listed = mmpretrain.list_models()
    assert set(names) < set(listed)
    assert set(mmpretrain.list_models('mosa_')) <= set(
        mmpretrain.list_models(task='Image Classification'))
    for name, entry in read_model_index().items():
        cfg = load_config(str(ROOT / entry['Config']))
        assert (name in listed) == (cfg.default_scope == 'mmpretrain'), (
            f'{name}: a classifier needs Results with Task: Image '
            'Classification in its metafile, and nothing else does')


def tiny(**options):
    return mmpretrain.get_model(NAME, **copy.deepcopy(TINY), **options)


def test_get_model_and_inference(tmp_path):
    mmext.register_model_zoo()
    model = tiny()
    assert type(model).__name__ == 'MoSAModel' and not model.training
    image = np.zeros((50, 60, 3), np.uint8)
    result = mmpretrain.inference_model(model, image)
    assert len(result['pred_scores']) == 200
    # a checkpoint of a run is what ``pretrained`` takes
    with torch.no_grad():
        model.head.layers.head.bias.fill_(0.)
        model.head.layers.head.bias[7] = 50.
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'run.pth')
    again = tiny(pretrained=str(tmp_path / 'run.pth'))
    assert mmpretrain.inference_model(again, image)['pred_label'] == 7


def test_it_is_lazy():
    """``import mmext`` alone imports no host; ``mmext.apis`` registers."""
    code = ('import sys, mmext\n'
            'assert "mmpretrain" not in sys.modules\n'
            'import mmext.apis\n'
            'from mmpretrain.apis.model import ModelHub\n'
            f'assert ModelHub.has({NAME!r})')
    run_python(code)
