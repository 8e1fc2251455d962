# Pre_src on embedded street scenes: spikes of the source only, as many epochs
# as stages 2 and 3 have together; the test set is the target.
_base_ = [
    '../_base_/models/dpt-tiny_spike.py',
    '../_base_/datasets/streetworld-depth_spike.py',
    '../_base_/schedules/bicross_cpu.py', '../_base_/depth_runtime.py'
]

train_cfg = dict(max_epochs=30)
