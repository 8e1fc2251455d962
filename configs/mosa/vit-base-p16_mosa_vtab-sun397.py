# MoSA, ViT-B/16, VTAB-1k, SUN397 (natural).
_base_ = './vit-base-p16_mosa_vtab-cifar100.py'

model = dict(module=dict(head=dict(num_classes=397)))
train_dataloader = dict(dataset=dict(task='sun397'))
val_dataloader = dict(dataset=dict(task='sun397'))
test_dataloader = dict(dataset=dict(task='sun397'))
