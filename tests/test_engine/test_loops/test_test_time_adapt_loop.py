# Copyright (c) mmext contributors. All rights reserved.
"""The protocol: order, resets, sources, checkpoints, odd frames."""
import os
import os.path as osp

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

pytest.importorskip('mmseg')

from mmcv.transforms import BaseTransform  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.registry import TRANSFORMS  # noqa: E402
from mmengine.runner import Runner, load_checkpoint  # noqa: E402

from mmext.utils.io import safe_load  # noqa: E402
from ...toy_models import build_toy, init_scope, toy_config  # noqa: E402
from ...toy_runs import plain_pipeline, quick_runner  # noqa: E402
from .common import (METHODS, SVDP, adaptation_config,  # noqa: E402
                     assert_equal, predictions, report, run, state)


class Order(Hook):
    """Notes which frames the loop visits."""

    def __init__(self) -> None:
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        sample = data_batch['data_samples'][0]
        sample = sample[0] if isinstance(sample, (list, tuple)) else sample
        self.seen.append(
            (sample.round, sample.domain, osp.basename(sample.img_path)))


def watched(cfg):
    order = Order()
    with quick_runner():
        runner = Runner.from_cfg(cfg)
        runner.register_hook(order)
        runner.train()
    return runner, order.seen


def test_order_of_a_continual_stream(tmp_path):
    """Properties 30, 32: R x domains in order; the source never moves."""
    cfg = adaptation_config(tmp_path, METHODS['source'], rounds=2,
                            save_predictions=True)
    runner, seen = watched(cfg)
    assert [s[:2] for s in seen] == [
        (r, d) for r in (1, 2) for d in ('fog', 'night') for _ in range(2)
    ]
    for r in (1, 2):
        assert len({s for s in seen if s[0] == r}) == 4
    assert [s[1:] for s in seen[:4]] == [s[1:] for s in seen[4:]]
    rounds = report(runner)['report']['rounds']
    assert rounds['r1']['fog']['mIoU'] == rounds['r2']['fog']['mIoU']
    assert rounds['r1']['night']['IoU'] == rounds['r2']['night']['IoU']
    source = safe_load(cfg.load_from)['state_dict']
    assert_equal(dict(runner.model.state_dict()), dict(source))
    assert len(predictions(runner)) == 8


def test_domain_alone_or_after_others(tmp_path):
    """Property 31: with reset='domain' what came before is of no effect."""
    options = dict(reset='domain', save_predictions=True)
    both = run(adaptation_config(tmp_path, SVDP, **options))
    alone = run(adaptation_config(tmp_path, SVDP, domains=('night', ),
                                  work='alone', **options))
    last = predictions(alone)
    assert len(last) == 2
    assert_equal(last, {k: predictions(both)[k] for k in last})
    assert_equal(state(both), state(alone))
    scores = [report(r)['report']['rounds']['r1']['night']
              for r in (both, alone)]
    assert scores[0] == scores[1]
    assert report(both)['oracle'] == ['reset=domain']


def test_reset_by_round(tmp_path):
    """Property 31: reset='round' repeats the first round bit for bit."""
    cfg = adaptation_config(tmp_path, SVDP, rounds=2, count=1,
                            reset='round', save_predictions=True)
    runner = run(cfg)
    found = predictions(runner)
    first = {k[2:]: v for k, v in found.items() if k.startswith('r1')}
    second = {k[2:]: v for k, v in found.items() if k.startswith('r2')}
    assert len(first) == 2
    assert_equal(first, second)
    rounds = report(runner)['report']['rounds']
    assert rounds['r1'] == rounds['r2']


def test_continual_is_not_reset(tmp_path):
    """Property 30: with reset='never' the second round differs."""
    cfg = adaptation_config(tmp_path, SVDP, rounds=2, count=1)
    runner = run(cfg)
    stats = report(runner)['stats']
    assert stats['r1/fog']['loss'] != stats['r2/fog']['loss']
    assert report(runner)['oracle'] == []


