# Pre_src on spikes of DrivingStereo's sunny frames.
_base_ = './pre-src_cloudy.py'

weather = 'sunny'
train_dataloader = dict(dataset=dict(weather=weather))
val_dataloader = dict(dataset=dict(weather=weather))
test_dataloader = val_dataloader
