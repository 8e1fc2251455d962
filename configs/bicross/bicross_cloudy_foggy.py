# BiCross, weather: DrivingStereo's cloudy to its foggy frames.
_base_ = [
    '../_base_/models/dpt-hybrid_cross-domain.py',
    '../_base_/datasets/drivingstereo-weather_spike.py',
    '../_base_/schedules/bicross_stage3.py', '../_base_/depth_runtime.py'
]

# all stages: python tools/train_bicross.py THIS_FILE
stages = dict(
    stage1='stage1_cloudy.py',
    stage2='stage2_cloudy.py',
    stage3='bicross_cloudy_foggy.py')
load_from = 'work_dirs/stage2_cloudy/epoch_10.pth'

# dataset setting: labelled source, target without depth; validation stays with
# the source, the target's labels are for the test only
target_pipeline = [
    dict(type='mmext.LoadSpikeFromFile', length=128),
    dict(type='mmext.KBCrop', size=(384, 864)),
    dict(type='mmext.ResizeSpike', size=(384, 384)),
    dict(type='mmext.PackDepthInputs', keys='spike')
]
train_dataloader = dict(
    sampler=dict(_delete_=True, type='mmext.SourceTargetSampler'),
    dataset=dict(
        _delete_=True,
        type='mmext.SourceTargetDataset',
        source={{_base_.train_dataloader.dataset}},
        target=dict(
            type='mmext.DrivingStereoWeatherDataset',
            data_root='data/drivingstereo_weather',
            weather='foggy',
            split='train',
            modalities=('spike', ),
            pipeline=target_pipeline)))
test_dataloader = dict(dataset=dict(weather='foggy'))
