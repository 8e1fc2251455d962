# Copyright (c) mmext contributors. All rights reserved.
import importlib.util
import json
import os
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mmext.utils.user_error import UserError
from ..data_fixtures import CAMVID_RUN, write_camvid
from ..tool_fixtures import ROOT, run_tool

TOOL = ROOT / 'tools' / 'dataset_converters' / 'camvid_weather.py'


@pytest.fixture
def root(tmp_path):
    return write_camvid(tmp_path / 'camvid', count=5)


def build(root, **kwargs):
    init_default_scope('mmseg')
    return DATASETS.build(
        dict(type='mmext.CamVidDataset', data_root=str(root), **kwargs))


def names(dataset):
    return [
        os.path.basename(dataset.get_data_info(i)['img_path'])[:-4]
        for i in range(len(dataset))
    ]


def test_frames_come_in_order_with_their_labels(root):
    dataset = build(root)
    assert names(dataset) == [
        f'{s}_{i:05d}' for s in ('0006R0', '0016E5') for i in range(5)
    ]
    info = dataset.get_data_info(7)
    assert info['sequence'] == '0016E5'
    assert info['seg_map_path'].endswith(
        os.path.join('labels', '0016E5', '0016E5_00002.png'))
    assert len(dataset.metainfo['classes']) == 11
    assert len(dataset.metainfo['palette']) == 11


def test_parts_of_a_sequence(root):
    one = dict(sequences='0016E5')
    assert names(
        build(root, every=2,
              **one)) == ['0016E5_00000', '0016E5_00002', '0016E5_00004']
    assert len(build(root, start=0.4, stop=0.8, **one)) == 2
    train = build(root, start={'0016E5': 0.4})
    validate = build(root, stop={'0016E5': 0.4}, **one)
    assert len(train) == 8 and len(validate) == 2
    assert not set(names(train)) & set(names(validate))


def test_frames_too_close_in_time_are_thinned(tmp_path):
    root = write_camvid(tmp_path, sequences=['S'], count=4)
    for folder, suffix in (('images', '.jpg'), ('labels', '.png')):
        for index, number in ((1, 30), (2, 32), (3, 60)):
            path = tmp_path / folder / 'S'
            os.replace(path / f'S_{index:05d}{suffix}',
                       path / f'S_{number:05d}{suffix}')
    found = names(build(root, sequences=['S'], min_gap=10))
    assert found == ['S_00000', 'S_00030', 'S_00060']


def test_pipelines_read_image_and_label(root):
    dataset = build(
        root,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')
        ])
    sample = dataset[0]
    assert sample['inputs'].shape == (3, 72, 96)
    label = sample['data_samples'].gt_sem_seg.data
    assert (label[:, :2] == 255).all() and (label[:, 2:] < 11).all()


def test_missing_frames_are_explained(root, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        build(tmp_path / 'nowhere')
    for part in ('0006R0', str(tmp_path / 'nowhere'), 'MMEXT_CAMVID',
                 'images/', 'streetworld'):
        assert part in str(error.value)
    shutil.rmtree(os.path.join(root, 'images', '0016E5'))
    os.makedirs(os.path.join(root, 'images', '0016E5'))
    with pytest.raises(FileNotFoundError, match='0016E5'):
        build(root)


def test_missing_labels_and_damaged_files_are_named(root):
    dataset = build(root, pipeline=[dict(type='LoadImageFromFile')])
    info = dataset.get_data_info(1)
    with open(info['img_path'], 'wb') as file:
        file.write(b'no picture')
    with pytest.raises(UserError, match=os.path.basename(info['img_path'])):
        dataset[1]
    os.remove(info['seg_map_path'])
    with pytest.raises(UserError, match='labels of 1 of 10 images') as error:
        build(root)
    assert info['seg_map_path'] in str(error.value)
    build(root, data_prefix=dict(img_path='images'))  # no label is needed


@pytest.mark.parametrize(
    'mistake',
    [dict(every=0),
     dict(start=0.5, stop=0.5),
     dict(stop=0.05),
     dict(stop={'0016E5': 1.5})])
def test_ranges_are_checked(root, mistake):
    with pytest.raises(ValueError, match='CamVidDataset'):
        build(root, **mistake)


@pytest.fixture
def weather(monkeypatch, capsys):
    """Run the weather tool in this process; return what it prints."""
    spec = importlib.util.spec_from_file_location('camvid_weather', TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def run(root, out, *more, code=0):
        command = [TOOL, '--src', root, '--out', out, *more]
        monkeypatch.setattr(sys, 'argv', [str(part) for part in command])
        assert tool.main() == code
        return ''.join(capsys.readouterr())

    return run


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob('*')) if path.is_file()
    }


def test_the_weather_tool_writes_domains_that_the_class_reads(
        root, tmp_path, weather):
    out = tmp_path / 'weather'
    weather(root, out, '--severity', '1', '2')
    first = contents(out)
    for domain in ('fog', 'night', 'rain', 'snow'):
        for severity in (1, 2):
            dataset = build(
                out / f'{domain}_{severity}', sequences=('Seq05VD', ))
            assert len(dataset) == 5
        info = dataset.get_data_info(3)
        with open(info['seg_map_path'], 'rb') as file:
            label = file.read()
        name = os.path.basename(info['seg_map_path'])
        original = os.path.join(root, 'labels', 'Seq05VD', name)
        with open(original, 'rb') as file:
            assert file.read() == label
        assert cv2.imread(info['img_path']).shape == (72, 96, 3)
    # again: nothing is made, nothing changes
    output = weather(root, out, '--severity', '1', '2')
    assert '5 frames made' not in output and '5 kept' in output
    assert contents(out) == first
    # a frame does not depend on the others
    some = tmp_path / 'some'
    weather(root, some, '--domains', 'snow', '--start', '0.6')
    for path, data in contents(some).items():
        assert first[path] == data
    assert len(contents(some)) == 5  # two frames, two labels, the record


