# The supervised bound on embedded street scenes: labelled spikes of the
# target, from the RGB network of stage 1 on, as many epochs of spikes as
# stages 2 and 3 have together.
_base_ = './stage2_streetworld.py'

model = dict(ckd=dict(weight=0.), fkd=dict(weight=0.))
camera = dict(_delete_=True, preset='scsim', gain=0.2)
train_dataloader = dict(
    dataset=dict(domain='night', focal=150., camera=camera))
val_dataloader = dict(dataset=dict(domain='night', focal=150., camera=camera))
train_cfg = dict(max_epochs=30)
