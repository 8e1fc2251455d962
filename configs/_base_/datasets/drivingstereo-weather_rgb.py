# DrivingStereo's cloudy frames at half size, RGB and depth: the first 80 % by
# name for training. Split, crop and batch of 16: BiCross's code. Other
# weathers: set weather of the three data sets.

# pipelines
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmext.LoadDepth'),
    dict(type='mmext.KBCrop', size=(384, 864)),
    dict(type='mmext.PackDepthInputs', keys='rgb')
]
# depth keeps its size: predictions are pasted back and scored there
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmext.KBCrop', size=(384, 864)),
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
    dataset=dict(
        type='mmext.DrivingStereoWeatherDataset',
        data_root='data/drivingstereo_weather',
        weather='cloudy',
        split='train',
        modalities=('rgb', 'depth'),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmext.DrivingStereoWeatherDataset',
        data_root='data/drivingstereo_weather',
        weather='cloudy',
        split='test',
        modalities=('rgb', 'depth'),
        pipeline=test_pipeline,
        test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmext.DepthMetric', max_depth=80., crop='garg')
test_evaluator = val_evaluator
