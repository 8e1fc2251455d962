# SVDP (arXiv 2303.09792) for depth from spikes: the small DPT that BiCross's
# three stages made for embedded street scenes adapts over their weathers.
_base_ = [
    '../_base_/models/dpt-tiny_spike.py',
    '../_base_/datasets/streetworld-depth_sequence.py',
    '../_base_/mmseg_runtime.py', '../_base_/schedules/adapt_adam.py'
]

# model setting: views come in sizes of their own
model = dict(data_preprocessor=dict(size=None))

# adaptation; the rate, 1e-4 (adapt_adam.py), is that of stage 3
train_cfg = dict(
    type='mmext.TestTimeAdaptLoop',
    method=dict(
        type='mmext.SVDP',
        task=dict(type='mmext.DepthTask', loss='l1', max_depth=80.),
        sparse_rate=1e-3,  # as for classes, as are decay, scale and restore
        prompt_grad=True,
        decay=0.999,
        dpu_scale=0.1,
        anchor_threshold=None,  # no gate; 0.9 would be within a tenth
        restore_prob=0.01,
        reference_view=2),  # 96x160, not mirrored
    evaluator={{_base_.test_evaluator}},
    # the domain classifier of stage 3
    source_ignore=('^domain_loss', ),
    reset='never')

# source: written by the three stages of BiCross
load_from = 'work_dirs/bicross_streetworld/stage3/epoch_20.pth'
load_from_help = '''
train the source model; its last stage writes
work_dirs/bicross_streetworld/stage3/epoch_20.pth:
python tools/train_bicross.py configs/bicross/bicross_streetworld.py
'''

# runtime
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=60, max_keep_ckpts=1),
    visualization=dict(type='mmext.DepthVisualizationHook'))
visualizer = dict(type='mmext.DepthLocalVisualizer')
