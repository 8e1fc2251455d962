# Stage 1 of BiCross: about 30 epochs (the authors' README).
_base_ = './bicross_adam.py'

train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
