# TENT on the stream on which settings are chosen.
_base_ = './camvid_lite0_tune.py'

train_cfg = dict(
    method=dict(_delete_=True, type='mmext.Tent', loss='pseudo_label'))

# this method looks at one view: the reference, 336x252
train_dataloader = dict(
    dataset=dict(
        domains=dict(
            fog=dict(pipeline={{_base_.test_pipeline}}),
            night=dict(pipeline={{_base_.test_pipeline}}),
            rain=dict(pipeline={{_base_.test_pipeline}}),
            snow=dict(pipeline={{_base_.test_pipeline}}))))
