# MNIST as distance nets see it: 28x28, never resized, which would change what
# a radius in pixels means. Training shifts by a pixel, with black behind. How
# to get the data: tools/dataset_converters/mnist.py. Loaders and metrics are
# those of CIFAR-10.
_base_ = './cifar10_pad4.py'

dataset_type = 'MNIST'
data_root = 'data/mnist'

# mean 0.1307, std 0.3081 of images in [0, 1], times 255
data_preprocessor = dict(mean=[33.3285], std=[78.5655])

train_pipeline = [
    dict(type='RandomCrop', crop_size=28, padding=1),
    dict(type='PackInputs')
]

train_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        download=False,
        pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(type=dataset_type, data_root=data_root, download=False))
test_dataloader = val_dataloader
