# Embedded street scenes as a stream of spikes: fog, night, rain, snow, 60
# frames each, seen by the target's camera and sensor of BiCross's configs.
# Night is the target that stage 3 has seen (other frames of it), the others
# are new. Frames are drawn once and kept in cache_dir.

# 2 views, plain and mirrored; view 0 is the reference, as the sensor gives it.
# No other sizes: the network has seen one size only, and knows depth by how
# large things look. On clear frames of its own training domain (validation)
# one view has AbsRel 0.134, these two 0.129, and six with ratios 0.8 and 1.25
# 0.491.
tta_pipeline = [
    dict(type='mmext.RenderStreetWorldSpikes', keys='spike'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='mmext.RandomDepthFlip', prob=0.),
                dict(type='mmext.RandomDepthFlip', prob=1.)
            ],
            # after the above: depth keeps its size and is not mirrored
            [dict(type='mmext.RenderStreetWorldSpikes', keys='gt_depth_map')],
            [dict(type='mmext.PackDepthInputs', keys='spike')]
        ])
]

# one view
test_pipeline = [
    dict(type='mmext.RenderStreetWorldSpikes', keys=('spike', 'gt_depth_map')),
    dict(type='mmext.PackDepthInputs', keys='spike')
]

# the stream to adapt to: read once, in order, frame by frame
train_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='mmext.StreamSampler'),
    dataset=dict(
        type='mmext.DomainSequence',
        rounds=1,
        domains={
            name:
            dict(
                type='mmext.StreetWorldDepthDataset',
                domain=name,
                split='val',
                frames=60,
                focal=150.,
                camera=dict(preset='scsim', gain=0.2),
                cache_dir='data/streetworld_depth',
                test_mode=True,
                pipeline=tta_pipeline)
            for name in ('fog', 'night', 'rain', 'snow')
        }))

# ``tools/test.py``: the same frames once, one view, no adaptation
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(
        type='mmext.DomainSequence',
        domains={
            name:
            dict(
                type='mmext.StreetWorldDepthDataset',
                domain=name,
                split='val',
                frames=60,
                focal=150.,
                camera=dict(preset='scsim', gain=0.2),
                cache_dir='data/streetworld_depth',
                test_mode=True,
                pipeline=test_pipeline)
            for name in ('fog', 'night', 'rain', 'snow')
        }))
test_cfg = dict(type='TestLoop')
test_evaluator = dict(
    type='mmext.DomainDepthMetric',
    domains=['fog', 'night', 'rain', 'snow'],
    max_depth=80.,
    crop='garg')
