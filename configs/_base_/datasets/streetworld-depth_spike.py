# Embedded street scenes, spikes: trained and validated on the source, tested
# on the target. That has other towns, by night, a slightly longer lens, and a
# spike sensor with measured noise and another gain. The lens is kept near the
# source's, since it scales all depth, which no frame without labels tells.
_base_ = './streetworld-depth_rgb.py'

# pipelines
train_pipeline = [
    dict(type='mmext.RenderStreetWorldSpikes'),
    dict(type='mmext.PackDepthInputs', keys='spike')
]

# data sets
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(
    dataset=dict(
        pipeline=train_pipeline,
        domain='night',
        focal=150.,
        camera=dict(_delete_=True, preset='scsim', gain=0.2)))
