# Depth: training pairs of RGB and spikes, validation on spikes.
_base_ = './depth_spike.py'

# pipelines
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmext.LoadSpikeFromFile', length=128),
    dict(type='mmext.LoadDepth'),
    dict(type='mmext.KBCrop', size=(352, 1216)),
    dict(type='mmext.ResizeSpike', size=(384, 384)),
    dict(type='mmext.PackDepthInputs', keys=('rgb', 'spike'))
]

# data sets
train_dataloader = dict(
    dataset=dict(
        modalities=('rgb', 'spike', 'depth'), pipeline=train_pipeline))
