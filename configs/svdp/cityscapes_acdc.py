# SVDP (arXiv 2303.09792), Cityscapes to ACDC: SegFormer-B5 adapts, frame by
# frame, over fog, night, rain, snow, three times (continual adaptation).
_base_ = [
    '../_base_/models/segformer_mit-b5_nvidia.py',
    '../_base_/datasets/acdc_sequence.py', '../_base_/mmseg_runtime.py',
    '../_base_/schedules/adapt_adam.py'
]

# adaptation: first published run ("set1") with a prompt that trains
train_cfg = dict(
    type='mmext.TestTimeAdaptLoop',
    method=dict(
        type='mmext.SVDP',
        sparse_rate=1e-3,  # abstract, v3
        prompt_grad=True,  # Fig. 2; the authors' code trains no prompt
        decay=0.999,  # authors' code, as all below
        dpu_scale=0.1,
        anchor_threshold=0.69,  # from CoTTA
        restore_prob=0.01,  # from CoTTA
        reference_view=4),  # 960x540, not mirrored
    reset='never')

# source: NVIDIA's segformer.b5.1024x1024.city.160k.pth, converted with
# tools/model_converters/nvidia_segformer_to_mmseg.py
load_from = 'checkpoints/segformer_mit-b5_nvidia_cityscapes.pth'
load_from_help = '''
download segformer.b5.1024x1024.city.160k.pth, linked from
github.com/NVlabs/SegFormer (non-commercial use), then run
python tools/model_converters/nvidia_segformer_to_mmseg.py
    segformer.b5.1024x1024.city.160k.pth
    checkpoints/segformer_mit-b5_nvidia_cityscapes.pth
'''

# runtime: a checkpoint holds teacher, student and optimizer (1.4 GB)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=200, max_keep_ckpts=2))
