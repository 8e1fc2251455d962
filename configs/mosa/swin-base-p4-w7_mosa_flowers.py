# MoSA (arXiv 2312.02923), Swin-B, Oxford Flowers: the authors' recipe.
_base_ = [
    '../_base_/models/swin-base-p4-w7_mosa.py', '../_base_/datasets/fgvc.py',
    '../_base_/schedules/peft_adamw_100e.py', '../_base_/peft_runtime.py'
]

# model setting
model = dict(module=dict(head=dict(num_classes=102)))

# data setting
train_dataloader = dict(dataset=dict(task='flowers'))
val_dataloader = dict(dataset=dict(task='flowers'))
test_dataloader = dict(dataset=dict(task='flowers'))

# schedule setting: the epoch is chosen on the validation images
optim_wrapper = dict(optimizer=dict(lr=5e-3))
train_cfg = dict(val_interval=1)
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1'))
