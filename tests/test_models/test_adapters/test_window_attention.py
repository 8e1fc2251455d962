# Copyright (c) mmext contributors. All rights reserved.
"""LoRA and MoSL in the window attention of Swin, of both hosts."""
import pytest
import torch

pytest.importorskip('mmpretrain')

from mmengine.registry import init_default_scope  # noqa: E402

from mmext.models.adapters import ReadsInput  # noqa: E402
from mmext.registry import MODELS  # noqa: E402
from ...tiny_classifiers import (batch, build, move, swin,  # noqa: E402
                                 total_loss)

LORA = dict(type='LoRA', rank=2, targets='qkvo', o_reads='input')


def tuned(host, **options):
    """A Swin with perturbed branches in its attentions."""
    options = dict(dict(adapter=LORA, split='both', num_modules=2), **options)
    if host == 'mmpretrain':
        return build(swin(drop_path_rate=0.), perturb=True, **options)
    pytest.importorskip('mmseg')
    init_default_scope('mmseg')
    torch.manual_seed(0)
    module = MODELS.build(
        dict(type='SwinTransformer', pretrain_img_size=32, embed_dims=8,
             window_size=4, mlp_ratio=2, depths=(2, 1, 1, 1),
             num_heads=(1, 1, 2, 2), drop_path_rate=0.))
    model = MODELS.build(
        dict(type='mmext.MoSAModel', module=module, num_passes=1,
             train_head=False, **options)).double()
    move(model)
    return model


def attentions(model):
    return {n: m for n, m in model.named_modules()
            if isinstance(m, ReadsInput)}


@pytest.mark.parametrize('host', ['mmpretrain', 'mmseg'])
def test_o_reads_the_attention_s_input(host):
    """The published quirk (specification a.9), in every window."""
    model = tuned(host).eval()
    found = attentions(model)
    assert len(found) == (4 if host == 'mmpretrain' else 5)
    seen = []
    handles = [
        m.register_forward_hook(
            lambda m, args, kwargs, out: seen.append((m, args, kwargs, out)),
            with_kwargs=True) for m in found.values()
    ]
    with torch.no_grad():
        model.module(torch.randn(2, 3, 32, 32).double())
        for handle in handles:
            handle.remove()
        assert [m for m, *_ in seen] == list(found.values())
        for attention, args, kwargs, out in seen:
            assert attention.proj.branch_input is None
            branch = attention.proj.mosa['default']
            attention.proj.mosa.enabled = False
            expected = attention(*args, **kwargs) + branch.o(args[0])
            torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
            assert branch.o(args[0]).abs().max() > 1e-3


def test_two_passes():
    """Batched or in sequence, every branch gets its gradient."""
    results = []
    for batched in (True, False):
        model = tuned('mmpretrain', batch_passes=batched)
        x, samples = batch(model, size=32)
        model.train().draw()
        total_loss(model, x, samples).backward()
        results.append({n: p.grad for n, p in model.named_parameters()
                        if p.requires_grad})
    assert all(g is not None and g.any() for g in results[0].values())
    for name, value in results[0].items():
        torch.testing.assert_close(
            results[1][name], value, rtol=0, atol=1e-12)
