# SVDP (arXiv 2303.09792) for depth, KITTI to DrivingStereo: a DPT-Hybrid
# trained on KITTI adapts, frame by frame, over four weathers. The paper names
# the two data sets only; method and settings for depth are ours.
_base_ = [
    '../_base_/models/dpt-hybrid.py',
    '../_base_/datasets/drivingstereo-weather_sequence.py',
    '../_base_/mmseg_runtime.py', '../_base_/schedules/adapt_depth.py'
]

# model setting: views come in sizes of their own; nothing here reads the
# uncertainty head
model = dict(data_preprocessor=dict(size=None), uncertainty_head=None)

# adaptation
train_cfg = dict(
    # in its order of domains, with its crop and cap
    evaluator={{_base_.test_evaluator}},
    source_ignore=('^uncertainty_head', ))
# that of the pretrained backbone in stage 3 of BiCross; not tuned
optim_wrapper = dict(optimizer=dict(lr=1e-5))

# source: written by stage 1 of BiCross
load_from = 'work_dirs/stage1_kitti/epoch_30.pth'
load_from_help = '''
train the source model; it writes work_dirs/stage1_kitti/epoch_30.pth:
python tools/train.py configs/bicross/stage1_kitti.py
'''

# runtime
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=500, max_keep_ckpts=2),
    visualization=dict(type='mmext.DepthVisualizationHook'))
visualizer = dict(type='mmext.DepthLocalVisualizer')
