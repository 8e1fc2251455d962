# Copyright (c) mmext contributors. All rights reserved.
"""bfloat16 on the CPU: what computes in which type."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from mmext.registry import OPTIM_WRAPPERS


def _wrapper(model):
    return OPTIM_WRAPPERS.build(
        dict(
            type='mmext.CPUAmpOptimWrapper',
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1)))


class _Attention(nn.Module):

    def __init__(self, **options):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.options = options

    def forward(self, x):
        query, key, value = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(query, key, value,
                                              **self.options)


class _Spy(TorchFunctionMode):
    """Notes the types that attention is called with."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            self.seen.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('options', [{}, {'is_causal': True}, {'scale': 0.3}])
def test_attention_is_in_float32_and_the_rest_in_bfloat16(options):
    model, x = _Attention(**options), torch.randn(2, 5, 8)
    wrapper, spy = _wrapper(model), _Spy()
    with spy, wrapper.optim_context(model):
        out = model(x)
    assert spy.seen == [torch.float32] and out.dtype == torch.bfloat16
    with torch.autocast('cpu', torch.bfloat16):
        query, key, value = (
            part.float() for part in model.qkv(x).chunk(3, -1))
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    assert torch.equal(out, expected.to(torch.bfloat16))
    wrapper.update_params(out.float().square().mean())
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize('reentrant', [True, False])
def test_checkpointed_blocks_are_recomputed_alike(reentrant):
    """Backward runs them again outside of the wrapper's context."""
    model, x = _Attention(), torch.randn(2, 5, 8, requires_grad=True)
    wrapper, grads = _wrapper(model), []
    for recompute in (False, True):
        with wrapper.optim_context(model):
            out = checkpoint(model, x, use_reentrant=reentrant) \
                if recompute else model(x)
        wrapper.zero_grad()
        wrapper.backward(out.float().square().mean())
        grads.append(model.qkv.weight.grad.clone())
    torch.testing.assert_close(*grads, rtol=0.1, atol=5e-3)


def test_calls_with_a_mask_and_outside_are_left_alone():
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    model, x = _Attention(attn_mask=mask), torch.randn(2, 5, 8)
    spy = _Spy()
    with spy, _wrapper(model).optim_context(model):
        model(x)
    assert spy.seen == [torch.bfloat16]
    assert model(x).dtype == torch.float32
