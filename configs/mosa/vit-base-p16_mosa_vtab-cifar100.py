# MoSA (arXiv 2312.02923), ViT-B/16, VTAB-1k, CIFAR-100 (natural): the
# authors' recipe, the same for all 19 tasks.
_base_ = [
    '../_base_/models/vit-base-p16_mosa.py', '../_base_/datasets/vtab.py',
    '../_base_/schedules/peft_adamw_100e.py', '../_base_/peft_runtime.py'
]

# model setting
model = dict(
    module=dict(head=dict(num_classes=100)), adapter=dict(bottleneck=16))

# data setting
train_dataloader = dict(dataset=dict(task='cifar'))
val_dataloader = dict(dataset=dict(task='cifar'))
test_dataloader = dict(dataset=dict(task='cifar'))

# schedule setting: eight iterations an epoch
optim_wrapper = dict(optimizer=dict(lr=5e-3))
