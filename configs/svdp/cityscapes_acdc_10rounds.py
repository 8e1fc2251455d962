# CoTTA's protocol of ten rounds (arXiv 2203.13591, Table 5).
_base_ = './cityscapes_acdc.py'

train_dataloader = dict(dataset=dict(rounds=10))
