# BiCross, weather: DrivingStereo's cloudy to its rainy frames.
_base_ = './bicross_cloudy_foggy.py'

stages = dict(stage3='bicross_cloudy_rainy.py')

train_dataloader = dict(dataset=dict(target=dict(weather='rainy')))
test_dataloader = dict(dataset=dict(weather='rainy'))
