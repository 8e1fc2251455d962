# Copyright (c) mmext contributors. All rights reserved.
"""Frames handed over one at a time are adapted as a stream of files is."""
import gc
import os.path as osp

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

pytest.importorskip('mmseg')

from mmext.apis import StreamingAdapter  # noqa: E402
from mmext.apis.streaming_adapter import live_pipeline  # noqa: E402
from mmext.registry import DATASETS, LOOPS, TRANSFORMS  # noqa: E402
from mmext.utils.config_types import is_adaptation  # noqa: E402
from mmext.utils.io import safe_load  # noqa: E402
from mmext.utils.user_error import (BadFileError, ConfigError,  # noqa: E402
                                    UserError)
from ..test_engine.test_loops.common import (METHODS, SVDP,  # noqa: E402
                                             adaptation_config, predictions,
                                             run)
from ..toy_runs import quick_runner, tta_pipeline  # noqa: E402


def frames(runner):
    """The pictures of a run, in its order."""
    stream = runner.train_loop.stream
    return [stream.get_data_info(i)['img_path'] for i in range(len(stream))]


@pytest.mark.parametrize('name', ['svdp', 'tent', 'source'])
def test_same_predictions_as_a_run_over_files(name, tmp_path):
    cfg = adaptation_config(tmp_path, METHODS[name], domains=('fog', ),
                            count=3, save_predictions=True)
    whole = run(cfg)
    paths = frames(whole)
    expected = {osp.basename(k): v for k, v in predictions(whole).items()}
    assert len(paths) == len(expected) == 3
    with quick_runner():
        adapter = StreamingAdapter(cfg)
        for path in paths:
            labels = adapter(cv2.imread(path)).labels
            assert np.array_equal(labels.numpy(),
                                  expected[osp.basename(path)])
    adapter.save(str(tmp_path / 'new' / 'adapted.pth'))
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='path .*cannot be written'):
        adapter.save(str(tmp_path / 'file' / 'adapted.pth'))
    saved = safe_load(tmp_path / 'new' / 'adapted.pth')
    source = safe_load(cfg.load_from)['state_dict']
    assert set(saved['state_dict']) == set(source)
    changed = any(not torch.equal(saved['state_dict'][k], source[k])
                  for k in source)
    assert changed == (name != 'source')


def test_a_frame_by_its_path_and_wrong_frames(tmp_path):
    cfg = adaptation_config(tmp_path, SVDP, domains=('fog', ), count=1)
    adapter = StreamingAdapter(cfg)
    with pytest.raises(UserError, match='first frame'):
        adapter.save(str(tmp_path / 'no.pth'))
    with pytest.raises(BadFileError, match='gone.png'):
        adapter(str(tmp_path / 'gone.png'))
    with pytest.raises(ValueError, match='array of shape'):
        adapter(np.zeros((4, 4), np.uint8))
    stream = DATASETS.build(cfg.train_dataloader.dataset)
    with quick_runner():
        result = adapter(stream.get_data_info(0)['img_path'])
    assert result.uncertainty is not None
    with pytest.raises(ValueError, match='shape of the first'):
        adapter(np.zeros((4, 4, 3), np.uint8))


def test_configs_it_does_not_take(tmp_path):
    cfg = adaptation_config(tmp_path, SVDP, domains=('fog', ), count=1)
    cfg.train_cfg.type = 'IterBasedTrainLoop'
    with pytest.raises(ConfigError, match='TestTimeAdaptLoop'):
        StreamingAdapter(cfg)
    with pytest.raises(ConfigError, match='LoadImageFromFile'):
        live_pipeline([dict(type='mmext.RenderStreetWorld')])


@pytest.mark.parametrize('kind, classes', [
    ('CityscapesDataset', 19), ('mmseg.CityscapesDataset', 19),
    ('ADE20KDataset', 150), ('mmext.ACDCDataset', 19)
])
def test_data_sets_of_the_host(kind, classes, tmp_path):
    """A name without a scope is one of ``default_scope``, as in a run."""
    cfg = adaptation_config(tmp_path, SVDP, domains=('fog', ), count=1)
    data = cfg.train_dataloader.dataset.domains.fog
    data.type = kind
    cfg.train_dataloader.dataset = data
    found = StreamingAdapter(cfg)._frame['metainfo']['classes']
    assert len(found) == classes


def test_a_data_set_that_nobody_registered(tmp_path):
    cfg = adaptation_config(tmp_path, SVDP, domains=('fog', ), count=1)
    cfg.train_dataloader.dataset.domains.fog.type = 'StreetOfMine'
    with pytest.raises(ConfigError, match="'StreetOfMine'.*custom_imports"):
        StreamingAdapter(cfg)


def test_one_adapter_after_another(tmp_path):
    """Nothing of one that is gone is written to, nor its name kept."""
    cfg = adaptation_config(tmp_path, METHODS['tent'], domains=('fog', ),
                            count=1)
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    image = np.full((64, 96, 3), 90, np.uint8)
    labels, folders = [], []
    for _ in range(2):
        with quick_runner():
            adapter = StreamingAdapter(cfg)
            labels.append(adapter(image).labels)
        folders.append(adapter.runner.work_dir)
        assert osp.isdir(folders[-1])
        del adapter
        gc.collect()
        assert not osp.isdir(folders[-1])
    assert folders[0] != folders[1]
    assert torch.equal(*labels)


def test_types_that_are_classes(tmp_path):
    """New-style configs have the classes themselves as types."""
    cfg = adaptation_config(tmp_path, SVDP, domains=('fog', ), count=1)
    cfg.train_cfg.type = LOOPS.get('mmext.TestTimeAdaptLoop')
    assert is_adaptation(cfg) and is_adaptation(Config(cfg.to_dict()))
    StreamingAdapter(cfg)
    steps = live_pipeline([
        dict(type=TRANSFORMS.get('LoadImageFromFile'), to_float32=True),
        dict(type=TRANSFORMS.get('mmseg.LoadAnnotations'))
    ])
    assert steps == [
        dict(type='mmseg.LoadImageFromNDArray', to_float32=True)
    ]


def test_labels_are_left_out_of_every_branch():
    steps = live_pipeline(tta_pipeline())
    assert steps[0] == dict(type='mmseg.LoadImageFromNDArray')
    assert 'LoadAnnotations' not in str(steps)
    assert [len(t) for t in steps[1]['transforms']] == [3, 2, 1]
