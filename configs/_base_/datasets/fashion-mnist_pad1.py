# Fashion-MNIST as distance nets see it: 28x28, never resized, which would
# change what a radius in pixels means. Training shifts by a pixel, with black
# behind. How to get the data: tools/dataset_converters/fashion_mnist.py.
dataset_type = 'FashionMNIST'
data_root = 'data/fashion-mnist'

# mean 0.2860, std 0.3520 of images in [0, 1], times 255
data_preprocessor = dict(
    num_classes=10, mean=[72.93], std=[89.76], to_rgb=False)

train_pipeline = [
    dict(type='RandomCrop', crop_size=28, padding=1),
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
        download=False,
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
        download=False,
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='Accuracy', topk=1),
    dict(type='mmext.CertifiedAccuracy')
]
test_evaluator = val_evaluator
