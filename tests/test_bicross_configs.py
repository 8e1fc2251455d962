# Copyright (c) mmext contributors. All rights reserved.
"""The stages of BiCross's configs fit together, in every setting.

That each config builds is tested in ``test_configs.py``.
"""
import re
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

pytest.importorskip('mmseg')

from mmext.models.depth import (BiCrossDepthEstimator, CrossDomainAdapter,
                                CrossModalityDistiller)
from mmext.models.distillers import SigLoss, UncertaintyLoss
from mmext.utils.preflight import missing_pretrained

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


def schedule(cfg):
    """Batch, epochs, rates and learning policy of a stage."""
    wrapper = cfg.optim_wrapper
    rate = wrapper.optimizer.lr
    rates = {
        key: pytest.approx(rate * value.lr_mult)
        for key, value in wrapper.paramwise_cfg.custom_keys.items()
    }
    policy, = cfg.param_scheduler
    return dict(
        batch=cfg.train_dataloader.batch_size,
        drop_last=cfg.train_dataloader.drop_last,
        epochs=cfg.train_cfg.max_epochs,
        adam=(wrapper.optimizer.type, rate, *wrapper.optimizer.betas,
              wrapper.optimizer.eps, wrapper.optimizer.get('weight_decay', 0)),
        clip=wrapper.get('clip_grad'),
        rates=rates,
        policy=[
            policy[key]
            for key in ('type', 'factor', 'patience', 'threshold', 'rule')
        ])


def published(batch, epochs, backbone):
    """The table of section c.1 of the specification."""
    return dict(
        batch=batch,
        drop_last=True,
        epochs=epochs,
        adam=('Adam', 1e-4, 0.9, 0.999, 1e-8, 0),
        clip=None,
        rates=dict(
            backbone=backbone,
            reassemble=backbone,
            projection_=1e-5,
            domain_loss=1e-5),
        policy=['ReduceOnPlateauLR', 0.1, 10, 1e-4, 'less'])


def check_network(model, channels):
    """Section a.2 and a.3: outdoors, Garg's rectangle up to 80 m."""
    assert model.backbone.in_channels == channels
    assert (model.decode_head.scale, model.decode_head.shift) == (6.016e-5,
                                                                  0.00579)
    cfg = model.train_cfg
    assert (cfg.min_depth, cfg.max_depth, cfg.crop) == (1e-3, 80, 'garg')
    for loss, default in ((model.decode_head.loss_depth, SigLoss),
                          (model.uncertainty_head.loss_uncertainty,
                           UncertaintyLoss)):
        assert loss == dict(type=f'mmext.{default.__name__}')
    assert model.get('data_preprocessor').size == (384, 384)


def check_losses():
    """What the losses are where a config does not say it."""
    sig, uncertainty = SigLoss(), UncertaintyLoss()
    assert (sig.loss_weight, sig.eps, sig.mean_weight) == (1, 0.1, 0.15)
    assert (uncertainty.loss_weight, uncertainty.mode,
            uncertainty.detach_target) == (1, 'l1', False)


def merged(defaults, given):
    return dict(defaults, **(given or {}))


def test_numbers_of_the_preset_code():
    """Sections a.5 to a.7 and the column 'code' of section b."""
    check_losses()
    for third in ('ugmt', 'glfa'):
        names = load(f'{third}_code_vkitti2_kitti.py').stages
        assert dict(names) == dict(
            stage1='stage1_code_vkitti2.py',
            stage2='stage2_code_vkitti2.py',
            stage3=f'{third}_code_vkitti2_kitti.py')
    one, two = (load(f'stage{n}_code_vkitti2.py') for n in (1, 2))
    assert schedule(one) == published(16, 30, 1.1e-4)
    check_network(one.model, 3)
    assert schedule(two) == published(8, 10, 1.1e-4)
    model = two.model
    check_network(model.student, 128)
    assert model.student.get('temporal') is None
    assert model.get('teacher') is None and model.get('decay') is None
    assert model.get('stem', 'random') == 'random'
    kinds = CrossModalityDistiller
    assert merged(kinds.ckd_defaults, model.ckd) == dict(
        weight=0.01,
        path='decode_head.layer_4',
        teacher_path=None,
        in_channels=None,
        teacher_channels=None,
        hidden=512,
        out_channels=256,
        normalize=False,
        temperature=1,
        symmetric=False)
    assert merged(kinds.fkd_defaults, model.fkd) == dict(
        weight=0.01,
        path='decode_head.path_4',
        teacher_path=None,
        pixel_filter=None,
        connector=None)
    for third, losses, shared in (('ugmt', ('scp', ), True),
                                  ('glfa', ('sup', 'sca'), False)):
        cfg = load(f'{third}_code_vkitti2_kitti.py')
        assert schedule(cfg) == published(8, 20, 1.1e-4)
        check_third(cfg, losses, shared)
        # 4 means 3 there
        assert cfg.model.warmup_iters == 4 and cfg.model.warmup_off_by_one
        assert cfg.default_hooks.checkpoint.save_best == 'target/abs_rel'
        assert cfg.param_scheduler[0].monitor == 'target/val_sig'
        target = cfg.train_dataloader.dataset.target
        assert target.type == 'mmext.KITTIDepthDataset'
        assert target.ann_file == 'eigen_train_files.txt'


