# The optimizer of test-time adaptation: one step a frame, no schedule.

# Adam, one rate for the whole model (SVDP's first published run; the prompt
# is the parameter ``visual_prompt.patch``, for a rate of its own use
# ``paramwise_cfg=dict(custom_keys=dict(visual_prompt=dict(lr_mult=...)))``)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.999)))
param_scheduler = None
