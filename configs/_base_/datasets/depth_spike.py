# Depth from 128 spike moments instead of RGB, in batches of 8.
_base_ = './depth_rgb.py'

# pipelines; spikes are resized in the workers, so that less travels
train_pipeline = [
    dict(type='mmext.LoadSpikeFromFile', length=128),
    dict(type='mmext.LoadDepth'),
    dict(type='mmext.KBCrop', size=(352, 1216)),
    dict(type='mmext.ResizeSpike', size=(384, 384)),
    dict(type='mmext.PackDepthInputs', keys='spike')
]
test_pipeline = [
    dict(type='mmext.LoadSpikeFromFile', length=128),
    dict(type='mmext.KBCrop', size=(352, 1216)),
    dict(type='mmext.ResizeSpike', size=(384, 384)),
    dict(type='mmext.LoadDepth'),
    dict(type='mmext.PackDepthInputs', keys='spike')
]

# data sets
modalities = ('spike', 'depth')
train_dataloader = dict(
    batch_size=8, dataset=dict(modalities=modalities, pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(modalities=modalities, pipeline=test_pipeline))
test_dataloader = val_dataloader
