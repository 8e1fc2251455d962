# NYU depth v2, RGB and depth, no crop. Batch of 16: BiCross's code. Depth up
# to 10 m as customary; the code leaves it at 80 m, and takes Garg's rectangle
# here, too.

# pipelines
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmext.LoadDepth'),
    dict(type='mmext.PackDepthInputs', keys='rgb')
]
test_pipeline = train_pipeline

# data sets
train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmext.NYUDepthDataset',
        data_root='data/nyu',
        ann_file='nyu_train.txt',
        modalities=('rgb', 'depth'),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmext.NYUDepthDataset',
        data_root='data/nyu',
        ann_file='nyu_test.txt',
        modalities=('rgb', 'depth'),
        pipeline=test_pipeline,
        test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmext.DepthMetric', max_depth=10., crop='garg')
test_evaluator = val_evaluator
