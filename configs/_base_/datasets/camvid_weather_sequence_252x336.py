# camvid_weather_sequence.py for networks with patches of 14: 336x252, views at
# ratios 0.75, 1.0 and 1.25, rounded to whole patches.
_base_ = ['./camvid_weather_sequence.py']

tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(252, 196), keep_ratio=False),
                dict(type='Resize', scale=(336, 252), keep_ratio=False),
                dict(type='Resize', scale=(420, 308), keep_ratio=False)
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

# one view; the label is loaded after the resize: scored at its own size
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(336, 252), keep_ratio=False),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]

train_dataloader = dict(
    dataset=dict(
        domains={
            name: dict(pipeline=tta_pipeline)
            for name in ('dusk', 'fog', 'night', 'rain', 'snow')
        }))
test_dataloader = dict(
    dataset=dict(
        domains={
            name: dict(pipeline=test_pipeline)
            for name in ('dusk', 'fog', 'night', 'rain', 'snow')
        }))
