# Settings for CamVid are chosen with this config, on frames that are never
# scored: weather made from a part of the training sequences that the source
# model was not trained on, every fourth frame, one round.
_base_ = [
    '../_base_/models/deeplabv3plus_lite0.py',
    '../_base_/datasets/camvid_tune_sequence_252x336.py',
    '../_base_/mmseg_runtime.py', '../_base_/schedules/adapt_adam.py'
]

model = dict(decode_head=dict(num_classes=11))

# dataset setting
train_dataloader = dict(
    dataset=dict(
        domains=dict(
            fog=dict(every=4),
            night=dict(every=4),
            rain=dict(every=4),
            snow=dict(every=4))))

# adaptation: as in camvid_lite0_every4.py
train_cfg = dict(
    type='mmext.TestTimeAdaptLoop',
    method=dict(type='mmext.SVDP', sparse_rate=1e-3, reference_view=2))
load_from = 'work_dirs/camvid_source_lite0/iter_1000.pth'
load_from_help = '''
train the source model; it writes work_dirs/camvid_source_lite0/iter_1000.pth:
python tools/train.py configs/svdp/camvid_source_lite0.py
'''

# runtime
custom_hooks = [dict(type='mmext.ChannelsLastHook')]
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=100, max_keep_ckpts=1))
