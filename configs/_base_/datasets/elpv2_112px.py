# ELPV: photos of solar cells, defective or not, at 112 px; 800 images to train
# on, 200 to choose settings, 1624 to report. With num_classes=4 or 8 in all
# three loaders (and in the head) the classes are finer, the split is the same.
# See mmext.ELPVDataset for how to get the data.
dataset_type = 'mmext.ELPVDataset'
data_root = 'data/elpv/elpv_dataset/data'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='Resize',
        scale=(112, 112),
        interpolation='bicubic',
        backend='pillow'),
    dict(
        type='RandomFlip',
        prob=[0.25, 0.25, 0.25],
        direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='Resize',
        scale=(112, 112),
        interpolation='bicubic',
        backend='pillow'),
    dict(type='PackInputs')
]

train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmext.SubsetDataset',
        fraction=1.0,  # less: the low-resource setting
        seed=0,
        dataset=dict(
            type=dataset_type,
            num_classes=2,
            data_root=data_root,
            split='train',
            pipeline=train_pipeline)))
val_dataloader = dict(
    batch_size=100,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        num_classes=2,
        data_root=data_root,
        split='val',
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = dict(
    batch_size=100,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        num_classes=2,
        data_root=data_root,
        split='test',
        test_mode=True,
        pipeline=test_pipeline))
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
