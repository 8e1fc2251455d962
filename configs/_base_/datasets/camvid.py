# CamVid: train on the day sequences 0006R0 and 0016E5, choose on the first 68
# frames of 0016E5 (not trained on; 65 s lie between them and the rest), report
# on Seq05VD (day, held out) and 0001TP (dusk) at the labels' own 360x480.
dataset_type = 'mmext.CamVidDataset'
data_root = '{{$MMEXT_CAMVID:data/camvid}}'
crop_size = (256, 320)  # (height, width)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(480, 360),
        ratio_range=(0.5, 2.0),
        keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')
]
# Labels are loaded after the resize: scores are at the labels' own size.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(480, 360), keep_ratio=False),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        sequences=('0006R0', '0016E5'),
        start={'0016E5': 0.223},
        min_gap=10,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        sequences=('0016E5', ),
        stop={'0016E5': 0.223},
        test_mode=True,
        pipeline=test_pipeline))
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])

# All 171 + 124 frames, each sequence with its own score.
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmext.DomainSequence',
        rounds=1,
        domains=dict(
            day=dict(
                type=dataset_type,
                data_root=data_root,
                sequences=('Seq05VD', ),
                test_mode=True,
                pipeline=test_pipeline),
            dusk=dict(
                type=dataset_type,
                data_root=data_root,
                sequences=('0001TP', ),
                test_mode=True,
                pipeline=test_pipeline))))
test_evaluator = dict(type='mmext.DomainIoUMetric')