def test_checkpoint_layout(tmp_path):
    """Property 39: plain keys; teacher, student and prompt apart."""
    runner = run(adaptation_config(tmp_path, SVDP, count=1))
    path = osp.join(runner.work_dir, 'iter_2.pth')
    saved = safe_load(path)
    plain = build_toy(num_classes=19)
    for entry in ('state_dict', 'ema_state_dict'):
        assert saved[entry].keys() == plain.state_dict().keys()
    loop = runner.train_loop
    student, teacher = loop.model, loop.teacher_hook.teacher.module
    for entry, net in (('state_dict', teacher), ('ema_state_dict', student)):
        now = net.state_dict()
        assert_equal(dict(saved[entry]), {k: now[k] for k in saved[entry]})
        prompt = saved['adaptation']['prompts'][entry]
        assert torch.equal(prompt['visual_prompt.patch'],
                           now['visual_prompt.patch'])
    key = 'decode_head.conv_seg.weight'
    assert not torch.equal(saved['state_dict'][key],
                           saved['ema_state_dict'][key])
    # The adapted checkpoint is a plain mmseg checkpoint.
    load_checkpoint(plain, path, strict=True)
    assert torch.equal(plain.state_dict()[key], saved['state_dict'][key])


def test_adapted_checkpoint_as_the_next_source(tmp_path):
    """Property 39: an adapted model can be adapted further."""
    first = run(adaptation_config(tmp_path, SVDP, count=1))
    cfg = adaptation_config(tmp_path, METHODS['cotta'], work='next')
    cfg.load_from = osp.join(first.work_dir, 'iter_2.pth')
    second = run(cfg)
    source = second.train_loop.method.source
    assert_equal(dict(safe_load(cfg.load_from)['state_dict']), source)


def broken(tmp_path, change):
    cfg = adaptation_config(tmp_path, SVDP)
    saved = torch.load(cfg.load_from)
    change(saved['state_dict'])
    cfg.load_from = osp.join(str(tmp_path), 'broken.pth')
    torch.save(saved, cfg.load_from)
    return cfg


@pytest.mark.parametrize('change, match', [
    (lambda s: s.pop('backbone.conv1.weight'),
     r'1 missing:\n    backbone.conv1.weight'),
    (lambda s: s['backbone.conv1.weight'][0].fill_(float('nan')),
     r'1 not finite:\n    backbone.conv1.weight'),
    (lambda s: s.update(extra=torch.zeros(1)), r'1 unexpected:\n    extra'),
    (lambda s: s.update(
        {'decode_head.conv_seg.bias': torch.zeros(7)}),
     'of another shape:\n    decode_head.conv_seg.bias: model .19,., '
     'checkpoint .7,.'),
    (lambda s: [s.update({f'student.{k}': s.pop(k)}) for k in list(s)],
     r'missing:\n    backbone[\s\S]*unexpected:\n    student.backbone'),
])
def test_wrong_source(tmp_path, change, match):
    """Property 39: wrong, partial or renamed keys stop with a list."""
    with pytest.raises(ValueError, match=match):
        run(broken(tmp_path, change))


def test_what_a_source_may_lack_or_leave(tmp_path):
    """Property 39: auxiliary heads and batch counters are no mistake."""

    def change(weights):
        weights['auxiliary_head.conv_seg.weight'] = torch.zeros(1)
        for key in [k for k in weights if 'num_batches_tracked' in k]:
            weights.pop(key)

    assert run(broken(tmp_path, change)).train_loop.iter == 4


def test_no_source(tmp_path):
    """Property 39: a run without a source model does not start."""
    cfg = adaptation_config(tmp_path, SVDP)
    cfg.load_from = None
    with pytest.raises(ValueError, match='load_from'):
        run(cfg)


def test_batch_size(tmp_path):
    """Property 45: more than one frame per batch is refused."""
    cfg = adaptation_config(tmp_path, SVDP)
    cfg.train_dataloader.batch_size = 2
    with pytest.raises(ValueError, match='batch_size is 2. Set it to 1'):
        run(cfg)


def test_accumulated_steps(tmp_path):
    """Every frame takes its step, so that none is collected."""
    cfg = adaptation_config(tmp_path, SVDP, source_ignore='^neck')
    cfg.optim_wrapper.accumulative_counts = 4
    with pytest.raises(ValueError, match='accumulative_counts is 4'):
        run(cfg)