def check_third(cfg, losses, shared):
    """Section a.7."""
    model = cfg.model
    check_network(model.model, 128)
    assert tuple(model.losses) == losses
    scp = merged(CrossDomainAdapter.scp_defaults, model.scp)
    assert scp['weight'] == 1 and scp['loss'] == dict(type='mmext.SigLoss')
    assert scp['threshold'] == dict(type='quantile', q=0.5, per_image=False)
    sca = merged(CrossDomainAdapter.sca_defaults, model.sca)
    assert (sca['weight'], sca['beta'], sca['share_head'], sca['hidden'],
            sca['path']) == (0.1, 0.01, shared, 256, 'decode_head.layer_4')
    assert model.warmup_weight == 0.1 and model.get('strong_aug') is None
    mean, = (
        one for one in cfg.custom_hooks if one.type == 'mmext.MeanTeacherHook')
    assert (mean.decay, mean.evaluate, mean.save) == (0.999, 'student',
                                                      'student')
    assert mean.get('groups') is None and mean.get('update', 'iter') == 'iter'


def test_numbers_of_the_preset_paper():
    """What the figures draw: filters, a temporal module, both losses."""
    cfg = load('bicross_paper_vkitti2_kitti-partial.py')
    assert dict(cfg.stages) == dict(
        stage1='stage1_vkitti2.py',
        stage2='stage2_paper_vkitti2.py',
        stage3='bicross_paper_vkitti2_kitti-partial.py')
    one, two = (load(cfg.stages[f'stage{n}']) for n in (1, 2))
    assert schedule(one) == published(16, 30, 1e-5)
    assert schedule(two) == published(8, 10, 1e-5)
    assert schedule(cfg) == published(8, 20, 1e-5)
    assert two.model.student.temporal == dict(type='mmext.SpikeSE')
    assert cfg.model.model.temporal == dict(type='mmext.SpikeSE')
    assert (two.model.ckd.weight, two.model.fkd.weight) == (0.01, 0.01)
    assert two.model.fkd.pixel_filter == dict(
        rgb_q=0.5, spike_q=0.5, stat='quantile')
    check_third(cfg, ('sup', 'scp', 'sca'), True)
    assert cfg.model.warmup_iters == 3
    assert not cfg.model.get('warmup_off_by_one')
    data = cfg.train_dataloader.dataset
    assert data.target.type == 'mmext.PartialKITTIDataset'
    assert data.target.split == 'train' and 'drives' not in data.target


@pytest.mark.parametrize(
    'name',
    sorted(
        p.name for p in FOLDER.glob('*.py')
        if re.match(r'(stage1|pre-src)_(?!.*(streetworld|mmseg))', p.stem)))
def test_where_the_first_weights_come_from(name, tmp_path, monkeypatch):
    """The message of a missing file says it, without reading the config."""
    monkeypatch.chdir(tmp_path)
    message, = missing_pretrained(load(name))
    for part in ('checkpoints/vit-base-r50_in1k.pth', 'https://github.com/',
                 'jx_vit_base_resnet50_384-9fd3c705.pth',
                 'tools/model_converters/dpt_to_mmext.py',
                 '--cfg-options model.backbone.init_cfg=None'):
        assert part in message
    assert 'comments' not in message


# Section c.2: what is cut out of an image, and what the network sees.
ROADS, STEREO, ROOMS = ((352, 1216), 384), ((384, 864), 384), (None, 224)
INPUTS = dict(
    VKITTI2Dataset=ROADS,
    KITTIDepthDataset=ROADS,
    PartialKITTIDataset=ROADS,
    DrivingStereoDataset=STEREO,
    DrivingStereoWeatherDataset=STEREO,
    NYUDepthDataset=ROOMS,
    RespikeDataset=ROOMS)
PUBLISHED = sorted(
    p.name for p in FOLDER.glob('*.py') if 'streetworld' not in p.name)


def data_sets(cfg):
    """Of training (source and target), validation and test."""
    train = cfg.train_dataloader.dataset
    for one in (train.get('source'), train.get('target')) \
            if 'source' in train else (train, ):
        yield True, one
    for each in (cfg.val_dataloader, cfg.test_dataloader):
        yield False, each.dataset


