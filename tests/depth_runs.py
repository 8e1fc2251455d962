# Copyright (c) mmext contributors. All rights reserved.
"""Tiny adaptation runs of depth estimators on StreetWorld's spikes."""
import os.path as osp

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmext  # noqa: F401

SIZE, TICKS, REFERENCE = (32, 64), 16, 2
TASK = dict(type='mmext.DepthTask')
SVDP = dict(
    type='mmext.SVDP', task=TASK, reference_view=REFERENCE, sparse_rate=0.02,
    mc_passes=3, decay=0.9, dpu_scale=0.5)
SOURCE = dict(type='mmext.SourceOnly', task=TASK)


def estimator(channels=TICKS, **options) -> dict:
    """Half the small DPT, for inputs of any size."""
    return dict(
        type='mmext.BiCrossDepthEstimator',
        data_preprocessor=dict(type='mmext.SpikeDataPreprocessor'),
        backbone=dict(
            type='mmext.DPTHybrid', arch='tiny', in_channels=channels,
            img_size=SIZE),
        decode_head=dict(
            type='mmext.DPTDepthHead', in_channels=(32, 64, 64, 64),
            channels=16, hidden=8, scale=0.05, shift=0.05,
            reassemble=dict(out_channels=(32, 64, 64, 64))),
        **options)


def views(ratios=(0.5, 1.0)) -> list:
    """Spikes at several sizes, mirrored second; then depth as it is."""
    sizes = [tuple(int(side * r) for side in SIZE) for r in ratios]
    return [
        dict(type='mmext.RenderStreetWorldSpikes', keys='spike'),
        dict(
            type='TestTimeAug',
            transforms=[
                [dict(type='mmext.ResizeSpike', size=s) for s in sizes],
                [
                    dict(type='mmext.RandomDepthFlip', prob=0.),
                    dict(type='mmext.RandomDepthFlip', prob=1.)
                ],
                [
                    dict(
                        type='mmext.RenderStreetWorldSpikes',
                        keys='gt_depth_map')
                ],
                [dict(type='mmext.PackDepthInputs', keys='spike')]
            ])
    ]


def single() -> list:
    """One view with depth."""
    return [
        dict(type='mmext.RenderStreetWorldSpikes'),
        dict(type='mmext.PackDepthInputs', keys='spike')
    ]


def stream(cache, domains=('fog', 'night'), frames=2, pipeline=None,
           rounds=1) -> dict:
    """A data loader over some weathers."""
    return dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type='mmext.StreamSampler'),
        dataset=dict(
            type='mmext.DomainSequence',
            rounds=rounds,
            domains={
                name: dict(
                    type='mmext.StreetWorldDepthDataset', domain=name,
                    frames=frames, size=SIZE, ticks=TICKS, spike_frames=1,
                    cache_dir=str(cache), pipeline=pipeline or views())
                for name in domains
            }))


def source_checkpoint(folder, model) -> str:
    """A checkpoint of untrained weights."""
    path = osp.join(str(folder), 'source.pth')
    if not osp.isfile(path):
        init_default_scope('mmseg')
        torch.manual_seed(1)
        weights = MODELS.build(Config(dict(model=model)).model).state_dict()
        torch.save(dict(state_dict=weights, meta=dict()), path)
    return path


def depth_adaptation_config(folder, method, cache, work='work', model=None,
                            reset='never', save_predictions=True,
                            **data) -> Config:
    """A whole adaptation config over two weathers."""
    folder, model = str(folder), model or estimator()
    return Config(
        dict(
            default_scope='mmseg',
            model=model,
            train_dataloader=stream(cache, **data),
            train_cfg=dict(
                type='mmext.TestTimeAdaptLoop', method=method, reset=reset,
                save_predictions=save_predictions),
            optim_wrapper=dict(
                type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-4)),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=1),
                checkpoint=dict(
                    type='CheckpointHook', by_epoch=False, interval=1,
                    max_keep_ckpts=-1)),
            log_processor=dict(by_epoch=False),
            visualizer=dict(
                type='Visualizer', vis_backends=[], name=f'depth-{work}'),
            randomness=dict(seed=3),
            load_from=source_checkpoint(folder, model),
            experiment_name=f'{osp.basename(folder)}-{work}',
            work_dir=osp.join(folder, work)))
