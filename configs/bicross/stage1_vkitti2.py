# Stage 1 of BiCross: supervised depth from RGB of Virtual KITTI 2.
_base_ = [
    '../_base_/models/dpt-hybrid_in1k.py', '../_base_/datasets/vkitti2_rgb.py',
    '../_base_/schedules/bicross_stage1.py', '../_base_/depth_runtime.py'
]
