# ELPV with 4 classes, otherwise as elpv2_112px.py.
_base_ = './elpv2_112px.py'

train_dataloader = dict(dataset=dict(dataset=dict(num_classes=4)))
val_dataloader = dict(dataset=dict(num_classes=4))
test_dataloader = dict(dataset=dict(num_classes=4))
