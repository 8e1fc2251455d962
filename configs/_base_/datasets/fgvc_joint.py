# The five fine-grained sets as one task of 1173 classes: the labels start at
# 0, 196, 396, 516 and 618 (order of the authors' code). Scores are taken in
# the joint label space; no task is told.
dataset_type = 'mmext.FGVCDataset'
data_root = 'data/fgvc'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='ResizeEdge',
        scale=256,
        edge='short',
        interpolation='bilinear',
        backend='pillow'),
    dict(type='RandomCrop', crop_size=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='ResizeEdge',
        scale=256,
        edge='short',
        interpolation='bilinear',
        backend='pillow'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs')
]

train_part = dict(
    type=dataset_type,
    data_root=data_root,
    split='train',
    pipeline=train_pipeline)
val_part = dict(
    type=dataset_type,
    data_root=data_root,
    split='val',
    test_mode=True,
    pipeline=test_pipeline)
test_part = dict(
    type=dataset_type,
    data_root=data_root,
    split='test',
    test_mode=True,
    pipeline=test_pipeline)
train_dataloader = dict(
    batch_size=128,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmext.JointLabelDataset',
        datasets=dict(
            cars=dict(train_part, task='cars'),
            cub=dict(train_part, task='cub'),
            dogs=dict(train_part, task='dogs'),
            flowers=dict(train_part, task='flowers'),
            nabirds=dict(train_part, task='nabirds'))))
val_dataloader = dict(
    batch_size=128,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmext.JointLabelDataset',
        datasets=dict(
            cars=dict(val_part, task='cars'),
            cub=dict(val_part, task='cub'),
            dogs=dict(val_part, task='dogs'),
            flowers=dict(val_part, task='flowers'),
            nabirds=dict(val_part, task='nabirds'))))
test_dataloader = dict(
    batch_size=128,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmext.JointLabelDataset',
        datasets=dict(
            cars=dict(test_part, task='cars'),
            cub=dict(test_part, task='cub'),
            dogs=dict(test_part, task='dogs'),
            flowers=dict(test_part, task='flowers'),
            nabirds=dict(test_part, task='nabirds'))))
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
