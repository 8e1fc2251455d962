# The stream on which settings for CamVid are chosen, none of whose frames is
# scored: fog, night, rain and snow made from the first 68 frames of 0016E5,
# which the source models were not trained on, with another random state, by
#   python tools/dataset_converters/camvid_weather.py \
#       --src $MMEXT_CAMVID --out data/camvid_weather_tune \
#       --sequence 0016E5 --stop 0.223 --salt 1
# The views are those of camvid_weather_sequence.py.
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
        rounds=1,
        domains=dict(
            fog=dict(
                type='mmext.CamVidDataset',
                data_root='data/camvid_weather_tune/fog_2',
                sequences=('0016E5', ),
                test_mode=True,
                pipeline=tta_pipeline),
            night=dict(
                type='mmext.CamVidDataset',
                data_root='data/camvid_weather_tune/night_2',
                sequences=('0016E5', ),
                test_mode=True,
                pipeline=tta_pipeline),
            rain=dict(
                type='mmext.CamVidDataset',
                data_root='data/camvid_weather_tune/rain_2',
                sequences=('0016E5', ),
                test_mode=True,
                pipeline=tta_pipeline),
            snow=dict(
                type='mmext.CamVidDataset',
                data_root='data/camvid_weather_tune/snow_2',
                sequences=('0016E5', ),
                test_mode=True,
                pipeline=tta_pipeline))))

# ``tools/test.py``: the same frames once, one view, no adaptation
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(
        type='mmext.DomainSequence',
        domains=dict(
            fog=dict(
                type='mmext.CamVidDataset',
                data_root='data/camvid_weather_tune/fog_2',
                sequences=('0016E5', ),
                test_mode=True,
                pipeline=test_pipeline),
            night=dict(
                type='mmext.CamVidDataset',
                data_root='data/camvid_weather_tune/night_2',
                sequences=('0016E5', ),
                test_mode=True,
                pipeline=test_pipeline),
            rain=dict(
                type='mmext.CamVidDataset',
                data_root='data/camvid_weather_tune/rain_2',
                sequences=('0016E5', ),
                test_mode=True,
                pipeline=test_pipeline),
            snow=dict(
                type='mmext.CamVidDataset',
                data_root='data/camvid_weather_tune/snow_2',
                sequences=('0016E5', ),
                test_mode=True,
                pipeline=test_pipeline))))
test_cfg = dict(type='TestLoop')
test_evaluator = dict(
    type='mmext.DomainIoUMetric', domains=['fog', 'night', 'rain', 'snow'])
