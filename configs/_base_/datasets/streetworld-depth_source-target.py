# Embedded street scenes: labelled spikes of the source and spikes of the
# target without depth, 400 frames each; validation on the source, test on the
# target.
_base_ = './streetworld-depth_spike.py'

# pipelines
target_pipeline = [
    dict(type='mmext.RenderStreetWorldSpikes', keys='spike'),
    dict(type='mmext.PackDepthInputs', keys='spike')
]

# data sets
train_dataloader = dict(
    sampler=dict(_delete_=True, type='mmext.SourceTargetSampler'),
    dataset=dict(
        _delete_=True,
        type='mmext.SourceTargetDataset',
        source={{_base_.train_dataloader.dataset}},
        target=dict(
            type='mmext.StreetWorldDepthDataset',
            domain='night',
            split='train',
            frames=400,
            focal=150.,
            camera=dict(preset='scsim', gain=0.2),
            cache_dir='data/streetworld_depth',
            pipeline=target_pipeline)))
