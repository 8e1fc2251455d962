# MoSA (arXiv 2312.02923), ViT-B/16, CIFAR-100: the authors' recipe. There
# is no validation set: the last epoch counts.
_base_ = [
    '../_base_/models/vit-base-p16_mosa.py',
    '../_base_/datasets/cifar100_224px.py',
    '../_base_/schedules/peft_adamw_100e.py', '../_base_/peft_runtime.py'
]

# model setting
model = dict(
    module=dict(
        data_preprocessor=dict(to_rgb=False),  # the images are red first
        head=dict(num_classes=100)))

# schedule setting
optim_wrapper = dict(optimizer=dict(lr=5e-4))
