# SVDP (arXiv 2303.09792) for depth from spikes: the small DPT that BiCross's
# three stages made for embedded street scenes adapts over their weathers.
_base_ = [
    '../_base_/models/dpt-tiny_spike.py',
    '../_base_/datasets/streetworld-depth_sequence.py',
    '../_base_/mmseg_runtime.py', '../_base_/schedules/adapt_depth.py'
]

# adaptation; the rate, 1e-4 (adapt_adam.py), is that of stage 3
train_cfg = dict(
    method=dict(reference_view=0),
    evaluator={{_base_.test_evaluator}},
    # the domain classifier of stage 3
    source_ignore=('^domain_loss', ))

# source: written by the three stages of BiCross
load_from = 'work_dirs/bicross_streetworld/stage3/epoch_10.pth'
load_from_help = '''
train the source model; its last stage writes
work_dirs/bicross_streetworld/stage3/epoch_10.pth:
python tools/train_bicross.py configs/bicross/bicross_streetworld.py
'''

# runtime
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=60, max_keep_ckpts=1),
    visualization=dict(type='mmext.DepthVisualizationHook'))
visualizer = dict(type='mmext.DepthLocalVisualizer')
