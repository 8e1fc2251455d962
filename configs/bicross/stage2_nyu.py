# Stage 2 of BiCross (MonoCross): from the RGB network of stage 1 to a spike
# network, on pairs of NYU depth v2.
# Indoors: 224x224, the constants of the public DPT model for NYU, depth up to
# 10 m (customary; the code has 80 m).
_base_ = [
    '../_base_/models/dpt-hybrid_cross-modality.py',
    '../_base_/datasets/nyu-depth_rgb-spike.py',
    '../_base_/schedules/bicross_stage2.py', '../_base_/depth_runtime.py'
]

# model setting; the student starts from the same file, all but the stem
data_preprocessor = dict(size=(224, 224))
model = dict(
    student=dict(
        data_preprocessor=data_preprocessor,
        decode_head=dict(scale=3.05e-4, shift=0.1378),
        train_cfg=dict(max_depth=10.)),
    teacher_ckpt='work_dirs/stage1_nyu/epoch_30.pth')
