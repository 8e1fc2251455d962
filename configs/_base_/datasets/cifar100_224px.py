# CIFAR-100 enlarged to 224 px; mmpretrain's class. It downloads the data with
# download=True; without, a missing folder ends in a message before the run.
# Its images are red first already: the model's preprocessor needs
# to_rgb=False.
dataset_type = 'CIFAR100'
data_root = 'data/cifar100'

train_pipeline = [
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
    dict(
        type='ResizeEdge',
        scale=256,
        edge='short',
        interpolation='bilinear',
        backend='pillow'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs')
]

train_dataloader = dict(
    batch_size=128,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        download=False,
        split='train',
        pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=128,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        download=False,
        split='test',
        test_mode=True,
        pipeline=test_pipeline))
test_evaluator = dict(type='Accuracy', topk=1)
# the schedule looks at it once, after the last epoch: nothing is chosen by it
val_dataloader = test_dataloader
val_evaluator = test_evaluator
