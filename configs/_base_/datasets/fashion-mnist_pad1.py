# Fashion-MNIST as distance nets see it, shifted by a pixel like MNIST. How to
# get the data: tools/dataset_converters/fashion_mnist.py.
_base_ = './mnist_pad1.py'

dataset_type = 'FashionMNIST'
data_root = 'data/fashion-mnist'

# mean 0.2860, std 0.3520 of images in [0, 1], times 255
data_preprocessor = dict(mean=[72.93], std=[89.76])

train_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root))
val_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root))
test_dataloader = val_dataloader
