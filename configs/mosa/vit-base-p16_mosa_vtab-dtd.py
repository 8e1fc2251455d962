# MoSA, ViT-B/16, VTAB-1k, DTD (natural).
_base_ = './vit-base-p16_mosa_vtab-cifar100.py'

model = dict(module=dict(head=dict(num_classes=47)))
train_dataloader = dict(dataset=dict(task='dtd'))
val_dataloader = dict(dataset=dict(task='dtd'))
test_dataloader = dict(dataset=dict(task='dtd'))
