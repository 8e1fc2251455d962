# Depth from RGB in KITTI's crop: pipelines, loaders and metric that data sets
# share, which add their class. Crop and batch of 16: BiCross's code.

# pipelines
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmext.LoadDepth'),
    dict(type='mmext.KBCrop', size=(352, 1216)),
    dict(type='mmext.PackDepthInputs', keys='rgb')
]
# depth keeps its size: predictions are pasted back and scored there
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmext.KBCrop', size=(352, 1216)),
    dict(type='mmext.LoadDepth'),
    dict(type='mmext.PackDepthInputs', keys='rgb')
]

# data sets
train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(modalities=('rgb', 'depth'), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        modalities=('rgb', 'depth'), pipeline=test_pipeline, test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmext.DepthMetric', max_depth=80., crop='garg')
test_evaluator = val_evaluator
