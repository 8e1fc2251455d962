# Settings for the transformer are chosen with this config, on frames that are
# never scored (see camvid_lite0_tune.py), every fourth frame, one round.
_base_ = [
    '../_base_/models/vit-small-p14_setr-up.py',
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

# adaptation: as in camvid_vits_every8.py
train_cfg = dict(
    type='mmext.TestTimeAdaptLoop',
    method=dict(type='mmext.SVDP', reference_view=2))
load_from = 'work_dirs/camvid_source_vits_frozen/iter_500.pth'
load_from_help = '''
train the source model; it writes the checkpoint named above:
python tools/train.py configs/svdp/camvid_source_vits_frozen.py
'''

# runtime
default_hooks = dict(
    logger=dict(interval=25), checkpoint=dict(interval=100, max_keep_ckpts=1))
