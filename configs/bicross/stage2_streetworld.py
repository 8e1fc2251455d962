# Stage 2 of BiCross (MonoCross) on embedded street scenes, for a CPU: pairs of
# the source; the test set is the target.
_base_ = [
    '../_base_/models/dpt-tiny_cross-modality.py',
    '../_base_/datasets/streetworld-depth_rgb-spike.py',
    '../_base_/schedules/bicross_cpu.py', '../_base_/depth_runtime.py'
]

model = dict(
    # a choice; BiCross's code starts the stem from random weights
    stem='inflate',
    teacher_ckpt='work_dirs/stage1_streetworld/epoch_30.pth')
train_cfg = dict(max_epochs=20)
custom_hooks = [dict(type='mmext.DistillHook')]
