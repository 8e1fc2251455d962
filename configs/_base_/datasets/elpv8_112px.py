# ELPV with 8 classes, otherwise as elpv2_112px.py.
_base_ = './elpv2_112px.py'

train_dataloader = dict(dataset=dict(dataset=dict(num_classes=8)))
val_dataloader = dict(dataset=dict(num_classes=8))
test_dataloader = dict(dataset=dict(num_classes=8))
