# Embedded street scenes, spikes: trained and validated on the source, tested
# on the target. That has another town, a longer lens further up in another
# car, fog, and a spike sensor with measured noise and another gain.
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
        domain='fog',
        focal=160.,
        drive=dict(height=1.7),
        camera=dict(_delete_=True, preset='scsim', gain=0.4)))
