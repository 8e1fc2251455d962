# MoSA, ViT-B/16, VTAB-1k, dSprites orientation (structured).
_base_ = './vit-base-p16_mosa_vtab-cifar100.py'

model = dict(module=dict(head=dict(num_classes=16)))
train_dataloader = dict(dataset=dict(task='dsprites_ori'))
val_dataloader = dict(dataset=dict(task='dsprites_ori'))
test_dataloader = dict(dataset=dict(task='dsprites_ori'))
