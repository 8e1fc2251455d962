# CIFAR-10 as VTAB-1k has its tasks: 800 images to train on, 200 to choose
# settings, drawn from the training set in equal numbers of each class; 2000 of
# the test set, likewise (num_samples=10000 takes all). Enlarged to 112 px.
# The images are red first already: the preprocessor needs to_rgb=False. See
# mmext.CIFAR10Binary for how to get the data.
dataset_type = 'mmext.CIFAR10Binary'
data_root = 'data/cifar10'

train_pipeline = [
    dict(
        type='Resize',
        scale=(112, 112),
        interpolation='bicubic',
        backend='pillow'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs')
]
test_pipeline = [
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
        num_samples=800,
        seed=0,
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            split='train',
            pipeline=train_pipeline)))
val_dataloader = dict(
    batch_size=100,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmext.SubsetDataset',
        num_samples=200,
        skip=800,
        seed=0,
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            split='train',
            test_mode=True,
            pipeline=test_pipeline)))
test_dataloader = dict(
    batch_size=100,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmext.SubsetDataset',
        num_samples=2000,
        seed=0,
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            split='test',
            test_mode=True,
            pipeline=test_pipeline)))
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
