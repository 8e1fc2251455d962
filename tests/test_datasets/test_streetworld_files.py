# Copyright (c) mmext contributors. All rights reserved.
"""Writer, tool, on-the-fly data set and shipped weights of StreetWorld."""
import json
import os.path as osp
from importlib.util import module_from_spec, spec_from_file_location

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader

from mmext.datasets.streetworld.source import (load_source_weights,
                                               source_weights_path)
from mmext.datasets.streetworld.writer import MANIFEST, Part, Writer
from mmext.utils.io import safe_load, sha256_file

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
TOOL = osp.join(ROOT, 'tools', 'dataset_converters', 'streetworld.py')
SIZE = (64, 128)
PARTS = (Part('clear', 'train', 2), Part('fog', 'train', 2))
FILE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> str:
    out = str(tmp_path_factory.mktemp('streetworld'))
    writer = Writer(out, SIZE, depth=True)
    assert [writer.write(p) for p in PARTS] == [2, 2]
    return out


def _dataset(**kwargs):
    init_default_scope('mmseg')
    return DATASETS.build(kwargs)


def _fog(**kwargs):
    return _dataset(
        type='mmext.StreetWorldDataset',
        domain='fog',
        frames=2,
        size=SIZE,
        **kwargs)


def test_layouts_are_read_by_the_usual_classes(root):
    clear = _dataset(
        type='CityscapesDataset',
        data_root=root,
        data_prefix=dict(
            img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=FILE)
    fog = _dataset(
        type='mmext.ACDCDataset',
        data_root=root,
        data_prefix=dict(
            img_path='rgb_anon/fog/train', seg_map_path='gt/fog/train'),
        pipeline=FILE)
    for data in (clear, fog):
        assert len(data) == 2
        item = data[1]
        assert tuple(item['inputs'].shape) == (3, *SIZE)
        labels = item['data_samples'].gt_sem_seg.data
        assert tuple(labels.shape) == (1, *SIZE)
        assert set(np.unique(labels)) <= set(range(19))


def test_frames_drawn_in_memory_equal_the_files(root):
    files = _dataset(
        type='mmext.ACDCDataset',
        data_root=root,
        data_prefix=dict(
            img_path='rgb_anon/fog/train', seg_map_path='gt/fog/train'),
        pipeline=FILE)
    drawn = _fog(pipeline=[
        dict(type='mmext.RenderStreetWorld'),
        dict(type='PackSegInputs')
    ])
    assert len(drawn) == 2
    for i in range(2):
        a, b = files[i], drawn[i]
        assert np.array_equal(a['inputs'], b['inputs'])
        assert np.array_equal(a['data_samples'].gt_sem_seg.data,
                              b['data_samples'].gt_sem_seg.data)
    names = [
        osp.basename(d[0]['data_samples'].img_path) for d in (files, drawn)
    ]
    assert names[0].replace('_rgb_anon', '') == names[1]


def test_written_depth_is_metres_times_256(root):
    data = _fog(pipeline=[
        dict(
            type='mmext.RenderStreetWorld',
            keys=('img', 'gt_seg_map', 'gt_depth_map'))
    ])
    item = data[0]
    name = osp.basename(item['img_path'])[:-4]
    sequence = name.split('_')[0]
    path = osp.join(root, 'depth/fog/train', sequence, f'{name}_depth.png')
    written = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint16
    assert np.abs(written / 256 - item['gt_depth_map']).max() < 1 / 256
    assert item['seg_fields'] == ['gt_seg_map', 'gt_depth_map']
    assert item['camera_pose'].shape == (4, 4)


def test_labels_may_stay_at_full_size():
    data = _fog(pipeline=[
        dict(type='mmext.RenderStreetWorld', keys=('img', )),
        dict(type='Resize', scale=(64, 32), keep_ratio=True),
        dict(type='mmext.RenderStreetWorld', keys=('gt_seg_map', )),
        dict(type='PackSegInputs')
    ])
    item = data[0]
    assert tuple(item['inputs'].shape) == (3, 32, 64)
    sample = item['data_samples']
    assert tuple(sample.gt_sem_seg.data.shape) == (1, *SIZE)
    assert sample.ori_shape == SIZE and sample.img_shape == (32, 64)


def test_own_choice_of_classes():
    pipeline = [dict(type='mmext.RenderStreetWorld')]
    data = _fog(
        metainfo=dict(classes=('road', 'sky', 'car')), pipeline=pipeline)
    assert set(np.unique(data[0]['gt_seg_map'])) <= {0, 1, 2, 255}


def test_other_data_are_refused():
    from mmext.datasets.streetworld_dataset import RenderStreetWorld
    with pytest.raises(KeyError, match='StreetWorldDataset'):
        RenderStreetWorld().transform(dict(img_path='a.png'))
    with pytest.raises(ValueError, match='gt_depth_map'):
        RenderStreetWorld(keys=('depth', ))


def test_second_run_writes_nothing_and_settings_do_not_mix(root):
    writer = Writer(root, SIZE, depth=True)
    assert [writer.write(p) for p in PARTS] == [0, 0]
    with pytest.raises(ValueError, match='Choose another --out'):
        Writer(root, SIZE, seed=1, depth=True)
    with pytest.raises(ValueError, match='with 2 frames'):
        writer.write(Part('fog', 'train', 3))


def test_an_interrupted_part_is_written_again(tmp_path):

    class Stop(Exception):
        pass

    def stop():
        raise Stop

    writer = Writer(str(tmp_path), (32, 64))
    with pytest.raises(Stop):
        writer.write(Part('clear', 'val', 2), stop)
    held = json.loads((tmp_path / MANIFEST).read_text())
    assert held['parts']['clear/val']['complete'] is False
    assert Writer(str(tmp_path), (32, 64)).write(Part('clear', 'val', 2)) == 2


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / 'leftImg8bit').mkdir()
    with pytest.raises(ValueError, match='not frames of this tool'):
        Writer(str(tmp_path))
    (tmp_path / MANIFEST).write_text('{"settings": ')
    with pytest.raises(ValueError, match=f'{MANIFEST} is damaged'):
        Writer(str(tmp_path))


