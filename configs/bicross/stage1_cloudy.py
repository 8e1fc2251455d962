# Stage 1 of BiCross: supervised depth from RGB of DrivingStereo's cloudy
# frames.
_base_ = [
    '../_base_/models/dpt-hybrid_in1k.py',
    '../_base_/datasets/drivingstereo-weather_rgb.py',
    '../_base_/schedules/bicross_stage1.py', '../_base_/depth_runtime.py'
]
