"""The model against the reference numbers (tests/golden), against plain forms, and against its own promises."""
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import model
from lstp import LSTP, FixedWidth, OneToken
from backbones import released
from backbones.weights import load_strictly
from mtf import MTF, time_code

GOLDEN = Path(__file__).parent / 'golden'


def golden(name):
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f'{name}.npz').items()}


def assert_close(ours, reference, tolerance=1e-5):
    """Within `tolerance` of the largest magnitude in the reference."""
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= tolerance * reference.abs().max()


# ---------------------------------------------------------------------------------------------------------------- LSTP

def plain_lstp(lstp, patches):
    """Cross-attention as the paper writes it: project all patches, then attend."""
    keys, values = lstp.key(patches), lstp.value(patches)
    attention = ((lstp.own + lstp.shared) @ keys.mT / lstp.width ** 0.5).softmax(-1)
    if lstp.disjoint:
        best = attention.argmax(1, keepdim=True)
        attention = attention * torch.zeros_like(attention).scatter(1, best, 1.)
    return attention @ values, attention


@pytest.mark.parametrize('disjoint', [False, True])
def test_folded_lstp_is_plain_lstp(disjoint):
    lstp = LSTP(48, 3, width=24, disjoint=disjoint).double()
    nn.init.normal_(lstp.own)
    nn.init.normal_(lstp.value.bias)
    patches = torch.randn(5, 16, 48, dtype=torch.float64, requires_grad=True)
    inputs = [patches, lstp.own, lstp.shared, lstp.key.weight, lstp.value.weight, lstp.value.bias]
    ours, attention = lstp(patches)
    theirs, theirs_attention = plain_lstp(lstp, patches)
    assert_close(attention, theirs_attention, 1e-6)       # the softmax runs in float32
    assert_close(ours, theirs, 1e-6)
    weight = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad((ours * weight).sum(), inputs),
                    torch.autograd.grad((theirs * weight).sum(), inputs)):
        assert_close(a, b, 1e-5)


def test_the_other_poolers():
    patches, cls = torch.randn(5, 16, 48), torch.randn(5, 32)
    assert torch.equal(OneToken(32, 'cls')(patches, cls)[0][:, 0], cls)
    assert torch.allclose(OneToken(48, 'avg')(patches, cls)[0][:, 0], patches.mean(1))
    assert torch.equal(OneToken(48, 'max')(patches, cls)[0][:, 0], patches.max(1).values)
    fixed = FixedWidth(32, 3, width=24)
    out, attention = fixed(patches, cls)
    assert attention is None
    assert torch.allclose(out[2, 1, 7], fixed.split(cls)[2, 7 * 3 + 1])                   # read as (d, N)


# ---------------------------------------------------------------------------------------------- everything after the ViT

def reference_model(dropout=0.):
    """Our LSTP, MTF and projection head with the reference's weights."""
    g = golden('mvf_one')
    sd = {key[3:]: value for key, value in g.items() if key.startswith('sd/')}
    pool = LSTP(96, 3, width=24)
    mtf = MTF(24, 3, frames=8, fc_width=40, width=32, heads=4, hidden=64, embedding=16, dropout=dropout)
    head = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16))
    names = {f'embed.{key}': value for key, value in sd.items()}
    names |= {f'ssl_projection.{key[5:]}': value for key, value in g.items() if key.startswith('head/')}
    ours = released.rename(names)
    for module, prefix in (pool, 'pool.'), (mtf, 'mtf.'), (head, 'head.'):
        load_strictly(module, {key[len(prefix):]: value for key, value in ours.items() if key.startswith(prefix)}, 'golden')
    return pool, mtf, head, g


def embed(pool, mtf, features, valid=None):
    b, t = features.shape[:2]
    entities, _ = pool(features.flatten(3).flatten(0, 1).mT)
    return mtf(entities.reshape(b, t, *entities.shape[1:]), valid)


def test_mvformer_golden():
    pool, mtf, head, g = reference_model()
    valid = g['masks'][:, 0].bool()
    mtf.train(), head.train()
    with torch.no_grad():
        z = embed(pool, mtf, g['feats'], valid)
        assert_close(z, g['train_out'])
        assert_close(F.normalize(head(z.flatten(0, 1)), dim=-1).view_as(z), g['train_proj'])
        for layer in 2, 6:
            for name in 'running_mean', 'running_var':
                assert_close(mtf.fc[layer].get_buffer(name), g[f'sd_after/fc_layers.{layer}.{name}'])
        mtf.eval()
        assert_close(embed(pool, mtf, g['feats'], valid), g['eval_out'])
        assert_close(embed(pool, mtf, g['feats13']), g['eval_out13'])