def test_tool(tmp_path, capsys):
    spec = spec_from_file_location('streetworld_tool', TOOL)
    tool = module_from_spec(spec)
    spec.loader.exec_module(tool)
    options = ['--out', str(tmp_path / 'data'), '--size', '32', '64']
    parts = ['--frames', '1', '--domains', 'night', 'dusk']
    assert tool.main(options + parts) == 0
    assert '2 frames written' in capsys.readouterr().out
    assert tool.main(options + parts) == 0
    assert 'nothing to do' in capsys.readouterr().out
    assert tool.main(options + parts + ['--seed', '4']) == 2
    assert 'Choose another --out' in capsys.readouterr().err
    quick = tool.parts_of(tool.parse_args(['--quick']))
    assert [(p.key, p.frames) for p in quick
            ] == [(f'{d}/train', 25) for d in ('fog', 'night', 'rain', 'snow')]
    whole = tool.parts_of(tool.parse_args([]))
    assert [(p.key, p.frames) for p in whole[:3]] == [('clear/train', 600),
                                                      ('clear/val', 60),
                                                      ('fog/train', 100)]
    with pytest.raises(SystemExit):
        tool.parse_args(['--frames', '0'])


def test_shipped_weights():
    path = source_weights_path()
    assert sha256_file(path) == SHA256
    assert osp.getsize(path) < 8e6
    name = 'mmext://streetworld/segformer-b0_clear'
    loaded = CheckpointLoader.load_checkpoint(name, 'cpu')
    state = load_source_weights()['state_dict']
    assert loaded['state_dict'].keys() == state.keys()
    assert set(safe_load(path)) == set(state)
    assert len(loaded['meta']['dataset_meta']['classes']) == 19
    with pytest.raises(FileNotFoundError, match='there is mmext://'):
        CheckpointLoader.load_checkpoint('mmext://streetworld/none', 'cpu')


@pytest.mark.parametrize(
    'frames, scores',
    [(15, dict(aAcc=83.9, mIoU=36.2)),
     pytest.param(60, dict(aAcc=86.8, mIoU=49.4), marks=pytest.mark.slow)])
def test_shipped_weights_fit_the_config_and_score(frames, scores):
    """Scores on clear validation frames, read at 128x256 as trained."""
    import torch
    from mmseg.evaluation import IoUMetric
    init_default_scope('mmseg')
    cfg = Config.fromfile(
        osp.join(ROOT, 'configs/svdp/streetworld_source_segformer-b0.py'))
    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(load_source_weights()['state_dict'], strict=True)
    data = _dataset(
        type='mmext.StreetWorldDataset',
        split='val',
        frames=frames,
        test_mode=True,
        pipeline=[
            dict(type='mmext.RenderStreetWorld', keys=('img', )),
            dict(type='Resize', scale=(256, 128), keep_ratio=True),
            dict(type='mmext.RenderStreetWorld', keys=('gt_seg_map', )),
            dict(type='PackSegInputs')
        ])
    metric = IoUMetric()
    metric.dataset_meta = data.metainfo
    for item in data:
        batch = dict(
            inputs=[item['inputs']], data_samples=[item['data_samples']])
        with torch.no_grad():
            out = model.test_step(batch)
        metric.process({}, [o.to_dict() for o in out])
    found = metric.evaluate(frames)
    for name, score in scores.items():
        assert found[name] == pytest.approx(score, abs=1), found


SHA256 = '8d201c97428d06e9eefdd6df820904b59538fee6bc7b12798ab457c24f0d999b'
