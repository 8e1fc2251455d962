# The CamVid comparison, SVDP at its published rates: every fourth frame of the
# stream of camvid_lite0.py, views at ratios 0.75, 1.0, 1.25 of 336x252, three
# rounds.
_base_ = [
    '../_base_/models/deeplabv3plus_lite0.py',
    '../_base_/datasets/camvid_weather_sequence_252x336_every4.py',
    '../_base_/mmseg_runtime.py', '../_base_/schedules/adapt_adam.py'
]

model = dict(decode_head=dict(num_classes=11))

# adaptation: as in cityscapes_acdc.py
train_cfg = dict(
    type='mmext.TestTimeAdaptLoop',
    method=dict(
        type='mmext.SVDP',
        sparse_rate=1e-3,
        prompt_grad=True,
        decay=0.999,
        dpu_scale=0.1,
        anchor_threshold=0.69,
        restore_prob=0.01,
        reference_view=2),
    reset='never')

# source: written by camvid_source_lite0.py
load_from = 'work_dirs/camvid_source_lite0/iter_1000.pth'
load_from_help = '''
train the source model; it writes work_dirs/camvid_source_lite0/iter_1000.pth:
python tools/train.py configs/svdp/camvid_source_lite0.py
'''

# runtime
custom_hooks = [dict(type='mmext.ChannelsLastHook')]
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=100, max_keep_ckpts=1))
