# Test-time adaptation that moves nothing but MoSA's adapters: CoTTA's mean
# teacher on the CamVid weather stream, every fourth frame. The adapters start
# at zero, so that the first frame meets the source model.
_base_ = [
    '../_base_/models/vit-small-p14_setr-up_mosa.py',
    '../_base_/datasets/camvid_weather_sequence_252x336_every4.py',
    '../_base_/mmseg_runtime.py', '../_base_/schedules/adapt_adam.py'
]

# model setting: the loop has its own loss, one pass a view
model = dict(
    module=dict(decode_head=dict(num_classes=11)),
    num_passes=1,
    train_head=False)

# adaptation
train_cfg = dict(
    type='mmext.TestTimeAdaptLoop',
    method=dict(
        type='mmext.CoTTA',
        adapt=r'\.mosa\.',  # a pattern of parameter names
        reference_view=2),  # ratio 1, not mirrored
    reset='never')
custom_hooks = [dict(type='mmext.MoSAHook', interval=50)]

# source: a plain segmentor, written by ../svdp/camvid_source_vits_frozen.py
load_from = 'work_dirs/camvid_source_vits_frozen/iter_500.pth'
load_from_help = '''
train the source model; it writes
work_dirs/camvid_source_vits_frozen/iter_500.pth:
python tools/train.py configs/svdp/camvid_source_vits_frozen.py
'''

# runtime
default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(interval=400, max_keep_ckpts=2))
