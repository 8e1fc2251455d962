# MoSA (arXiv 2312.02923), ViT-B/16, FGVC-Aircraft: the authors' recipe. There
# is no validation set: the last epoch counts.
_base_ = [
    '../_base_/models/vit-base-p16_mosa.py',
    '../_base_/datasets/fgvc_aircraft.py',
    '../_base_/schedules/peft_adamw_100e.py', '../_base_/peft_runtime.py'
]

# model setting
model = dict(module=dict(head=dict(num_classes=100)))

# schedule setting
optim_wrapper = dict(optimizer=dict(lr=5e-3))
