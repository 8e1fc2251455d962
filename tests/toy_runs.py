# Copyright (c) mmext contributors. All rights reserved.
"""Tiny adaptation runs through the stock Runner."""
import os.path as osp
from contextlib import contextmanager
from copy import deepcopy
from unittest.mock import patch

import torch
from mmengine.config import Config
from mmengine.runner import Runner

import mmext  # noqa: F401
from . import toy_models
from .data_fixtures import write_acdc

REFERENCE = 2
"""Index of the unmirrored view at ratio 1.0 in :func:`tta_pipeline`."""


def tta_pipeline(base=(48, 32), ratios=(0.5, 1.0, 1.5)):
    """Load, then the views, ratio-major, mirrored second."""
    scales = [(int(base[0] * r), int(base[1] * r)) for r in ratios]
    return [
        dict(type='LoadImageFromFile'),
        dict(
            type='TestTimeAug',
            transforms=[[
                dict(type='Resize', scale=s, keep_ratio=False) for s in scales
            ],
                        [
                            dict(type='RandomFlip', prob=0.),
                            dict(type='RandomFlip', prob=1.)
                        ], [dict(type='LoadAnnotations')],
                        [dict(type='PackSegInputs')]])
    ]


def plain_pipeline(base=(48, 32)):
    """A single-view test pipeline."""
    return [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=base, keep_ratio=False),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs')
    ]


def source_checkpoint(folder, model=None) -> str:
    """A checkpoint of the toy model with plain mmseg keys."""
    toy_models.init_scope()
    from mmseg.registry import MODELS
    torch.manual_seed(1)
    built = MODELS.build(
        Config(dict(model=model or toy_models.toy_config(
            num_classes=19))).model)
    path = osp.join(str(folder), 'source.pth')
    torch.save(dict(state_dict=built.state_dict(), meta=dict()), path)
    return path


def adaptation_config(folder,
                      method,
                      data=None,
                      domains=('fog', 'night'),
                      rounds=1,
                      count=2,
                      pipeline=None,
                      model=None,
                      work='work',
                      **train_cfg) -> Config:
    """A whole adaptation config over a tiny ACDC folder."""
    folder = str(folder)
    data = data or osp.join(folder, 'acdc')
    if not osp.isdir(data):
        write_acdc(data, conditions=domains, count=count)
    model = model or toy_models.toy_config(num_classes=19)
    if not osp.isfile(osp.join(folder, 'source.pth')):
        source_checkpoint(folder, model)
    return Config(
        dict(
            default_scope='mmseg',
            model=deepcopy(model),
            train_dataloader=dict(
                batch_size=1,
                num_workers=0,
                sampler=dict(type='mmext.StreamSampler'),
                dataset=dict(
                    type='mmext.DomainSequence',
                    rounds=rounds,
                    domains={
                        name: dict(
                            type='mmext.ACDCDataset',
                            data_root=data,
                            data_prefix=dict(
                                img_path=f'rgb_anon/{name}/train',
                                seg_map_path=f'gt/{name}/train'),
                            test_mode=True,
                            serialize_data=False,
                            pipeline=pipeline or tta_pipeline())
                        for name in domains
                    })),
            train_cfg=dict(
                type='mmext.TestTimeAdaptLoop', method=method, **train_cfg),
            optim_wrapper=dict(
                type='OptimWrapper',
                optimizer=dict(type='Adam', lr=1e-3)),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=1),
                checkpoint=dict(
                    type='CheckpointHook', by_epoch=False, interval=1,
                    max_keep_ckpts=-1)),
            log_processor=dict(by_epoch=False),
            visualizer=dict(
                type='Visualizer', vis_backends=[], name=f'toy-{work}'),
            randomness=dict(seed=3),
            load_from=osp.join(folder, 'source.pth'),
            experiment_name=f'{osp.basename(folder)}-{work}',
            work_dir=osp.join(folder, work)))


@contextmanager
def quick_runner():
    """Leave out what takes a Runner longest and is not under test.

    At each checkpoint the config is formatted anew, and at the start the
    compiler is asked for its version.
    """
    with patch('yapf.yapflib.yapf_api.FormatCode',
               lambda text, **kwargs: (text, True)), \
            patch.object(Runner, '_log_env', lambda self, cfg: None):
        yield


def run(cfg: Config) -> Runner:
    """Train with the stock Runner and return it."""
    with quick_runner():
        runner = Runner.from_cfg(cfg)
        runner.train()
    return runner
