# The supervised bound on embedded street scenes: labelled spikes of the
# target.
_base_ = './pre-src_streetworld.py'

camera = dict(_delete_=True, preset='scsim', gain=0.2)
train_dataloader = dict(
    dataset=dict(domain='night', focal=150., camera=camera))
val_dataloader = dict(dataset=dict(domain='night', focal=150., camera=camera))