def test_unknown_reset(tmp_path):
    """A reset that does not exist is refused."""
    with pytest.raises(ValueError, match="'never', 'domain' or 'round'"):
        run(adaptation_config(tmp_path, SVDP, reset='epoch'))


def test_other_classes_than_the_stream(tmp_path):
    """Labels of 19 classes do not score a model of 5."""
    model = toy_config(num_classes=5)
    with pytest.raises(ValueError, match='5 classes, .* has 19: road'):
        run(adaptation_config(tmp_path, SVDP, model=model))


def test_empty_domain(tmp_path):
    """A domain that settings leave without frames is not passed over."""
    cfg = adaptation_config(tmp_path, SVDP)
    cfg.train_dataloader.dataset.domains.night.indices = 0
    with pytest.raises(ValueError, match='No frame in .* night'):
        run(cfg)


@pytest.mark.parametrize('method', [None, dict(reference_view=2)])
def test_no_method(method, tmp_path):
    """A method without a type is refused with an example."""
    with pytest.raises(ValueError, match="type='mmext.SVDP'"):
        run(adaptation_config(tmp_path, method))


def test_plain_test_dataset(tmp_path):
    """A host's own test loader: any sampler, no domains, one view."""
    cfg = adaptation_config(tmp_path, dict(type='mmext.Tent'))
    dataset = cfg.train_dataloader.dataset.domains.fog
    dataset.pipeline = plain_pipeline()
    cfg.train_dataloader.dataset = dataset
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    runner, seen = watched(cfg)
    assert [s[:2] for s in seen] == [(1, 'all')] * 2
    assert [s[2] for s in seen] == sorted(s[2] for s in seen)
    assert runner.train_loop.metrics['mIoU'] >= 0


def test_frames_without_labels(tmp_path):
    """No labels: the run ends with statistics and without a score."""
    cfg = adaptation_config(tmp_path, SVDP, count=1, save_predictions=True)
    for dataset in cfg.train_dataloader.dataset.domains.values():
        transforms = dataset.pipeline[1].transforms
        dataset.pipeline[1].transforms = [
            t for t in transforms if t[0]['type'] != 'LoadAnnotations'
        ]
    runner = run(cfg)
    assert runner.train_loop.metrics == {}
    content = report(runner)
    assert content['stats']['r1/fog']['frames'] == 1
    assert content['stats']['r1/night']['uncertainty'] > 0
    assert len(predictions(runner)) == 2
    with open(osp.join(runner.work_dir, 'adaptation_report.md')) as file:
        assert 'nothing was scored' in file.read()


def test_labels_of_ignored_pixels_only(tmp_path):
    """Nothing to score is no reason to lose the run at its end."""
    cfg = adaptation_config(tmp_path, METHODS['cotta'], count=1)
    for dataset in cfg.train_dataloader.dataset.domains.values():
        folder = osp.join(dataset.data_root, dataset.data_prefix.seg_map_path)
        for path, _, names in os.walk(folder):
            for name in names:
                cv2.imwrite(
                    osp.join(path, name), np.full((64, 96), 255, np.uint8))
    runner = run(cfg)
    assert report(runner)['report']['mIoU'] is None
    with open(osp.join(runner.work_dir, 'adaptation_report.md')) as file:
        assert 'nothing was scored' in file.read()


@TRANSFORMS.register_module(force=True)
class SpoilFrame(BaseTransform):
    """Makes one frame of the stream not a number."""

    def __init__(self, name: str) -> None:
        self.name = name

    def transform(self, results: dict) -> dict:
        if self.name in results['img_path']:
            results['img'] = np.full_like(
                results['img'], np.nan, dtype=np.float32)
        return results


