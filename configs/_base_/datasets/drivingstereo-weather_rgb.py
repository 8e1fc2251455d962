# DrivingStereo's cloudy frames at half size, RGB and depth: the first 80 % by
# name for training. Split, crop and batch of 16: BiCross's code. Other
# weathers: set weather of the three data sets.
_base_ = './depth_rgb.py'

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
    dataset=dict(
        type='mmext.DrivingStereoWeatherDataset',
        data_root='data/drivingstereo_weather',
        weather='cloudy',
        split='train',
        pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        type='mmext.DrivingStereoWeatherDataset',
        data_root='data/drivingstereo_weather',
        weather='cloudy',
        split='test',
        pipeline=test_pipeline))
test_dataloader = val_dataloader
