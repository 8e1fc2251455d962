# BiCross, weather: DrivingStereo's sunny to its rainy frames.
_base_ = './bicross_cloudy_rainy.py'

stages = dict(
    stage1='stage1_sunny.py',
    stage2='stage2_sunny.py',
    stage3='bicross_sunny_rainy.py')
load_from = 'work_dirs/stage2_sunny/epoch_10.pth'

train_dataloader = dict(dataset=dict(source=dict(weather='sunny')))
val_dataloader = dict(dataset=dict(weather='sunny'))
