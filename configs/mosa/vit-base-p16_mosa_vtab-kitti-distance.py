# MoSA, ViT-B/16, VTAB-1k, KITTI distance (structured).
_base_ = './vit-base-p16_mosa_vtab-cifar100.py'

model = dict(module=dict(head=dict(num_classes=4)))
train_dataloader = dict(dataset=dict(task='kitti'))
val_dataloader = dict(dataset=dict(task='kitti'))
test_dataloader = dict(dataset=dict(task='kitti'))
