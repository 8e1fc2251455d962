# Stage 1 of BiCross on embedded street scenes, for a CPU: RGB, clear weather,
# one camera.
_base_ = [
    '../_base_/models/dpt-tiny.py',
    '../_base_/datasets/streetworld-depth_rgb.py',
    '../_base_/schedules/bicross_cpu.py', '../_base_/depth_runtime.py'
]
