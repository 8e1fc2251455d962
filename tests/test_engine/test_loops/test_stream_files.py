# Copyright (c) mmext contributors. All rights reserved.
"""Files that lack, or go while a stream runs; hooks with nothing to do."""
import glob
import os
import os.path as osp

import pytest

pytest.importorskip('mmseg')

from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.runner import Runner

from mmext.datasets.data_help import UnreadableSampleError
from mmext.datasets.domain_sequence import DomainSequence
from mmext.engine.hooks import AtomicCheckpointHook
from mmext.engine.loops.idle_hooks import (waits_for_validation,
                                           warn_of_idle_hooks)
from mmext.engine.loops.stream_files import check_files
from mmext.utils.user_error import MissingFileError
from ...data_fixtures import write_acdc
from ...toy_models import init_scope
from ...toy_runs import plain_pipeline, quick_runner, tta_pipeline
from .common import (METHODS, adaptation_config, assert_equal, interrupt,
                     predictions, report, run, state)


def host_config(tmp_path, method='source', **kwargs):
    """Over a data set of the host, which does not look for labels."""
    cfg = adaptation_config(tmp_path, METHODS[method], **kwargs)
    for data in cfg.train_dataloader.dataset.domains.values():
        data.update(
            type='CityscapesDataset', img_suffix='_rgb_anon.png',
            seg_map_suffix='_gt_labelTrainIds.png')
    return cfg


def files(tmp_path, kind, domain='night'):
    return sorted(
        glob.glob(osp.join(tmp_path, 'acdc', kind, domain, '**', '*.png'),
                  recursive=True))


@pytest.mark.parametrize('serialize', [True, False])
def test_a_label_lacks_in_the_middle(serialize, tmp_path):
    cfg = host_config(tmp_path, count=3)
    for data in cfg.train_dataloader.dataset.domains.values():
        data.serialize_data = serialize
    lost = files(tmp_path, 'gt')[1]
    os.remove(lost)
    with pytest.raises(
            MissingFileError,
            match=rf"'night' lacks 1 of its 3 labels:\n    {lost}\nAdd them"):
        run(cfg)
    assert not glob.glob(osp.join(cfg.work_dir, '*.pth'))
    for data in cfg.train_dataloader.dataset.domains.values():
        choices = data.pipeline[1].transforms
        data.pipeline[1].transforms = [
            c for c in choices if c[0]['type'] != 'LoadAnnotations'
        ]
    assert run(cfg).train_loop.iter == 6  # without scores


def dataset(tmp_path, pipeline, **kwargs):
    from mmseg.datasets import CityscapesDataset
    init_scope()
    if not osp.isdir(tmp_path / 'acdc'):
        write_acdc(tmp_path / 'acdc', conditions=('fog', ), count=2)
    return CityscapesDataset(
        data_root=str(tmp_path / 'acdc'),
        data_prefix=dict(
            img_path='rgb_anon/fog/train', seg_map_path='gt/fog/train'),
        img_suffix='_rgb_anon.png',
        seg_map_suffix='_gt_labelTrainIds.png',
        test_mode=True,
        pipeline=pipeline,
        **kwargs)


@pytest.mark.parametrize('wrap', [
    lambda data: data,
    lambda data: ConcatDataset([data, data]),
    lambda data: RepeatDataset(data, 2),
])
def test_through_wrappers(wrap, tmp_path):
    data = dataset(tmp_path, tta_pipeline())
    os.remove(files(tmp_path, 'rgb_anon', 'fog')[0])
    with pytest.raises(MissingFileError,
                       match="'all' lacks 1 of its 2 pictures"):
        check_files(DomainSequence(dict(all=wrap(data))))


class LoadAnnotations:
    """A user's own reader, of whatever files."""

    def __call__(self, results):
        return results


def test_what_is_not_looked_for(tmp_path):
    """Files on a network, those of a user's own transforms, empty lists."""
    remote, own, empty = plain_pipeline(), plain_pipeline(), plain_pipeline()
    for step in (remote[0], remote[2]):
        step['backend_args'] = dict(backend='http')
    own[0] = own[2] = LoadAnnotations()
    empty[0]['ignore_empty'] = True
    parts = [dataset(tmp_path, steps) for steps in (remote, own, empty[:2])]
    here = dataset(tmp_path, plain_pipeline())
    for path in files(tmp_path, '*', 'fog'):
        os.remove(path)
    stream = DomainSequence(dict(all=here))
    with pytest.raises(MissingFileError, match='2 of its 2 pictures'):
        check_files(stream)
    for data in (*parts, [1, 2]):
        stream.datasets['all'] = data
        check_files(stream)


class Remove(Hook):
    """Takes a file away while the stream runs."""

    def __init__(self, path):
        self.path = path

    def after_train_iter(self, runner, batch_idx, **kwargs):
        if batch_idx == 0:
            os.rename(self.path, f'{self.path}.away')


@pytest.mark.parametrize('kind', ['rgb_anon', 'gt'])
def test_a_file_goes_while_the_stream_runs(kind, tmp_path):
    """The frame is named, and resuming goes on once it is back."""
    cfg = host_config(tmp_path, 'cotta', save_predictions=True)
    whole = run(cfg)
    again = host_config(tmp_path, 'cotta', save_predictions=True, work='gone')
    again.visualizer.name = f'gone-{tmp_path.name}'
    lost = files(tmp_path, kind)[0]
    with quick_runner():
        runner = Runner.from_cfg(again)
        runner.register_hook(Remove(lost))
        with pytest.raises(UnreadableSampleError) as caught:
            runner.train()
    text = str(caught.value)
    assert 'Frame 3 of 4 (round 1, domain night)' in text
    assert osp.basename(lost) in text and '--resume' in text
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    os.rename(f'{lost}.away', lost)
    last = run(interrupt(cfg, 2, 'again'))
    assert_equal(state(whole), state(last))
    assert report(whole) == report(last)
    assert len(predictions(last)) == 2


def test_unreadable_in_a_worker(tmp_path):
    """The text of the other process's traceback is left out."""
    cfg = host_config(tmp_path, count=1)
    cfg.train_dataloader.num_workers = 1
    with open(files(tmp_path, 'gt')[0], 'wb') as file:
        file.write(b'no picture')
    with pytest.raises(UnreadableSampleError) as caught:
        run(cfg)
    text = str(caught.value)
    assert 'Frame 2 of 2' in text and 'cannot identify image' in text
    assert 'Traceback' not in text


def test_hooks_that_wait_for_a_validation(tmp_path, monkeypatch):
    """They are told once, before the first frame."""
    told = []
    monkeypatch.setattr('mmext.engine.loops.idle_hooks.print_log',
                        lambda message, **kwargs: told.append(message))
    cfg = host_config(tmp_path, count=1)
    cfg.default_hooks.checkpoint.update(
        type='mmext.AtomicCheckpointHook', save_best='mIoU')
    cfg.custom_hooks = [dict(type='EarlyStoppingHook', monitor='mIoU')]
    run(cfg)
    assert len(told) == 2
    assert any('save_best of AtomicCheckpointHook: an adaptation' in t
               for t in told)
    assert any(line.startswith('EarlyStoppingHook: ') for line in told)


def test_other_hooks():
    assert warn_of_idle_hooks([CheckpointHook(interval=1), Hook()]) == []
    assert waits_for_validation(None, 'auto') is None
    assert waits_for_validation(EarlyStoppingHook, None)
    assert waits_for_validation(AtomicCheckpointHook, 'auto')
    assert not waits_for_validation(AtomicCheckpointHook, None)