def test_time_code_against_its_formula():
    code = time_code(5, 9, 6)
    for s in range(5):
        p = s * 8 / 4                                     # 5 frames over the trained positions 0..8
        for c in range(6):
            f = np.sin if c % 2 == 0 else np.cos
            assert code[s, c].item() == pytest.approx(f(p / 10000 ** (c / 6)), abs=1e-6)
    assert time_code(1, 9, 6)[0, 0] == 0


def test_padding_is_never_looked_at():
    pool, mtf, _, g = reference_model()
    mtf.eval()
    entities = torch.randn(2, 8, 3, 24)
    valid = torch.arange(8) < torch.tensor([[8], [5]])
    other = entities.clone()
    other[1, 5:] = 100 * torch.randn(3, 3, 24)
    with torch.no_grad():
        a, b = mtf(entities, valid), mtf(other, valid)
    assert torch.allclose(a[valid], b[valid], atol=1e-6) and not torch.allclose(a[~valid], b[~valid])


def test_readouts_and_ids():
    torch.manual_seed(0)
    average = MTF(8, 3, frames=6, width=16, heads=2, hidden=16, readout='avg').eval()
    first = MTF(8, 3, frames=6, width=16, heads=2, hidden=16, readout='cls').eval()
    first.load_state_dict(average.state_dict())
    x = torch.randn(1, 6, 3, 8)
    swapped = x[:, :, [0, 2, 1]]
    with torch.no_grad():
        assert not torch.allclose(average(x), first(x), atol=1e-4)
        assert not torch.allclose(average(x), average(swapped), atol=1e-4)                # ids tell entities apart
        average.ids.zero_()
        assert torch.allclose(average(x), average(swapped), atol=1e-5)                    # without them nothing does


# ----------------------------------------------------------------------------------------------------- building, loading

def settings(**changes):
    return dict(backbone='tiny', weights='random', layers=[1, 2, 4], image_size=64, train_backbone=[], pool='lstp',
                entities=3, entity_width=384, disjoint=False, frames=8, fc_width=64, embedding=32, readout='cls',
                dropout=0.1, loss='scl') | changes


def test_forward_is_unit_length_float_and_trains_only_what_it_should():
    mvf = model.build_model(settings()).train()
    clips = torch.randn(2, 8, 3, 64, 64)
    z = mvf(clips, torch.ones(2, 8, dtype=torch.bool), project=True)
    assert z.shape == (2, 8, 32) and torch.allclose(z.norm(dim=-1), torch.ones(2, 8), atol=1e-5)
    z[..., 0].sum().backward()
    assert not mvf.backbone.training and mvf.mtf.training
    assert all(weight.grad is None for weight in mvf.backbone.parameters())
    assert all(weight.grad is not None for name, weight in mvf.named_parameters() if not name.startswith('backbone'))
    assert not any(key.startswith('backbone') for key in mvf.trained_state())


def test_chunks_change_nothing():
    mvf = model.build_model(settings())
    clips = torch.randn(1, 7, 3, 64, 64)
    with torch.no_grad():
        whole = mvf(clips)
        mvf.chunk = 3
        assert torch.allclose(mvf(clips), whole, atol=1e-6)


def test_resnet50_and_its_last_stage():
    mvf = model.build_model(settings(backbone='resnet50', image_size=224, layers=[1], pool='max', train_backbone=['layer4']))
    mvf.train()
    features = mvf.features(torch.randn(1, 3, 224, 224))
    assert features.patches.shape == (1, 49, 2048) and features.cls is None
    features.patches.sum().backward()
    trained = {name.split('.')[1] for name, weight in mvf.named_parameters()
               if name.startswith('backbone') and weight.grad is not None}
    assert trained == {'layer4'}
    saved = {key for key in mvf.trained_state() if key.startswith('backbone')}
    assert saved and all(key.startswith('backbone.layer4') and 'running' not in key for key in saved)
    with pytest.raises(model.ModelError, match='CLS'):
        model.build_model(settings(backbone='resnet50', layers=[1], image_size=224, pool='cls'))


def test_checkpoint_of_a_frozen_backbone_is_kept_by_name(tmp_path):
    s = settings()
    mvf = model.build_model(s)
    path = tmp_path / 'checkpoint.pt'
    checkpoint = dict(settings=s, model=mvf.trained_state(), epoch=1, backbone=model.fingerprint(mvf.backbone))
    torch.save(checkpoint, path)
    again, _ = model.load_model(path)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in mvf.state_dict().items())
    torch.save(checkpoint | {'backbone': 0}, path)
    with pytest.raises(model.ModelError, match='another backbone'):
        model.load_model(path)
    torch.save({'weights': torch.zeros(1)}, path)
    with pytest.raises(model.ModelError, match='no checkpoint'):
        model.load_model(path)


def test_the_table_says_whose_settings_it_shows(monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['model.py', 'synthetic'])
    model.main()
    assert capsys.readouterr().out.startswith('MV-Former for synthetic: one clip of T = 16 frames')
