# Fashion-MNIST, 800 images, ViT-S/14: MoSA.
_base_ = [
    '../_base_/models/vit-small-p14_mosa.py',
    '../_base_/datasets/fashion-mnist_112px.py',
    '../_base_/schedules/peft_adamw_15e.py', '../_base_/peft_runtime.py'
]

model = dict(module=dict(head=dict(num_classes=10)))
