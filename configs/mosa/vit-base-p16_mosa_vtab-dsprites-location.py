# MoSA, ViT-B/16, VTAB-1k, dSprites x-position (structured).
_base_ = './vit-base-p16_mosa_vtab-cifar100.py'

model = dict(module=dict(head=dict(num_classes=16)))
train_dataloader = dict(dataset=dict(task='dsprites_loc'))
val_dataloader = dict(dataset=dict(task='dsprites_loc'))
test_dataloader = dict(dataset=dict(task='dsprites_loc'))
