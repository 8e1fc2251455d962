# MoSA, ViT-B/16, VTAB-1k, Diabetic Retinopathy (specialised).
_base_ = './vit-base-p16_mosa_vtab-cifar100.py'

model = dict(module=dict(head=dict(num_classes=5)))
train_dataloader = dict(dataset=dict(task='diabetic_retinopathy'))
val_dataloader = dict(dataset=dict(task='diabetic_retinopathy'))
test_dataloader = dict(dataset=dict(task='diabetic_retinopathy'))
