# MoSA (arXiv 2312.02923), ViT-B/16, multi-task: the five FGVC sets under one
# classifier of 1173 outputs, the authors' recipe. Both projections are split
# into two modules.
_base_ = [
    '../_base_/models/vit-base-p16_mosa.py',
    '../_base_/datasets/fgvc_joint.py',
    '../_base_/schedules/peft_adamw_100e.py', '../_base_/peft_runtime.py'
]

# model setting
model = dict(
    module=dict(head=dict(num_classes=1173)), num_modules=2, split='both')

# schedule setting: the epoch is chosen on the validation images
optim_wrapper = dict(optimizer=dict(lr=5e-4))
train_cfg = dict(val_interval=1)
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1'))
