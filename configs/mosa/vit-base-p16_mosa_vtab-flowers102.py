# MoSA, ViT-B/16, VTAB-1k, Flowers102 (natural).
_base_ = './vit-base-p16_mosa_vtab-cifar100.py'

model = dict(module=dict(head=dict(num_classes=102)))
train_dataloader = dict(dataset=dict(task='oxford_flowers102'))
val_dataloader = dict(dataset=dict(task='oxford_flowers102'))
test_dataloader = dict(dataset=dict(task='oxford_flowers102'))
