# ELPV, 2 classes, 800 images, ViT-S/14: MoSL.
_base_ = [
    '../_base_/models/vit-small-p14_mosl.py',
    '../_base_/datasets/elpv2_112px.py',
    '../_base_/schedules/peft_adamw_15e.py', '../_base_/peft_runtime.py'
]

model = dict(module=dict(head=dict(num_classes=2)))
