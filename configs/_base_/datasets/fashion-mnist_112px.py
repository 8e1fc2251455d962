# Fashion-MNIST, enlarged to 112 px, as VTAB-1k has its tasks: 800 images to
# train on, 200 to choose settings, 2000 to report. mmpretrain's class reads
# the files of the Debian package dataset-fashion-mnist, which a missing folder
# tells how to get. (Its split follows test_mode.) The images are grey; the
# normalisation gives them three channels.
dataset_type = 'FashionMNIST'
data_root = 'data/fashion-mnist'

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
            download=False,
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
            download=False,
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
            download=False,
            test_mode=True,
            pipeline=test_pipeline)))
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
