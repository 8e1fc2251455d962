# CIFAR-10, 800 images, ViT-S/14: sparse adapter, fixed mask.
_base_ = [
    '../_base_/models/vit-small-p14_sparse-adapter.py',
    '../_base_/datasets/cifar10_112px.py',
    '../_base_/schedules/peft_adamw_15e.py', '../_base_/peft_runtime.py'
]

model = dict(
    module=dict(
        data_preprocessor=dict(to_rgb=False),  # the images are red first
        head=dict(num_classes=10)))
