# Stage 1 of BiCross: supervised depth from RGB of NYU depth v2.
# Indoors: 224x224, the constants of the public DPT model for NYU, depth up to
# 10 m (customary; the code has 80 m).
_base_ = [
    '../_base_/models/dpt-hybrid_in1k.py',
    '../_base_/datasets/nyu-depth_rgb.py',
    '../_base_/schedules/bicross_stage1.py', '../_base_/depth_runtime.py'
]

# model setting
data_preprocessor = dict(size=(224, 224))
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(scale=3.05e-4, shift=0.1378),
    train_cfg=dict(max_depth=10.))
