# CIFAR-100 as distance nets see it, shifted and mirrored like CIFAR-10. The
# images are red first.
_base_ = './cifar10_pad4.py'

dataset_type = 'CIFAR100'
data_root = 'data/cifar100'

# mean 0.5071, 0.4867, 0.4408, std 0.2667 of images in [0, 1], times 255.
# One std for all channels: a ball of pixels stays a cube.
data_preprocessor = dict(
    num_classes=100, mean=[129.3105, 124.1085, 112.404], std=[68.0085] * 3)

train_dataloader = dict(
    dataset=dict(type=dataset_type, data_root=data_root, download=False))
val_dataloader = dict(
    dataset=dict(type=dataset_type, data_root=data_root, download=False))
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='Accuracy', topk=(1, 5)),
    dict(type='mmext.CertifiedAccuracy')
]
test_evaluator = val_evaluator
