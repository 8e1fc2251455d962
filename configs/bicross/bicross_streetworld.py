# BiCross on embedded street scenes, for a CPU: to other towns by night, with
# noisy spikes of another gain. Sized for at most an hour for all stages on two
# cores.
_base_ = [
    '../_base_/models/dpt-tiny_cross-domain.py',
    '../_base_/datasets/streetworld-depth_source-target.py',
    '../_base_/schedules/bicross_cpu.py', '../_base_/depth_runtime.py'
]

# all stages: python tools/train_bicross.py THIS_FILE
stages = dict(
    stage1='stage1_streetworld.py',
    stage2='stage2_streetworld.py',
    stage3='bicross_streetworld.py')
load_from = 'work_dirs/stage2_streetworld/epoch_20.pth'

# schedule: a tenth of the rate of stages 1 and 2
optim_wrapper = dict(optimizer=dict(lr=1e-4))
train_cfg = dict(max_epochs=10)
custom_hooks = [
    dict(
        type='mmext.MeanTeacherHook',
        decay=0.999,
        evaluate='student',
        save='student'),
    dict(type='mmext.DistillHook')
]
# some heads have no gradient during the warm-up
find_unused_parameters = True
