# DrivingStereo's weathers as a stream: sunny, cloudy, rainy, foggy, 500 frames
# each at half size (400x881), RGB; depth only for the score. The paper names
# the data, not the split, the order or the sizes: all are choices.

# 6 views of the crop at ratios 0.8, 1.0, 1.25, each plain, then mirrored; View
# 2 is the reference, the size that the source model was trained at. Objects
# that look 1.25 times as large look as near, so the ratios are a geometric
# series: in the mean of logarithms that error cancels.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmext.KBCrop', size=(384, 864)),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(307, 307), keep_ratio=False),
                dict(type='Resize', scale=(384, 384), keep_ratio=False),
                dict(type='Resize', scale=(480, 480), keep_ratio=False)
            ],
            [
                dict(type='RandomFlip', prob=0.),
                dict(type='RandomFlip', prob=1.)
            ],
            # after the above: depth keeps its size and is not mirrored
            [dict(type='mmext.LoadDepth')],
            [dict(type='mmext.PackDepthInputs', keys='rgb')]
        ])
]

# one view
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmext.KBCrop', size=(384, 864)),
    dict(type='Resize', scale=(384, 384), keep_ratio=False),
    dict(type='mmext.LoadDepth'),
    dict(type='mmext.PackDepthInputs', keys='rgb')
]

# the stream to adapt to: read once, in order, frame by frame
train_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='mmext.StreamSampler'),
    dataset=dict(
        type='mmext.DomainSequence',
        rounds=1,
        domains={
            name: dict(
                type='mmext.DrivingStereoWeatherDataset',
                data_root='data/drivingstereo_weather',
                weather=name,
                split='all',
                modalities=('rgb', 'depth'),
                test_mode=True,
                pipeline=tta_pipeline)
            for name in ('sunny', 'cloudy', 'rainy', 'foggy')
        }))

# ``tools/test.py``: the same frames once, one view, no adaptation
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    # several processes share the frames; none is repeated to fill up
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(
        type='mmext.DomainSequence',
        domains={
            name: dict(
                type='mmext.DrivingStereoWeatherDataset',
                data_root='data/drivingstereo_weather',
                weather=name,
                split='all',
                modalities=('rgb', 'depth'),
                test_mode=True,
                pipeline=test_pipeline)
            for name in ('sunny', 'cloudy', 'rainy', 'foggy')
        }))
test_cfg = dict(type='TestLoop')
test_evaluator = dict(
    type='mmext.DomainDepthMetric',
    domains=['sunny', 'cloudy', 'rainy', 'foggy'],
    max_depth=80.,
    crop='garg')
