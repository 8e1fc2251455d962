# Runtime of fine-tuning with adapters: mmpretrain's, with the hook of MoSA.
_base_ = './mmpretrain_runtime.py'

# draws the modules, merges them for evaluation, logs KL and update norms
custom_hooks = [dict(type='mmext.MoSAHook', interval=50)]
default_hooks = dict(logger=dict(interval=10))
randomness = dict(seed=3407)  # authors' scripts
