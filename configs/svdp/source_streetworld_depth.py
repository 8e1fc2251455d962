# Baseline: the source model, one view, nothing adapts.
_base_ = './streetworld_depth.py'

train_cfg = dict(
    method=dict(
        _delete_=True,
        type='mmext.SourceOnly',
        task=dict(type='mmext.DepthTask', max_depth=80.)))

# this method looks at one view: the reference, 96x160
train_dataloader = dict(
    dataset=dict(
        domains=dict(
            fog=dict(pipeline={{_base_.test_pipeline}}),
            night=dict(pipeline={{_base_.test_pipeline}}),
            rain=dict(pipeline={{_base_.test_pipeline}}),
            snow=dict(pipeline={{_base_.test_pipeline}}))))
