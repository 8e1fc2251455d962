# Stage 2 of BiCross (MonoCross): from the RGB network of stage 1 to a spike
# network, on pairs of KITTI.
_base_ = [
    '../_base_/models/dpt-hybrid_cross-modality.py',
    '../_base_/datasets/kitti_rgb-spike.py',
    '../_base_/schedules/bicross_stage2.py', '../_base_/depth_runtime.py'
]

# model setting; the student starts from the same file, all but the stem
model = dict(teacher_ckpt='work_dirs/stage1_kitti/epoch_30.pth')
