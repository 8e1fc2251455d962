# SVDP on a transformer: every eighth frame of the stream of
# camvid_lite0_every4.py, one round, from the frozen ViT-S's source model.
_base_ = [
    '../_base_/models/vit-small-p14_setr-up.py',
    '../_base_/datasets/camvid_weather_sequence_252x336_every4.py',
    '../_base_/mmseg_runtime.py', '../_base_/schedules/adapt_adam.py'
]

model = dict(decode_head=dict(num_classes=11))

# dataset setting
train_dataloader = dict(
    dataset=dict(
        rounds=1,
        domains=dict(
            dusk=dict(every=8),
            fog=dict(every=8),
            night=dict(every=8),
            rain=dict(every=8),
            snow=dict(every=8))))

# adaptation: as in camvid_lite0_every4.py, the whole network
train_cfg = dict(
    type='mmext.TestTimeAdaptLoop',
    method=dict(type='mmext.SVDP', reference_view=2))

# source: written by camvid_source_vits_frozen.py
load_from = 'work_dirs/camvid_source_vits_frozen/iter_500.pth'
load_from_help = '''
train the source model; it writes the checkpoint named above:
python tools/train.py configs/svdp/camvid_source_vits_frozen.py
'''

# runtime
default_hooks = dict(
    logger=dict(interval=25), checkpoint=dict(interval=100, max_keep_ckpts=1))
