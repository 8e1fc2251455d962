# CamVid as a stream: dusk (0001TP, 124 frames, real), then fog, night, rain
# and snow made from the held-out day sequence (Seq05VD, 171 frames each) by
#   python tools/dataset_converters/camvid_weather.py \
#       --src $MMEXT_CAMVID --out data/camvid_weather
# at severity 2. 480x360; views at ratios 0.75, 1.0, 1.25, each plain, then
# mirrored; view 2 is the reference.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(360, 270), keep_ratio=False),
                dict(type='Resize', scale=(480, 360), keep_ratio=False),
                dict(type='Resize', scale=(600, 450), keep_ratio=False)
            ],
            [
                dict(type='RandomFlip', prob=0.),
                dict(type='RandomFlip', prob=1.)
            ],
            # after the two above: the label keeps the original size
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')]
        ])
]

# one view; the label is loaded after the resize: scored at its own size
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(480, 360), keep_ratio=False),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]

# the stream to adapt to: read once, in order, frame by frame
train_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='mmext.StreamSampler'),
    dataset=dict(
        type='mmext.DomainSequence',
        rounds=3,
        domains=dict(
            dusk=dict(
                type='mmext.CamVidDataset',
                data_root='{{$MMEXT_CAMVID:data/camvid}}',
                sequences=('0001TP', ),
                test_mode=True,
                pipeline=tta_pipeline),
            **{
                name: dict(
                    type='mmext.CamVidDataset',
                    data_root=f'data/camvid_weather/{name}_2',
                    sequences=('Seq05VD', ),
                    test_mode=True,
                    pipeline=tta_pipeline)
                for name in ('fog', 'night', 'rain', 'snow')
            })))

# ``tools/test.py``: the same frames once, one view, no adaptation
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(
        type='mmext.DomainSequence',
        domains=dict(
            dusk=dict(
                type='mmext.CamVidDataset',
                data_root='{{$MMEXT_CAMVID:data/camvid}}',
                sequences=('0001TP', ),
                test_mode=True,
                pipeline=test_pipeline),
            **{
                name: dict(
                    type='mmext.CamVidDataset',
                    data_root=f'data/camvid_weather/{name}_2',
                    sequences=('Seq05VD', ),
                    test_mode=True,
                    pipeline=test_pipeline)
                for name in ('fog', 'night', 'rain', 'snow')
            })))
test_cfg = dict(type='TestLoop')
test_evaluator = dict(
    type='mmext.DomainIoUMetric',
    domains=['dusk', 'fog', 'night', 'rain', 'snow'])
