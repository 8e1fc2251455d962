# Embedded street scenes, RGB and depth of the source: clear weather, one
# camera, towns of their own for training and validation. 400 and 60 frames are
# a choice for a CPU. Frames are drawn once, 0.35 s each, and kept in
# cache_dir.

# pipelines
train_pipeline = [
    dict(type='mmext.RenderStreetWorldSpikes'),
    dict(type='mmext.PackDepthInputs', keys='rgb')
]

# data sets
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmext.StreetWorldDepthDataset',
        domain='clear',
        split='train',
        frames=400,
        camera=dict(gain=0.5),
        cache_dir='data/streetworld_depth',
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmext.StreetWorldDepthDataset',
        domain='clear',
        split='val',
        frames=60,
        camera=dict(gain=0.5),
        cache_dir='data/streetworld_depth',
        pipeline=train_pipeline,
        test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmext.DepthMetric', max_depth=80., crop='garg')
test_evaluator = val_evaluator
