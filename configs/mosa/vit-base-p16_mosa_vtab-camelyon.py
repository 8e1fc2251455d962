# MoSA, ViT-B/16, VTAB-1k, Patch Camelyon (specialised).
_base_ = './vit-base-p16_mosa_vtab-cifar100.py'

model = dict(module=dict(head=dict(num_classes=2)))
train_dataloader = dict(dataset=dict(task='patch_camelyon'))
val_dataloader = dict(dataset=dict(task='patch_camelyon'))
test_dataloader = dict(dataset=dict(task='patch_camelyon'))
