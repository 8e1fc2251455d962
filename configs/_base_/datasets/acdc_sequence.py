# ACDC as a stream: fog, night, rain, snow; training split, 400 frames each,
# 1920x1080, in the order of the file names (CoTTA, arXiv 2203.13591, Sec. 4;
# the logs of SVDP's authors show the same).

# 14 views at ratios 0.5 to 2.0 of 960x540, each plain, then mirrored (SVDP's
# code). View 4 (960x540, plain) is the reference view. keep_ratio gives these
# sizes exactly for 16:9 and does not distort frames of other shapes.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(480, 270), keep_ratio=True),
                dict(type='Resize', scale=(720, 405), keep_ratio=True),
                dict(type='Resize', scale=(960, 540), keep_ratio=True),
                dict(type='Resize', scale=(1200, 675), keep_ratio=True),
                dict(type='Resize', scale=(1440, 810), keep_ratio=True),
                dict(type='Resize', scale=(1680, 945), keep_ratio=True),
                dict(type='Resize', scale=(1920, 1080), keep_ratio=True)
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

# one view of 960x540
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(960, 540), keep_ratio=True),
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
    dataset=dict(
        type='mmext.DomainSequence',
        rounds=3,  # as the published logs of SVDP
        domains={
            name: dict(
                type='mmext.ACDCDataset',
                data_root='data/acdc',
                data_prefix=dict(
                    img_path=f'rgb_anon/{name}/train',
                    seg_map_path=f'gt/{name}/train'),
                test_mode=True,
                pipeline=tta_pipeline)
            for name in ('fog', 'night', 'rain', 'snow')
        }))

# ``tools/test.py``: the same frames once, one view, no adaptation
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    # several processes share the frames; none is repeated to fill up
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(
        type='mmext.DomainSequence',
        domains={
            name: dict(
                type='mmext.ACDCDataset',
                data_root='data/acdc',
                data_prefix=dict(
                    img_path=f'rgb_anon/{name}/train',
                    seg_map_path=f'gt/{name}/train'),
                test_mode=True,
                pipeline=test_pipeline)
            for name in ('fog', 'night', 'rain', 'snow')
        }))
test_cfg = dict(type='TestLoop')
test_evaluator = dict(
    type='mmext.DomainIoUMetric', domains=['fog', 'night', 'rain', 'snow'])
