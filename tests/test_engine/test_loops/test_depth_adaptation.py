# Copyright (c) mmext contributors. All rights reserved.
"""Depth estimators in the adaptation loop: resume, reports, the tools."""
import json
import shutil

import cv2
import pytest
from mmengine.config import Config

pytest.importorskip('mmseg')

from mmext.apis import StreamingAdapter  # noqa: E402
from mmext.utils.io import safe_load  # noqa: E402
from mmext.utils.preflight import preflight  # noqa: E402
from mmext.utils.user_error import UserError  # noqa: E402
from ...depth_fixtures import make_frame, write_weather  # noqa: E402
from ...depth_runs import (REFERENCE, SOURCE, SVDP, TASK,  # noqa: E402
                           depth_adaptation_config, estimator, single,
                           source_checkpoint)
from ...tool_fixtures import ROOT, tool  # noqa: E402
from ...toy_runs import quick_runner  # noqa: E402
from .common import (assert_equal, interrupt, predictions,  # noqa: E402
                     report, run, state)

CONFIGS = ROOT / 'configs' / 'svdp'


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    """Frames are drawn once for all runs."""
    return tmp_path_factory.mktemp('frames')


def test_resume_at_any_frame(tmp_path, cache):
    """Properties 37, 38: stopped in a domain, at its border, in the next."""
    cfg = depth_adaptation_config(tmp_path, SVDP, cache)
    whole = run(cfg)
    expected, scores = predictions(whole), report(whole)
    assert len(expected) == 4
    assert all(p.dtype == 'uint16' for p in expected.values())
    assert scores['report']['rounds']['r1'].keys() == {'fog', 'night'}
    for row in scores['report']['rounds']['r1'].values():
        assert row['frames'] == 2
        assert 0 < row['abs_rel'] < 5 and 0 < row['median_rmse'] < 80
    assert scores['stats']['r1/fog']['skipped'] == 0
    text = (tmp_path / 'work' / 'adaptation_report.md').read_text()
    assert f'abs_rel {scores["report"]["abs_rel"]:.4f}' in text
    for frame in (1, 2, 3):
        again = run(interrupt(cfg, frame, f'again_{frame}'))
        later = predictions(again)
        assert len(later) == 4 - frame
        assert_equal(later, {k: expected[k] for k in later})
        assert_equal(state(whole), state(again))
        assert report(again) == scores
    # the checkpoint is that of the plain estimator
    saved = safe_load(tmp_path / 'work' / 'iter_4.pth')
    source = safe_load(cfg.load_from)
    assert saved['state_dict'].keys() == source['state_dict'].keys()


def test_source_and_resets(tmp_path, cache):
    """Properties 31, 32: the source stays; a domain alone is the same."""
    source = run(
        depth_adaptation_config(
            tmp_path, SOURCE, cache, pipeline=single(), rounds=2, frames=1))
    rounds = report(source)['report']['rounds']
    assert rounds['r1'] == rounds['r2']
    weights = safe_load(tmp_path / 'source.pth')['state_dict']
    assert_equal(dict(source.model.state_dict()), dict(weights))
    method = dict(
        type='mmext.CoTTA', task=TASK, reference_view=REFERENCE,
        anchor_threshold=0.9)
    options = dict(reset='domain', frames=1)
    both = run(
        depth_adaptation_config(
            tmp_path, method, cache, work='both', **options))
    alone = run(
        depth_adaptation_config(
            tmp_path, method, cache, work='alone', domains=('night', ),
            **options))
    last = predictions(alone)
    assert len(last) == 1
    assert_equal(last, {k: predictions(both)[k] for k in last})
    assert_equal(state(both), state(alone))


# The shipped configs ---------------------------------------------------------


