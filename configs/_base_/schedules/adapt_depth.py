# SVDP for depth: its method on ``mmext.DepthTask``, one Adam step a frame.
# The config adds the evaluator and the parts of the source model that
# nothing reads here (source_ignore).
_base_ = './adapt_adam.py'

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
        reference_view=2),  # of the source model's size, not mirrored
    reset='never')
