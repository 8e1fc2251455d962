# NYU depth v2, RGB and depth, no crop. Batch of 16: BiCross's code. Depth up
# to 10 m as customary; the code leaves it at 80 m, and takes Garg's rectangle
# here, too.
_base_ = './depth_rgb.py'

# pipelines
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmext.LoadDepth'),
    dict(type='mmext.PackDepthInputs', keys='rgb')
]
test_pipeline = train_pipeline

# data sets
train_dataloader = dict(
    dataset=dict(
        type='mmext.NYUDepthDataset',
        data_root='data/nyu',
        ann_file='nyu_train.txt',
        pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        type='mmext.NYUDepthDataset',
        data_root='data/nyu',
        ann_file='nyu_test.txt',
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(max_depth=10.)
test_evaluator = val_evaluator
