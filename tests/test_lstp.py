"""LSTP against cross-attention written down patch by patch, and the poolers beside it."""
import math

import pytest
import torch
from torch import nn

from lstp import LSTP, POOLERS


def cross_attention(lstp, patches):
    """One frame (P, C) at a time, one entity and one patch at a time -> (N, d), (N, P)."""
    keys = [lstp.key.weight @ patch + lstp.key.bias for patch in patches]
    values = [lstp.value.weight @ patch + lstp.value.bias for patch in patches]
    rows = []
    for query in lstp.own + lstp.shared:
        logits = torch.stack([query @ key / math.sqrt(lstp.width) for key in keys])
        rows.append(logits.exp() / logits.exp().sum())
    attention = torch.stack(rows)                                     # (N, P)
    if lstp.disjoint:
        strongest = attention.amax(0)
        attention = torch.where(attention == strongest, attention, 0.)
    return attention @ torch.stack(values), attention


@pytest.mark.parametrize('disjoint', [False, True])
@pytest.mark.parametrize('form', ['forward', 'attend_plainly'])
def test_lstp_is_cross_attention(form, disjoint):
    """The folded form and the plain one: entities, attention and gradients, in float64."""
    torch.manual_seed(0)
    lstp = LSTP(12, entities=3, width=8, disjoint=disjoint).double()
    for weight in lstp.parameters():
        nn.init.normal_(weight)
    patches = torch.randn(2, 6, 12, dtype=torch.float64)
    entities, attention = getattr(lstp, form)(patches)                # (2, 3, 8), (2, 3, 6)
    expected = [cross_attention(lstp, frame) for frame in patches]
    expected_entities = torch.stack([frame for frame, _ in expected])
    assert torch.allclose(entities, expected_entities, atol=1e-10)
    assert torch.allclose(attention, torch.stack([rows for _, rows in expected]), atol=1e-10)
    weights = list(lstp.parameters())
    ours = torch.autograd.grad(entities.square().sum(), weights)
    theirs = torch.autograd.grad(expected_entities.square().sum(), weights)
    for a, b in zip(ours, theirs):
        assert torch.allclose(a, b, atol=1e-8)


def test_the_other_poolers():
    patches, cls = torch.randn(5, 16, 48), torch.randn(5, 32)
    pool = {name: make(48, 32, entities=3, width=24) for name, make in POOLERS.items()}
    assert torch.equal(pool['cls'](patches, cls)[0][:, 0], cls) and pool['cls'].width == 32
    assert torch.allclose(pool['avg'](patches, cls)[0][:, 0], patches.mean(1)) and pool['avg'].width == 48
    assert torch.equal(pool['max'](patches, cls)[0][:, 0], patches.max(1).values)
    fixed = pool['fwb']
    out, attention = fixed(patches, cls)
    assert attention is None
    assert torch.allclose(out[2, 1, 7], fixed.split(cls)[2, 7 * 3 + 1])                   # read as (d, N)
