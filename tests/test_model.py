"""The model against the reference numbers (tests/golden), against plain forms, and against its own promises."""
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import model
from model import ViT
from loss import projection_head
from lstp import LSTP, POOLERS
from mtf import MTF, READOUTS, merge_frames, time_code
from running.errors import UserError

GOLDEN = Path(__file__).parent / 'golden'


def golden(name):
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f'{name}.npz').items()}


def assert_close(ours, reference, tolerance=1e-5):
    """Within `tolerance` of the largest magnitude in the reference."""
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= tolerance * reference.abs().max()


# ------------------------------------------------------------------------------------------------------------ backbone

def tiny_vit(layers=(4,)):
    g = golden('dino_vit')
    vit = ViT(trained_size=32, patch_size=8, width=32, depth=4, heads=2, layers=layers)
    vit.load_state_dict({key[3:]: value for key, value in g.items() if key.startswith('sd/')})
    return vit.eval(), g


def test_vit_golden():
    vit, g = tiny_vit(layers=(1, 2, 3, 4))
    with torch.no_grad():
        features = vit(g['x'])
        assert_close(features.patches, torch.cat(list(g['blocks'][:, :, 1:]), -1))
        assert_close(features.cls, g['norm'][:, 0])
        assert_close(vit.attention_map(g['x']), g['last_attn'][:, :, 0, 1:])


def test_vit_layers_are_counted_from_one_and_kept_in_order():
    vit, g = tiny_vit(layers=(3, 1))
    with torch.no_grad():
        assert_close(vit(g['x']).patches, torch.cat([g['blocks'][2, :, 1:], g['blocks'][0, :, 1:]], -1))
    with pytest.raises(UserError, match='layers'):
        ViT(trained_size=32, patch_size=8, width=32, depth=4, heads=2, layers=[0])


def test_positions_are_interpolated_bicubically():
    """Against a direct evaluation of the cubic kernel (a = -0.75) at DINO's sample points, in float64."""
    vit, _ = tiny_vit()
    rows, columns = 6, 5

    def kernel(x):
        x = abs(x)
        if x <= 1:
            return (1.25 * x - 2.25) * x * x + 1
        return ((-0.75 * x + 3.75) * x - 6) * x + 3 if x < 2 else 0.

    def matrix(size):                                     # (size, 4): weights of the four trained positions
        out = np.zeros((size, 4))
        for i in range(size):
            centre = (i + 0.5) / ((size + 0.1) / 4) - 0.5
            for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
                out[i, min(max(tap, 0), 3)] += kernel(centre - tap)
        return out

    grid = vit.pos_embed[0, 1:].detach().double().numpy().reshape(4, 4, 32)
    expected = np.einsum('ir,jc,rcd->ijd', matrix(rows), matrix(columns), grid).reshape(-1, 32)
    ours = vit.positions(rows, columns).detach()
    assert_close(ours[0, 1:].double(), torch.from_numpy(expected))
    assert torch.equal(ours[0, 0], vit.pos_embed[0, 0])


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
    lstp = LSTP(48, entities=3, width=24, disjoint=disjoint).double()
    nn.init.normal_(lstp.own)
    nn.init.normal_(lstp.value.bias)
    patches = torch.randn(5, 16, 48, dtype=torch.float64, requires_grad=True)
    inputs = [patches, lstp.own, lstp.shared, lstp.key.weight, lstp.value.weight, lstp.value.bias]
    ours, attention = lstp(patches)
    plain = lstp.attend_plainly(patches)
    assert_close(ours, plain[0], 1e-6)
    assert_close(attention, plain[1], 1e-6)
    theirs, theirs_attention = plain_lstp(lstp, patches)
    assert_close(attention, theirs_attention, 1e-6)       # the softmax runs in float32
    assert_close(ours, theirs, 1e-6)
    weight = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad((ours * weight).sum(), inputs),
                    torch.autograd.grad((theirs * weight).sum(), inputs)):
        assert_close(a, b, 1e-5)


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


# ---------------------------------------------------------------------------------------------- everything after the ViT

