# Runtime of depth networks: mmseg's, counted in epochs.
_base_ = './mmseg_runtime.py'

default_hooks = dict(
    logger=dict(log_metric_by_epoch=True),
    # the last epoch is what a stage hands over; the best one on the source's
    # validation set is kept beside it
    checkpoint=dict(
        by_epoch=True,
        interval=1,
        max_keep_ckpts=1,
        save_best='abs_rel',
        rule='less'),
    # shows the input itself: spikes are no picture
    visualization=dict(type='mmext.DepthVisualizationHook'))
visualizer = dict(type='mmext.DepthLocalVisualizer')
log_processor = dict(by_epoch=True)
