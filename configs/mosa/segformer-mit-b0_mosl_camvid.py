# MoSL in mmseg: as segformer-mit-b0_mosa_camvid.py, with low-rank branches in
# the attentions, which fold into the weights after training.
_base_ = './segformer-mit-b0_mosa_camvid.py'

model = dict(
    adapter=dict(_delete_=True, type='LoRA', rank=8, targets='qkvo'))
