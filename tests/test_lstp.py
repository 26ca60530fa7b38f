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
    ours = getattr(lstp, form)(patches)                               # (2, 3, 8), (2, 3, 6)
    expected = [torch.stack(each) for each in zip(*[cross_attention(lstp, frame)
                                                    for frame in patches])]
    for a, b in zip(ours, expected):
        assert torch.allclose(a, b, atol=1e-10)
    weights = list(lstp.parameters())
    gradients = [torch.autograd.grad(entities.square().sum(), weights)
                 for entities, _ in (ours, expected)]
    for a, b in zip(*gradients):
        assert torch.allclose(a, b, atol=1e-8)


def test_the_other_poolers():
    patches, cls = torch.randn(5, 16, 48), torch.randn(5, 32)
    pool = {name: make(48, 32, entities=3, width=24) for name, make in POOLERS.items()}
    out = {name: pool[name](patches, cls)[0] for name in pool}
    assert torch.equal(out['cls'][:, 0], cls) and pool['cls'].width == 32
    assert torch.allclose(out['avg'][:, 0], patches.mean(1)) and pool['avg'].width == 48
    assert torch.equal(out['max'][:, 0], patches.max(1).values)
    split = pool['fwb'].split(cls)
    assert torch.allclose(out['fwb'][2, 1, 7], split[2, 7 * 3 + 1])   # read as (d, N)
