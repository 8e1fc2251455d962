# Embedded street scenes: training pairs of RGB and spikes of the source.
_base_ = './streetworld-depth_spike.py'

# pipelines
train_pipeline = [
    dict(type='mmext.RenderStreetWorldSpikes'),
    dict(type='mmext.PackDepthInputs', keys=('rgb', 'spike'))
]

# data sets
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
