# Multi-task by one adapter and head a task over one frozen backbone, here
# CUB's. When training ends the hook writes them to a file of a few MB; such
# files of several tasks are loaded side by side, see docs/en/methods/mosa.md.
# Another task: the same two lines on its config.
_base_ = './vit-base-p16_mosa_cub.py'

custom_hooks = [
    dict(
        type='mmext.MoSAHook',
        interval=50,
        export='work_dirs/adapters/cub.safetensors')
]
