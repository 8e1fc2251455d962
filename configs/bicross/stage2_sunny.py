# Stage 2 of BiCross (MonoCross) on pairs of DrivingStereo's sunny frames.
_base_ = './stage2_cloudy.py'

model = dict(teacher_ckpt='work_dirs/stage1_sunny/epoch_30.pth')
weather = 'sunny'
train_dataloader = dict(dataset=dict(weather=weather))
val_dataloader = dict(dataset=dict(weather=weather))
test_dataloader = val_dataloader
