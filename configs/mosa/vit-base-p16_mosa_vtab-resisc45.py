# MoSA, ViT-B/16, VTAB-1k, RESISC45 (specialised).
_base_ = './vit-base-p16_mosa_vtab-cifar100.py'

model = dict(module=dict(head=dict(num_classes=45)))
train_dataloader = dict(dataset=dict(task='resisc45'))
val_dataloader = dict(dataset=dict(task='resisc45'))
test_dataloader = dict(dataset=dict(task='resisc45'))
