# CIFAR-10 as distance nets see it: 32x32, shifted by up to four pixels with
# black behind, mirrored. The images are red first. How to get the data:
# tools/dataset_converters/cifar10.py.
dataset_type = 'mmext.CIFAR10Binary'
data_root = 'data/cifar10'

# mean 0.4914, 0.4822, 0.4465, std 0.2009 of images in [0, 1], times 255.
# One std for all channels: a ball of pixels stays a cube.
data_preprocessor = dict(
    num_classes=10,
    mean=[125.307, 122.961, 113.8575],
    std=[51.2295] * 3,
    to_rgb=False)

train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs')
]
test_pipeline = [dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=512,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='train',
        pipeline=train_pipeline))
# the test set: nothing is chosen by it, the last epoch is reported
val_dataloader = dict(
    batch_size=500,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='test',
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='Accuracy', topk=1),
    dict(type='mmext.CertifiedAccuracy')
]
test_evaluator = val_evaluator
