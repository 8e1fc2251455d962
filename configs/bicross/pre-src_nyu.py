# Pre_src, the baseline without RGB and without adaptation: spikes of NYU depth
# v2 from ImageNet's weights, 30 epochs of 8 (BiCross's code). Indoors:
# 224x224, the constants of the public DPT model for NYU, depth up to 10 m
# (customary; the code has 80 m).
_base_ = [
    '../_base_/models/dpt-hybrid_spike_in1k.py',
    '../_base_/datasets/nyu-depth_spike.py',
    '../_base_/schedules/bicross_stage1.py', '../_base_/depth_runtime.py'
]

# model setting
data_preprocessor = dict(size=(224, 224))
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(scale=3.05e-4, shift=0.1378),
    train_cfg=dict(max_depth=10.))
