# MoSA, ViT-B/16, VTAB-1k, DMLab (structured).
_base_ = './vit-base-p16_mosa_vtab-cifar100.py'

model = dict(module=dict(head=dict(num_classes=6)))
train_dataloader = dict(dataset=dict(task='dmlab'))
val_dataloader = dict(dataset=dict(task='dmlab'))
test_dataloader = dict(dataset=dict(task='dmlab'))
