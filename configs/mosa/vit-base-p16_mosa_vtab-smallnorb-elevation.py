# MoSA, ViT-B/16, VTAB-1k, smallNORB elevation (structured).
_base_ = './vit-base-p16_mosa_vtab-cifar100.py'

model = dict(module=dict(head=dict(num_classes=9)))
train_dataloader = dict(dataset=dict(task='smallnorb_ele'))
val_dataloader = dict(dataset=dict(task='smallnorb_ele'))
test_dataloader = dict(dataset=dict(task='smallnorb_ele'))
