"""The model against the reference numbers (tests/golden) and its own promises; from a file to embeddings."""
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import data
import model
from loss import projection_head
from lstp import LSTP
from miniatures import write_images
from mtf import MTF, READOUTS
from running.errors import UserError

GOLDEN = Path(__file__).parent / 'golden'


def golden(name):
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f'{name}.npz').items()}


def assert_close(ours, reference, tolerance=1e-5):
    """Within `tolerance` of the largest magnitude in the reference."""
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= tolerance * reference.abs().max()


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


def saved(path, **changes):
    """A checkpoint as train.py writes it, and its model."""
    s = asdict(model.Architecture.from_dict(settings(**changes)))
    mvf = model.build_model(s)
    torch.save(dict(settings=s, model=mvf.trained_state(), optimizer={}, step=1,
                    backbone=model.fingerprint(mvf.backbone)), path)
    return mvf


def test_from_a_file_to_embeddings_in_three_lines(tmp_path, monkeypatch):
    """From another working folder; the folder of a run is taken for its checkpoint."""
    mvf = saved(tmp_path / 'checkpoint.pt')
    write_images(tmp_path / 'squat', 7, '.png', size=(80, 50))
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    z = model.load_model('..').embed('../squat')
    assert z.shape == (7, 32) and z.dtype == np.float32
    frames = data.frame_folder('squat', tmp_path / 'squat', 64).read(range(7))
    with torch.no_grad():
        expected = mvf(data.center(frames, 64)[None])[0]
    assert np.allclose(z, expected, atol=1e-5)


def test_a_long_video_is_one_thinned_sequence(tmp_path):
    """Every third of 7 frames as one sequence; what lies between them is interpolated."""
    mvf = saved(tmp_path / 'checkpoint.pt')
    write_images(tmp_path / 'squat', 7, '.png', size=(64, 64))
    video = data.frame_folder('squat', tmp_path / 'squat')
    z = mvf.train().embed(video, most=3)
    assert mvf.training                                   # as it was
    mvf.eval()
    with torch.no_grad():
        known = mvf(data.center(video.read([0, 3, 6]), 64)[None], normalize=False)[0]
    between = F.normalize(torch.lerp(known[0], known[1], 1 / 3), dim=-1)
    assert np.allclose(z[[0, 3, 6]], F.normalize(known, dim=-1), atol=1e-5)
    assert np.allclose(z[1], between, atol=1e-5)


@pytest.mark.parametrize('pool', ['lstp', 'cls'])
def test_blocks_behind_the_last_one_needed_are_left_out(pool):
    mvf = model.build_model(settings(layers=[2], pool=pool))
    ran = []
    for number, block in enumerate(mvf.backbone.blocks, 1):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    mvf.features(torch.randn(1, 3, 64, 64))
    assert ran == ([1, 2, 3, 4] if pool == 'cls' else [1, 2])


def test_a_shared_backbone_gives_cls_once_somebody_reads_it():
    backbone = model.build_model(settings(layers=[2])).backbone
    assert backbone(torch.randn(1, 3, 64, 64)).cls is None
    late = model.build_model(settings(layers=[2], pool='cls'), backbone)
    model.build_model(settings(layers=[2]), backbone)
    assert late(torch.randn(1, 8, 3, 64, 64)).isfinite().all()


@pytest.mark.parametrize('part, layers', [('norm', [4]), ('blocks', [1, 2])])
def test_a_part_that_would_get_no_gradient_is_refused(part, layers):
    with pytest.raises(UserError, match=f'--train-backbone {part}') as error:
        model.build_model(settings(train_backbone=[part], layers=layers))
    assert '\n' not in str(error.value)


@torch.no_grad()
def test_a_part_with_a_gradient_is_trained():
    for part, pool in ('norm', 'cls'), ('blocks', 'lstp'):
        mvf = model.build_model(settings(train_backbone=[part], layers=[4], pool=pool))
        assert any(key.startswith(f'backbone.{part}') for key in mvf.trained_state())


def test_the_table_counts_every_part(monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['model.py', '--backbone', 'tiny', '--frames', '16'])
    model.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('MV-Former: one clip of T = 16 frames, N = 3 entities, tiny layers [1, 2, 4]')
    mvf = model.build_model(dict(backbone='tiny', weights='random', layers=[1, 2, 4], frames=16))
    total = sum(weight.numel() for weight in mvf.parameters())
    assert f'{total:,}' in lines[-1]
    monkeypatch.setattr('sys.argv', ['model.py', '--backbone', 'tiny', '--pool', 'avg'])
    model.main()
    assert 'N = 1 entities' in capsys.readouterr().out


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
