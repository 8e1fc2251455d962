# MoSA, ViT-B/16, VTAB-1k, Caltech101 (natural).
_base_ = './vit-base-p16_mosa_vtab-cifar100.py'

model = dict(module=dict(head=dict(num_classes=102)))
train_dataloader = dict(dataset=dict(task='caltech101'))
val_dataloader = dict(dataset=dict(task='caltech101'))
test_dataloader = dict(dataset=dict(task='caltech101'))
