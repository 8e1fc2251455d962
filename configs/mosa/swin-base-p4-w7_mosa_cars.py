# MoSA (arXiv 2312.02923), Swin-B, Stanford Cars: the authors' recipe.
# Cars is the one set with two modules, a split down-projection and the
# alignment of the first six blocks.
# The authors' Swin code stops with an error here; this is what it meant.
_base_ = [
    '../_base_/models/swin-base-p4-w7_mosa.py', '../_base_/datasets/fgvc.py',
    '../_base_/schedules/peft_adamw_100e.py', '../_base_/peft_runtime.py'
]

# model setting
model = dict(
    module=dict(head=dict(num_classes=196)),
    num_modules=2,
    split='down',
    loss=dict(deep_weight=0.01, deep_blocks=6))

# data setting
train_dataloader = dict(dataset=dict(task='cars'))
val_dataloader = dict(dataset=dict(task='cars'))
test_dataloader = dict(dataset=dict(task='cars'))

# schedule setting: the epoch is chosen on the validation images
optim_wrapper = dict(optimizer=dict(lr=5e-3))
train_cfg = dict(val_interval=1)
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1'))
