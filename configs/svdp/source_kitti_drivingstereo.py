# Baseline: the source model, one view, nothing adapts.
_base_ = './kitti_drivingstereo.py'

train_cfg = dict(
    method=dict(
        _delete_=True,
        type='mmext.SourceOnly',
        task=dict(type='mmext.DepthTask', max_depth=80.)))

# this method looks at one view: the reference, 384x384
train_dataloader = dict(
    dataset=dict(
        domains=dict(
            sunny=dict(pipeline={{_base_.test_pipeline}}),
            cloudy=dict(pipeline={{_base_.test_pipeline}}),
            rainy=dict(pipeline={{_base_.test_pipeline}}),
            foggy=dict(pipeline={{_base_.test_pipeline}}))))
