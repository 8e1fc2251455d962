# Adam of all stages of BiCross: 1e-4 for decoder and heads, 1e-5 for the
# backbone with its token reassembly, and for projection and domain heads.
# The published code puts the backbone into two optimisers; for its effective
# rate set lr_mult=1.1 of the first two keys. Batches: 16 in stage 1, then 8.

# optimizer
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.999), eps=1e-8),
    paramwise_cfg=dict(
        custom_keys={
            'backbone': dict(lr_mult=0.1),
            'reassemble': dict(lr_mult=0.1),
            'projection_': dict(lr_mult=0.1),
            'domain_loss': dict(lr_mult=0.1)
        }))

# learning policy: divided by 10 when the validation loss stops falling; the
# metric val_sig comes from mmext.DepthMetric
param_scheduler = [
    dict(
        type='ReduceOnPlateauLR',
        monitor='val_sig',
        factor=0.1,
        patience=10,
        threshold=1e-4,
        rule='less',
        by_epoch=True)
]
