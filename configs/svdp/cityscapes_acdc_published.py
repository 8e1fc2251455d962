# What the authors' code computes in its first published run: no gradient
# reaches the prompt, and the optimizer is rebuilt at every domain.
_base_ = './cityscapes_acdc.py'

train_cfg = dict(
    method=dict(
        prompt_grad=False, dpu_clamp=False, reset_optimizer='domain'))
randomness = dict(seed=42)  # authors' code
