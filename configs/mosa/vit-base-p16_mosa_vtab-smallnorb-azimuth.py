# MoSA, ViT-B/16, VTAB-1k, smallNORB azimuth (structured).
_base_ = './vit-base-p16_mosa_vtab-cifar100.py'

model = dict(module=dict(head=dict(num_classes=18)))
train_dataloader = dict(dataset=dict(task='smallnorb_azi'))
val_dataloader = dict(dataset=dict(task='smallnorb_azi'))
test_dataloader = dict(dataset=dict(task='smallnorb_azi'))
