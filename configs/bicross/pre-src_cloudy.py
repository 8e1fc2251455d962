# Pre_src, the baseline without RGB and without adaptation: spikes of
# DrivingStereo's cloudy frames from ImageNet's weights, 30 epochs of 8
# (BiCross's code).
_base_ = [
    '../_base_/models/dpt-hybrid_spike_in1k.py',
    '../_base_/datasets/drivingstereo-weather_spike.py',
    '../_base_/schedules/bicross_stage1.py', '../_base_/depth_runtime.py'
]
