# Test-time adaptation, one domain at a time: everything returns to the source
# at each domain, and each is visited once.
_base_ = './cityscapes_acdc.py'

train_dataloader = dict(dataset=dict(rounds=1))
train_cfg = dict(reset='domain')