def shrink(pipeline):
    """Sizes that fit the tiny frames of the fixtures."""
    for step in pipeline:
        if step['type'] == 'mmext.KBCrop':
            step['size'] = (48, 80)
        elif step['type'] == 'Resize':
            side = step['scale'][0]
            step['scale'] = (side // 6 + side // 12, side // 12)
        elif step['type'] == 'TestTimeAug':
            for steps in step['transforms']:
                shrink(steps)


def shrunken(name, folder):
    """A shipped KITTI config on two frames of two weathers, as a file."""
    cfg = Config.fromfile(str(CONFIGS / f'{name}.py'))
    cfg.model = estimator(3)
    for part in ('train', 'test'):
        loader = cfg[f'{part}_dataloader']
        loader.num_workers, loader.persistent_workers = 0, False
        domains = loader.dataset.domains
        loader.dataset.domains = {k: domains[k] for k in ('rainy', 'foggy')}
        for one in loader.dataset.domains.values():
            one.data_root = str(folder / 'data')
            shrink(one.pipeline)
    cfg.train_cfg.evaluator.domains = ['rainy', 'foggy']
    cfg.test_evaluator.domains = ['rainy', 'foggy']
    cfg.train_cfg.save_predictions = True
    if 'mc_passes' in cfg.train_cfg.method or 'svdp' in name:
        cfg.train_cfg.method.mc_passes = 2
    cfg.default_hooks.checkpoint.interval = 2
    cfg.load_from = source_checkpoint(folder, cfg.model.to_dict())
    path = folder / f'{name}.py'
    cfg.dump(str(path))
    return path


@pytest.mark.stack_subset
def test_shipped_config_from_end_to_end(tmp_path, monkeypatch):
    """KITTI to DrivingStereo: train.py adapts, test.py scores the result.

    Frames have no spikes, which an RGB stream shall not ask for.
    """
    monkeypatch.chdir(tmp_path)
    for weather in ('rainy', 'foggy'):
        write_weather(str(tmp_path / 'data'), weather, count=2)
        shutil.rmtree(tmp_path / 'data' / weather / 'spike-half-size')
    path = shrunken('kitti_drivingstereo', tmp_path)
    with quick_runner():
        tool('train').main([str(path), '--work-dir', 'work'])
        tool('test').main([
            str(path), 'work/iter_4.pth', '--work-dir', 'tested', '--out',
            'metrics.json', '--show-dir', 'shown', '--cfg-options',
            'visualizer.name=tested'
        ])
    found = json.loads(
        (tmp_path / 'work' / 'adaptation_report.json').read_text())
    assert found['method'] == 'SVDP' and found['frames'] == 4
    assert list(found['report']['domains']) == ['rainy', 'foggy']
    tested = json.loads((tmp_path / 'metrics.json').read_text())
    for name in ('abs_rel', 'rmse_log', 'd1', 'median_abs_rel'):
        assert f'r1/foggy/{name}' in tested and name in tested
        assert f'r1/foggy/{name}' in found['metrics']
    # one slow step away from each other
    assert tested['abs_rel'] == pytest.approx(
        found['metrics']['abs_rel'], rel=0.3)
    drawn = sorted((tmp_path / 'shown').rglob('*.png'))
    assert len(drawn) == 4
    # image, truth, prediction and error at the full size, with titles
    assert cv2.imread(str(drawn[0])).shape == (2 * (64 + 18), 3 * 104, 3)
    pictures = sorted((tmp_path / 'work' / 'predictions').rglob('*.png'))
    assert len(pictures) == 4
    picture = cv2.imread(str(pictures[0]), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (64, 104) and picture.dtype == 'uint16'
    # the same config on frames that are handed over: depth of the crop
    adapter = StreamingAdapter(str(path))
    result = adapter(make_frame(7)[0])
    assert result.labels.shape == (48, 80) and not result.skipped
    assert 0 < result.labels.min() and result.labels.max() <= 80.01
    assert (picture[:16] == 0).all() and (picture[16:, 12:92] > 0).all()


def test_missing_data_and_source_are_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, parts in (
            ('kitti_drivingstereo',
             ['DrivingStereo', 'depth-map-half-size', 'stage1_kitti',
              'StreetWorldDepthDataset']),
            ('streetworld_depth',
             ['tools/train_bicross.py', 'stage3/epoch_10.pth'])):
        cfg = Config.fromfile(str(CONFIGS / f'{name}.py'))
        with pytest.raises(UserError) as caught:
            preflight(cfg, 'train')
        for part in parts:
            assert part in str(caught.value), part


@pytest.mark.parametrize('name', ['kitti_drivingstereo', 'streetworld_depth'])
def test_baselines_see_the_same_stream(name):
    """Frames, order, score and cap of source and CoTTA are SVDP's."""
    ours = Config.fromfile(str(CONFIGS / f'{name}.py'))
    cotta = Config.fromfile(str(CONFIGS / f'cotta_{name}.py'))
    source = Config.fromfile(str(CONFIGS / f'source_{name}.py'))
    assert ours.test_evaluator == ours.train_cfg.evaluator
    views = ours.train_dataloader.dataset.domains
    for other in (cotta, source):
        assert other.train_cfg.evaluator == ours.train_cfg.evaluator
        assert other.model == ours.model
        domains = other.train_dataloader.dataset.domains
        assert list(domains) == list(views)
        for domain, one in domains.items():
            # all but the views
            assert dict(one, pipeline=None) == dict(
                views[domain], pipeline=None)
    assert cotta.train_dataloader == ours.train_dataloader
    assert cotta.optim_wrapper == ours.optim_wrapper
    assert cotta.train_cfg.method.task == ours.train_cfg.method.task
