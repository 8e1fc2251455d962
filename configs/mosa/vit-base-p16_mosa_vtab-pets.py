# MoSA, ViT-B/16, VTAB-1k, Pets (natural).
_base_ = './vit-base-p16_mosa_vtab-cifar100.py'

model = dict(module=dict(head=dict(num_classes=37)))
train_dataloader = dict(dataset=dict(task='oxford_iiit_pet'))
val_dataloader = dict(dataset=dict(task='oxford_iiit_pet'))
test_dataloader = dict(dataset=dict(task='oxford_iiit_pet'))