@pytest.mark.parametrize('name', PUBLISHED)
def test_each_data_set_has_its_own_crop(name):
    """N6: the published code takes the crop of one for all."""
    cfg = load(name)
    model = cfg.model.get('student') or cfg.model.get('model') or cfg.model
    for training, data in data_sets(cfg):
        crop, side = INPUTS[data.type[len('mmext.'):]]
        steps = [step.type for step in data.pipeline]
        crops = [one for one in data.pipeline if one.type == 'mmext.KBCrop']
        assert [tuple(one.get('size', (352, 1216))) for one in crops] == \
            ([] if crop is None else [crop])
        sizes = [one for one in data.pipeline if 'Resize' in one.type]
        assert ['mmext.ResizeSpike'] * ('spike' in data.modalities) == \
            [one.type for one in sizes]
        assert all(tuple(one.size) == (side, side) for one in sizes)
        assert tuple(model.data_preprocessor.size) == (side, side)
        if 'mmext.LoadDepth' in steps and crops:
            # scored at the size of the image, learnt in that of the crop
            before = steps.index('mmext.LoadDepth') < \
                steps.index('mmext.KBCrop')
            assert before == training


@pytest.mark.parametrize('name', PUBLISHED)
def test_indoors_and_outdoors(name):
    """Section a.2: constants of the head; up to 80 m, or 10 m."""
    cfg = load(name)
    model = cfg.model.get('student') or cfg.model.get('model') or cfg.model
    indoors = 'nyu' in name
    head = model.decode_head
    assert (head.get('scale', 6.016e-5), head.get('shift', 0.00579)) == \
        ((3.05e-4, 0.1378) if indoors else (6.016e-5, 0.00579))
    own = dict(BiCrossDepthEstimator.train_defaults,
               **model.get('train_cfg', {}))
    for limits in (own, cfg.val_evaluator, cfg.test_evaluator):
        assert limits['max_depth'] == (10 if indoors else 80)
        assert limits.get('min_depth', 1e-3) == 1e-3
        assert limits['crop'] == 'garg'
    kinds = {data.type for _, data in data_sets(cfg)}
    assert kinds <= ({'mmext.NYUDepthDataset', 'mmext.RespikeDataset'}
                     if indoors else {f'mmext.{one}'
                                      for one in INPUTS})


@pytest.mark.parametrize('name,source,target', [
    ('vkitti2_kitti', ('VKITTI2', 'Scene18'), 'KITTIDepth'),
    ('vkitti2_kitti-partial', ('VKITTI2', 'Scene18'), 'PartialKITTI'),
    ('cloudy_foggy', ('DrivingStereoWeather', 'cloudy'), 'foggy'),
    ('cloudy_rainy', ('DrivingStereoWeather', 'cloudy'), 'rainy'),
    ('sunny_foggy', ('DrivingStereoWeather', 'sunny'), 'foggy'),
    ('sunny_rainy', ('DrivingStereoWeather', 'sunny'), 'rainy'),
    ('kitti_drivingstereo', ('KITTIDepth', 'eigen'), 'DrivingStereo'),
    ('nyu_respike', ('NYUDepth', 'txt'), 'Respike'),
])
def test_who_is_source_and_who_target(name, source, target):
    """Section c.3; tested on what training does not see."""
    cfg = load(f'bicross_{name}.py')
    data, test = cfg.train_dataloader.dataset, cfg.test_dataloader.dataset
    assert data.source.type == cfg.val_dataloader.dataset.type == \
        f'mmext.{source[0]}Dataset'
    assert data.target.type == test.type
    assert target in (data.target.get('weather'),
                      data.target.type[len('mmext.'):-len('Dataset')])
    assert data.source.get('weather') in (None, source[1])
    assert data.source.get('depth_scale') is None
    keys = ('split', 'scenes', 'ann_file')
    for seen, other in ((data.source, cfg.val_dataloader.dataset),
                        (data.target, test)):
        own = [[one.get(key) for key in keys] for one in (seen, other)]
        assert own[0] != own[1], own


def metafile():
    return yaml.safe_load((FOLDER / 'metafile.yml').read_text())['Models']


def test_every_config_is_in_the_metafile():
    listed = [Path(model['Config']).name for model in metafile()]
    assert sorted(listed) == sorted(p.name for p in FOLDER.glob('*.py'))


def test_metrics_of_the_metafile_are_those_of_the_readme():
    rows = re.findall(r'^\|(.+)\|$', (FOLDER / 'README.md').read_text(), re.M)
    rows = [[cell.split(' ±')[0].strip() for cell in row.split('|')]
            for row in rows]
    head = next(row for row in rows if 'gap closed' in row[-1])
    found = {}
    for row in rows[rows.index(head) + 2:]:
        if len(row) != len(head):
            break
        found[row[0].split(':')[0].strip('*')] = dict(zip(head, row))
    methods = dict(
        bicross='BiCross',
        stage2='MonoCross',
        supervised='Supervised',
        **{'pre-src': 'Pre_src'})
    for model in metafile():
        for result in model['Results']:
            row = found[methods.pop(model['Name'].split('_')[0])]
            assert result['Metrics'] == {
                key: float(row[key])
                for key in ('AbsRel', 'RMSE', 'd1')
            }
    assert not methods


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
