# MoSA (arXiv 2312.02923), ViT-B/16, Food-101: the authors' recipe. There
# is no validation set: the last epoch counts.
_base_ = [
    '../_base_/models/vit-base-p16_mosa.py', '../_base_/datasets/food101.py',
    '../_base_/schedules/peft_adamw_100e.py', '../_base_/peft_runtime.py'
]

# model setting
model = dict(module=dict(head=dict(num_classes=101)))

# schedule setting
optim_wrapper = dict(optimizer=dict(lr=5e-4))
