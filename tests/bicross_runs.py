# Copyright (c) mmext contributors. All rights reserved.
"""Configs of three stages on StreetWorld, each of seconds."""
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

COMMON = """
_base_ = {bases!r}
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(interval=2, max_keep_ckpts=-1))
size, ticks = (32, 64), 16
preprocessor = dict(type='mmext.SpikeDataPreprocessor', size=size)


def street(keys, domain='clear', frames=4):
    return dict(
        type='mmext.StreetWorldDepthDataset', domain=domain, frames=frames,
        size=size, ticks=ticks, spike_frames=1, cache_dir={cache!r},
        pipeline=[
            dict(type='mmext.RenderStreetWorldSpikes'),
            dict(type='mmext.PackDepthInputs', keys=keys)
        ])


def loader(dataset, batch_size=2, sampler='DefaultSampler', shuffle=True):
    return dict(
        batch_size=batch_size, num_workers=0, dataset=dataset,
        sampler=dict(type=sampler, shuffle=shuffle))


def estimator(channels):
    return dict(
        type='mmext.BiCrossDepthEstimator', data_preprocessor=preprocessor,
        backbone=dict(
            type='mmext.DPTHybrid', arch='tiny', in_channels=channels,
            img_size=size),
        decode_head=dict(
            type='mmext.DPTDepthHead', in_channels=(32, 64, 64, 64),
            channels=16, hidden=8, scale=0.05, shift=0.05,
            reassemble=dict(out_channels=(32, 64, 64, 64))),
        uncertainty_head=dict(
            type='mmext.DPTUncertaintyHead', channels=16, hidden=8))


optim_wrapper = dict(
    optimizer=dict(type='Adam', lr=1e-4), clip_grad=dict(max_norm=10.))
param_scheduler = []
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
"""

STAGE1 = """
model = estimator(3)
train_dataloader = loader(street('rgb'))
val_dataloader = loader(street('rgb', frames=2), 1, shuffle=False)
val_evaluator = dict(type='mmext.DepthMetric')
val_cfg = dict(type='ValLoop')
"""

STAGE2 = """
model = dict(
    type='mmext.CrossModalityDistiller', student=estimator(ticks),
    ckd=dict(hidden=8, out_channels=4))
train_dataloader = loader(street(('rgb', 'spike')))
custom_hooks = [dict(type='mmext.DistillHook')]
"""

STAGE3 = """
model = dict(
    type='mmext.CrossDomainAdapter', model=estimator(ticks),
    sca=dict(hidden=8), warmup_iters=1,
    strong_aug=dict(type='mmext.SpikeStrongView', chunk=4))
train_dataloader = loader(
    dict(
        type='mmext.SourceTargetDataset', source=street('spike'),
        target=street('spike', domain='fog')),
    sampler='mmext.SourceTargetSampler')
val_dataloader = loader(
    street('spike', domain='fog', frames=2), 1, shuffle=False)
val_evaluator = dict(type='mmext.DepthMetric')
val_cfg = dict(type='mmext.TeacherStudentValLoop')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=4)
custom_hooks = [
    dict(
        type='mmext.MeanTeacherHook', decay=0.99, evaluate='student',
        save='student'),
    dict(type='mmext.DistillHook')
]
find_unused_parameters = True
"""


def write_stages(folder: Path) -> Path:
    """Write the three configs and one that names them; return the latter."""
    base = ROOT / 'configs' / '_base_'
    text = COMMON.format(
        bases=[
            str(base / 'mmseg_runtime.py'),
            str(base / 'schedules' / 'bicross_adam.py')
        ],
        cache=str(folder / 'cache'))
    for number, stage in enumerate((STAGE1, STAGE2, STAGE3), 1):
        (folder / f'stage{number}.py').write_text(text + stage)
    whole = folder / 'bicross.py'
    whole.write_text("stages = dict(stage1='stage1.py', stage2='stage2.py', "
                     "stage3='stage3.py')\n")
    return whole
