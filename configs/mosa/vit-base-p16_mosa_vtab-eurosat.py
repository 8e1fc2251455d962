# MoSA, ViT-B/16, VTAB-1k, EuroSAT (specialised).
_base_ = './vit-base-p16_mosa_vtab-cifar100.py'

model = dict(module=dict(head=dict(num_classes=10)))
train_dataloader = dict(dataset=dict(task='eurosat'))
val_dataloader = dict(dataset=dict(task='eurosat'))
test_dataloader = dict(dataset=dict(task='eurosat'))
