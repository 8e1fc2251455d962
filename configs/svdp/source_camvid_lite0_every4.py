# Baseline: the source model, one view, nothing adapts.
_base_ = './camvid_lite0_every4.py'

train_cfg = dict(method=dict(_delete_=True, type='mmext.SourceOnly'))

# this method looks at one view: the reference, 336x252
train_dataloader = dict(
    dataset=dict(
        domains=dict(
            dusk=dict(pipeline={{_base_.test_pipeline}}),
            fog=dict(pipeline={{_base_.test_pipeline}}),
            night=dict(pipeline={{_base_.test_pipeline}}),
            rain=dict(pipeline={{_base_.test_pipeline}}),
            snow=dict(pipeline={{_base_.test_pipeline}}))))
