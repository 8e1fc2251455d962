# Multi-task by one adapter and head a task over one frozen backbone, here
# CUB's. When training ends the hook writes those of the last epoch to a file
# of a few MB in the work directory; such files of several tasks are loaded
# side by side, see docs/en/methods/mosa.md, which also says how to write those
# of the best epoch. Another task: the same lines on its config.
_base_ = './vit-base-p16_mosa_cub.py'

custom_hooks = [
    dict(
        type='mmext.MoSAHook',
        interval=50,
        export='cub.safetensors')
]
