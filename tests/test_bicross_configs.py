# Copyright (c) mmext contributors. All rights reserved.
"""The stages of BiCross's configs fit together, in every setting.

That each config builds is tested in ``test_configs.py``.
"""
from pathlib import Path

import pytest
from mmengine.config import Config

FOLDER = Path(__file__).resolve().parents[1] / 'configs' / 'bicross'
SETTINGS = [
    'vkitti2_kitti', 'vkitti2_kitti-partial', 'cloudy_foggy', 'cloudy_rainy',
    'sunny_foggy', 'sunny_rainy', 'kitti_drivingstereo', 'nyu_respike',
    'streetworld'
]
THIRD = [
    path.stem for path in sorted(FOLDER.glob('*.py'))
    if 'stages' in Config.fromfile(str(path))
]


def load(name):
    return Config.fromfile(str(FOLDER / name))


def estimator(cfg):
    """What has to be equal in all stages."""
    model = cfg.model
    model = model.get('student') or model.get('model') or model
    model = model.to_dict()
    model['backbone'] = dict(model['backbone'], in_channels=0, init_cfg=None)
    return {key: value for key, value in model.items() if key != 'temporal'}


def part(dataset):
    """Which data a data set config names."""
    keys = ('type', 'data_root', 'ann_file', 'weather', 'domain', 'focal',
            'camera')
    return {key: dataset.get(key) for key in keys}


def test_every_published_setting_has_a_config():
    assert {f'bicross_{one}' for one in SETTINGS} <= set(THIRD)


@pytest.mark.stack_subset
@pytest.mark.parametrize('name', THIRD)
def test_stages_fit_together(name):
    names = load(f'{name}.py').stages
    assert names.stage3 == f'{name}.py'
    one, two, three = (load(names[f'stage{i}']) for i in (1, 2, 3))
    assert estimator(one) == estimator(two) == estimator(three)
    assert one.model.backbone.in_channels == 3
    assert two.model.student.backbone.in_channels == 128
    assert three.model.model.backbone.in_channels == 128
    assert two.model.student.get('temporal') == \
        three.model.model.get('temporal')
    for cfg, start, before in ((two, two.model.teacher_ckpt, 'stage1'),
                               (three, three.load_from, 'stage2')):
        folder, file = Path(start).parts[-2:]
        earlier = load(names[before])
        assert folder == Path(names[before]).stem
        assert file == f'epoch_{earlier.train_cfg.max_epochs}.pth'
    # the same source in all stages
    sources = [
        one.train_dataloader.dataset, two.train_dataloader.dataset,
        three.train_dataloader.dataset.source
    ]
    assert part(sources[0]) == part(sources[1]) == part(sources[2])


@pytest.mark.parametrize('name', THIRD)
def test_labels_of_the_target_choose_nothing(name):
    """Only the preset of the published code validates on the target."""
    cfg = load(f'{name}.py')
    data = cfg.train_dataloader.dataset
    assert 'depth' not in data.target.get('modalities', ('spike', ))
    steps = [step['type'] for step in data.target.pipeline]
    assert 'mmext.LoadDepth' not in steps
    for step in data.target.pipeline:
        if step['type'] == 'mmext.RenderStreetWorldSpikes':
            assert 'gt_depth_map' not in step['keys']
    chosen, test = cfg.val_dataloader.dataset, cfg.test_dataloader.dataset
    assert (part(chosen) == part(test)) == ('_code_' in name)
    # ann_file of Eigen's split names one list for each
    same = ('type', 'weather', 'domain')
    assert [test.get(key) for key in same] == \
        [data.target.get(key) for key in same]
