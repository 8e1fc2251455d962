# Stage 1 of BiCross: supervised depth from RGB of DrivingStereo's sunny
# frames.
_base_ = './stage1_cloudy.py'

weather = 'sunny'
train_dataloader = dict(dataset=dict(weather=weather))
val_dataloader = dict(dataset=dict(weather=weather))
test_dataloader = val_dataloader