def reference_model(dropout=0.):
    """Our LSTP, MTF and projection head with the reference's weights."""
    g = golden('mvf_one')
    sd = {key[3:]: value for key, value in g.items() if key.startswith('sd/')}
    pool = LSTP(96, entities=3, width=24)
    mtf = MTF(24, 3, frames=8, fc_width=40, width=32, heads=4, hidden=64, embedding=16, dropout=dropout)
    head = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16))
    ours = {'own': sd['pooling.cross_att.Q_s'][0], 'shared': sd['pooling.cross_att.Q_s_b']}
    for name, theirs in {'key': 'K', 'value': 'V'}.items():
        for part in 'weight', 'bias':
            ours[f'{name}.{part}'] = sd[f'pooling.cross_att.linear_{theirs}2d.{part}']
    pool.load_state_dict(ours)
    ours = {f'fc.{key[len("fc_layers."):]}': value for key, value in sd.items() if key.startswith('fc_layers.')}
    for part in 'weight', 'bias':
        ours[f'fc.8.{part}'], ours[f'out.{part}'] = sd[f'video_emb.{part}'], sd[f'embedding_layer.{part}']
        for i in range(3):
            layer = f'video_encoder.enc_layers.{i}.'
            ours[f'blocks.{i}.attn.qkv.{part}'] = torch.cat([sd[f'{layer}self_att.linear_{x}2d.{part}'] for x in 'QKV'])
            for name, theirs in {'norm1': 'res_layer0.norm', 'norm2': 'res_layer1.norm',
                                 'attn.proj': 'self_att.linear_d2Q', 'mlp.fc1': 'feed_forward.fc1',
                                 'mlp.fc2': 'feed_forward.fc2'}.items():
                ours[f'blocks.{i}.{name}.{part}'] = sd[f'{layer}{theirs}.{part}']
    # the reference numbers its layers [Dropout, Linear, BatchNorm, ReLU] from 0, as ours
    mtf.load_state_dict(ours)
    head.load_state_dict({key[len('head/net.'):]: value for key, value in g.items() if key.startswith('head/')})
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
    mvf = model.build_model(settings())
    mvf.head = projection_head(32)
    mvf.train()
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
        mvf.frames_at_once = {'cpu': 3}
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
    with pytest.raises(UserError, match='CLS'):
        model.build_model(settings(backbone='resnet50', layers=[1], image_size=224, pool='cls'))


def test_checkpoint_of_a_frozen_backbone_is_kept_by_name(tmp_path):
    s = asdict(model.Architecture.from_dict(settings()))
    mvf = model.build_model(s)
    path = tmp_path / 'checkpoint.pt'
    checkpoint = dict(settings=s, model=mvf.trained_state(), step=1, backbone=model.fingerprint(mvf.backbone))
    torch.save(checkpoint, path)
    again = model.load_model(path)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in mvf.state_dict().items())
    torch.save(checkpoint | {'backbone': 0}, path)
    with pytest.raises(UserError, match='another backbone'):
        model.load_model(path)
    torch.save({'weights': torch.zeros(1)}, path)
    with pytest.raises(UserError, match='no checkpoint'):
        model.load_model(path)


def test_the_table_counts_every_part(monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['model.py', '--backbone', 'tiny', '--frames', '16'])
    model.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('MV-Former: one clip of T = 16 frames, N = 3 entities, tiny layers [1, 2, 4]')
    mvf = model.build_model(dict(backbone='tiny', weights='random', layers=[1, 2, 4], frames=16))
    total = sum(weight.numel() for weight in mvf.parameters())
    assert f'{total:,}' in lines[-1]


# ----------------------------------------------------------------------------------------------------- token merging

def plain_merge(x, valid, k):
    """Loops over groups of k frames; the mean of the valid ones, zeros where there is none."""
    groups = [range(start, min(start + k, x.shape[1])) for start in range(0, x.shape[1], k)]
    merged = torch.zeros(x.shape[0], len(groups), *x.shape[2:], dtype=x.dtype)
    there = torch.zeros(x.shape[0], len(groups), dtype=torch.bool)
    for b in range(len(x)):
        for number, group in enumerate(groups):
            frames = [x[b, t] for t in group if valid[b, t]]
            if frames:
                merged[b, number] = torch.stack(frames).mean(0)
                there[b, number] = True
    return merged, there


@pytest.mark.parametrize('frames, k', [(8, 2), (7, 3), (5, 8), (1, 2)])
def test_merged_tokens_are_the_means_of_valid_frames(frames, k):
    x = torch.randn(2, frames, 3, 4, dtype=torch.float64)
    valid = torch.arange(frames) < torch.tensor([[frames], [max(1, frames // 3)]])
    for ours, theirs in zip(merge_frames(x, valid, k), plain_merge(x, valid, k)):
        assert torch.allclose(ours, theirs)
    ours, there = merge_frames(x, None, k)
    assert there.all() and torch.allclose(ours, plain_merge(x, torch.ones_like(valid), k)[0])


def test_merging_shortens_the_sequence_and_repeats_the_readout():
    mtf = MTF(8, 3, frames=10, width=16, heads=2, hidden=16, embedding=5, merge=4).eval()
    lengths = []
    mtf.blocks[0].register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    x = torch.randn(2, 10, 3, 8)
    valid = torch.arange(10) < torch.tensor([[10], [6]])
    with torch.no_grad():
        z = mtf(x, valid)
        other = x.clone()
        other[1, 6:] = 100.
        again = mtf(other, valid)
    assert z.shape == (2, 10, 5) and lengths[0] == 3 * 3
    assert torch.equal(z[:, 0], z[:, 3]) and not torch.allclose(z[:, 3], z[:, 4])
    assert torch.allclose(z[1, :6], again[1, :6], atol=1e-6)                              # padding is left out


# ------------------------------------------------------------------------------- "Change something", step by step

def test_a_new_readout_is_a_function_and_a_line(monkeypatch):
    monkeypatch.setitem(READOUTS, 'max', lambda tokens: tokens.amax(2))
    mvf = model.build_model(settings(readout='max'))
    average = model.build_model(settings(readout='avg'))
    average.load_state_dict(mvf.state_dict())
    clips = torch.randn(1, 8, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(mvf(clips), average(clips), atol=1e-4)
    with pytest.raises(KeyError):
        model.build_model(settings(readout='median'))