@pytest.mark.parametrize('name', ['svdp', 'tent', 'vdp'])
def test_frame_of_nans(name, tmp_path):
    """Property 43: a spoilt frame changes nothing and is counted."""
    cfg = adaptation_config(tmp_path, METHODS[name])
    for dataset in cfg.train_dataloader.dataset.domains.values():
        dataset.pipeline.insert(
            1, dict(type='SpoilFrame', name='GOPR0001_frame_000001'))
    runner = run(cfg)
    stats = report(runner)['stats']
    assert stats['r1/fog']['skipped'] == stats['r1/night']['skipped'] == 1
    before, after = (
        safe_load(osp.join(runner.work_dir, f'iter_{i}.pth'))
        for i in (1, 2))
    for entry in ('state_dict', 'ema_state_dict'):
        if entry in before:
            assert_equal(dict(before[entry]), dict(after[entry]))
    third = safe_load(osp.join(runner.work_dir, 'iter_3.pth'))
    if name != 'vdp':
        key = 'backbone.norm2.weight'
        assert not torch.equal(third['state_dict'][key],
                               after['state_dict'][key])
    with open(osp.join(runner.log_dir, f'{runner.timestamp}.log')) as file:
        text = file.read()
    assert text.count('No update on') == 2 and 'nan' in text


def test_report_content(tmp_path):
    """The report has every round, domain and class, and the switches."""
    method = dict(SVDP, reset_optimizer='domain')
    content = report(run(adaptation_config(tmp_path, method, count=1)))
    assert content['method'] == 'SVDP' and content['seed'] == 3
    assert content['oracle'] == ['reset_optimizer=domain']
    row = content['report']['rounds']['r1']['fog']
    assert len(row['IoU']) == 19 and row['frames'] == 1
    assert content['settings']['sparse_rate'] == 0.02
    assert content['stats']['r1/fog']['alpha_prompt'] < 0.9


def test_tools_config_of_a_paper(tmp_path):
    """Property 46: the main config, two frames, on a tiny model."""
    root = osp.join(osp.dirname(__file__), '../../../configs/svdp')
    small = adaptation_config(tmp_path, SVDP, count=1)
    init_scope()
    cfg = Config.fromfile(osp.join(root, 'cityscapes_acdc.py'))
    cfg.model = Config(dict(model=toy_config(num_classes=19))).model
    cfg.train_dataloader = small.train_dataloader
    cfg.train_cfg.method.update(reference_view=2, sparse_rate=0.02)
    cfg.update(
        load_from=small.load_from, work_dir=osp.join(str(tmp_path), 'paper'))
    cfg.train_dataloader.dataset.rounds = 1
    runner = run(cfg)
    content = report(runner)
    assert content['method'] == 'SVDP' and content['frames'] == 2
    assert content['oracle'] == []
    groups = {g['lr'] for g in runner.optim_wrapper.optimizer.param_groups}
    assert groups == {1e-4}


@pytest.mark.skipif(
    not osp.isfile(os.environ.get('MMEXT_NVIDIA_SEGFORMER', '')),
    reason='needs NVIDIA\'s checkpoint: set MMEXT_NVIDIA_SEGFORMER to the '
    'converted file and MMEXT_ACDC to the data')
@pytest.mark.parametrize('config, expected, tolerance', [
    ('source_cityscapes_acdc.py', (69.1, 40.3, 59.7, 57.8), 0.2),
    ('cityscapes_acdc_published.py', (70.95, 42.82, 64.94, 62.57), 0.5),
])
def test_published_numbers(tmp_path, config, expected, tolerance):
    """Property 36: the source's and the published preset's first round."""
    root = osp.join(osp.dirname(__file__), '../../../configs/svdp')
    cfg = Config.fromfile(osp.join(root, config))
    cfg.load_from = os.environ['MMEXT_NVIDIA_SEGFORMER']
    cfg.work_dir = str(tmp_path)
    cfg.train_dataloader.dataset.rounds = 1
    if 'MMEXT_ACDC' in os.environ:
        for dataset in cfg.train_dataloader.dataset.domains.values():
            dataset.data_root = os.environ['MMEXT_ACDC']
    rounds = report(run(cfg))['report']['rounds']
    for domain, value in zip(('fog', 'night', 'rain', 'snow'), expected):
        assert abs(rounds['r1'][domain]['mIoU'] - value) <= tolerance