def test_the_weather_tool_explains_mistakes(root, tmp_path, weather):
    out = tmp_path / 'weather'
    assert 'Seq99' in weather(root, out, '--sequence', 'Seq99', code=2)
    weather(root, out, '--domains', 'fog')
    output = weather(root, out, '--salt', '1', code=2)
    assert 'another --out' in output


SOURCE = """
_base_ = [{base!r}]
model = dict(
    data_preprocessor=dict(size=(64, 96)), backbone=dict(init_cfg=None))
""" + CAMVID_RUN
ADAPT = """
_base_ = [{base!r}]
plain = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 64), keep_ratio=False),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
views = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[[
            dict(type='Resize', scale=(72, 48), keep_ratio=False),
            dict(type='Resize', scale=(96, 64), keep_ratio=False)
        ],
                    [
                        dict(type='RandomFlip', prob=0.),
                        dict(type='RandomFlip', prob=1.)
                    ], [dict(type='LoadAnnotations')],
                    [dict(type='PackSegInputs')]])
]
real = dict(data_root={root!r}, every=5)
made = {{d: dict(data_root={out!r} + '/' + d + '_2', every=5)
        for d in ('fog', 'night', 'rain', 'snow')}}
train_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(rounds=1, domains=dict(
        dusk=dict(pipeline=views, **real),
        **{{d: dict(pipeline=views, **m) for d, m in made.items()}})))
test_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(domains=dict(
        dusk=dict(pipeline=plain, **real),
        **{{d: dict(pipeline=plain, **m) for d, m in made.items()}})))
load_from = {source!r}
"""


def write_config(path, text, base, **kwargs):
    base = str(ROOT / 'configs' / 'svdp' / f'{base}.py')
    path.write_text(text.format(base=base, **kwargs))
    return path


@pytest.mark.slow
def test_the_source_config_trains_by_the_tool(root, tmp_path):
    pytest.importorskip('timm')
    config = write_config(
        tmp_path / 'source.py', SOURCE, 'camvid_source_lite0', root=root)
    output = run_tool(
        'tools/train.py', config, '--work-dir', 'source', cwd=tmp_path)
    assert 'mIoU' in output
    last = tmp_path / 'source' / 'iter_2.pth'
    output = run_tool('tools/test.py', config, last, cwd=tmp_path)
    assert 'r1/day/mIoU' in output and 'r1/dusk/mIoU' in output


def test_the_adaptation_config_runs_by_the_tool(root, tmp_path, weather):
    pytest.importorskip('timm')
    out, source = tmp_path / 'weather', tmp_path / 'source.pth'
    weather(root, out)
    config = write_config(
        tmp_path / 'adapt.py',
        ADAPT,
        'camvid_lite0',
        root=root,
        out=str(out),
        source=str(source))
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    torch.save(dict(state_dict=model.state_dict()), source)
    run_tool('tools/train.py', config, '--work-dir', 'work', cwd=tmp_path)
    report = json.loads(
        (tmp_path / 'work' / 'adaptation_report.json').read_text())
    visited = report['report']['rounds']['r1']
    assert list(visited) == ['dusk', 'fog', 'night', 'rain', 'snow']
    assert all(result['frames'] == 1 for result in visited.values())


@pytest.mark.parametrize('name', [
    'camvid_source_lite0', 'camvid_source_vits_frozen',
    'camvid_source_segformer-b0'
])
def test_shipped_source_models_build_and_score_all_classes(name):
    init_default_scope('mmseg')
    config = Config.fromfile(ROOT / 'configs' / 'svdp' / f'{name}.py')
    if config.model.backbone.type == 'TIMMBackbone':
        pytest.importorskip('timm')
    config.model.backbone.init_cfg = None
    model = MODELS.build(config.model).eval()
    height, width = config.model.data_preprocessor.size
    with torch.no_grad():
        logits = model(torch.zeros(1, 3, height, width))
    assert logits.shape[1] == 11
    trained = any(p.requires_grad for p in model.backbone.parameters())
    assert trained == ('frozen' not in name)


def test_real_frames(camvid_root):
    counts = {'0006R0': 101, '0016E5': 305, 'Seq05VD': 171, '0001TP': 124}
    for sequence, count in counts.items():
        dataset = build(camvid_root, sequences=sequence)
        assert len(dataset) == count
        label = cv2.imread(
            dataset.get_data_info(count // 2)['seg_map_path'],
            cv2.IMREAD_UNCHANGED)
        assert label.shape == (360, 480)
        assert set(np.unique(label)) <= set(range(11)) | {255}
    # the shipped split: 68 frames validate, 258 of the other 338 train
    both = Config.fromfile(ROOT / 'configs/_base_/datasets/camvid.py')
    parts = []
    for loader in (both.train_dataloader, both.val_dataloader):
        options = dict(loader.dataset)
        options.update(data_root=str(camvid_root), pipeline=[])
        parts.append(names(DATASETS.build(options)))
    assert [len(part) for part in parts] == [258, 68]
    assert not set(parts[0]) & set(parts[1])
