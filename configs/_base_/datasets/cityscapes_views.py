# Views of Cityscapes-like frames (2048x1024) for adaptation.

# 14 views at ratios 0.5 to 2.0 of 1024x512, each plain, then mirrored (as for
# ACDC). View 4 (1024x512, plain) is the reference view.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(512, 256), keep_ratio=True),
                dict(type='Resize', scale=(768, 384), keep_ratio=True),
                dict(type='Resize', scale=(1024, 512), keep_ratio=True),
                dict(type='Resize', scale=(1280, 640), keep_ratio=True),
                dict(type='Resize', scale=(1536, 768), keep_ratio=True),
                dict(type='Resize', scale=(1792, 896), keep_ratio=True),
                dict(type='Resize', scale=(2048, 1024), keep_ratio=True)
            ],
            [
                dict(type='RandomFlip', prob=0.),
                dict(type='RandomFlip', prob=1.)
            ],
            # after the two above: the label keeps the original size
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')]
        ])
]

# one view of 1024x512
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1024, 512), keep_ratio=True),
    # after the resize: scored at the original size
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]

# the stream to adapt to: read once, in order, frame by frame
train_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='mmext.StreamSampler'),
    dataset=dict(type='mmext.DomainSequence', rounds=1))

# ``tools/test.py``: the same frames once, one view, no adaptation
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    # several processes share the frames; none is repeated to fill up
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(type='mmext.DomainSequence'))
test_cfg = dict(type='TestLoop')
test_evaluator = dict(type='mmext.DomainIoUMetric')
