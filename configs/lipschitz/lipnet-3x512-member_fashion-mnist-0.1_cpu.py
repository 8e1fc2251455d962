# Fashion-MNIST, eps 0.1: a member of lipnet-3x512_posthoc5_*_cpu.py, meant for
# 20 minutes on two cores. Each member has a seed of its own:
#   name=lipnet-3x512-member_fashion-mnist-0.1_cpu
#   for k in 0 1 2 3 4; do
#       python tools/train.py configs/lipschitz/$name.py \
#           --work-dir work_dirs/$name/seed$k \
#           --cfg-options randomness.seed=$k
#   done
_base_ = 'lipnet-3x512_fashion-mnist-0.1_cpu.py'

train_cfg = dict(max_epochs=40)
