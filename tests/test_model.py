"""The model against the reference numbers (tests/golden) and its own promises; from a file on."""
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import data
import model
from running import counting
from backbones.weights import fingerprint
from backbones.released import rename
from loss import projection_head, scl
from lstp import LSTP
from miniatures import write_images
from mtf import MTF
from running.errors import UserError
from test_backbones import assert_close, golden

# ------------------------------------------------------------- everything after the ViT

def inside(state, name):
    """The weights of a part, under the part's own names."""
    return {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}


@torch.no_grad()
def test_mvformer_golden():
    """LSTP, MTF and projection head with the reference's weights, in training and after it."""
    g = golden('mvf_one')
    state = rename({f'embed.{key}': value for key, value in inside(g, 'sd/').items()})
    pool = LSTP(96, entities=3, width=24)
    pool.load_state_dict(inside(state, 'pool.'))
    mtf = MTF(24, 3, frames=8, fc_width=40, width=32, heads=4, hidden=64, embedding=16, dropout=0.)
    mtf.load_state_dict(inside(state, 'mtf.'))
    head = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16))
    head.load_state_dict(inside(g, 'head/net.'))
    valid = g['masks'][:, 0].bool()

    def embed(features, valid=None):
        b, t = features.shape[:2]
        entities, _ = pool(features.flatten(3).flatten(0, 1).mT)
        return mtf(entities.unflatten(0, (b, t)), valid)

    z = embed(g['feats'], valid)
    assert_close(z, g['train_out'])
    assert_close(F.normalize(head(z.flatten(0, 1)), dim=-1).view_as(z), g['train_proj'])
    for layer in 2, 6:
        for name in 'running_mean', 'running_var':
            assert_close(mtf.fc[layer].get_buffer(name), g[f'sd_after/fc_layers.{layer}.{name}'])
    mtf.eval()
    assert_close(embed(g['feats'], valid), g['eval_out'])
    assert_close(embed(g['feats13']), g['eval_out13'])


# -------------------------------------------------------------------- building, training

def settings(**changes):
    return dict(backbone='tiny', weights='random', layers=[1, 2, 4], image_size=24, frames=8,
                fc_width=64, embedding=32) | changes


def test_forward_is_unit_length_float_and_trains_only_what_it_should():
    mvf = model.build_model(settings())
    mvf.head = projection_head(32)
    mvf.train()
    z = mvf(torch.randn(2, 8, 3, 24, 24), torch.ones(2, 8, dtype=torch.bool), project=True)
    assert z.dtype == torch.float32
    assert_close(z.norm(dim=-1), torch.ones(2, 8))
    z[..., 0].sum().backward()
    assert not mvf.backbone.training and mvf.mtf.training
    with_gradient = {name for name, weight in mvf.named_parameters() if weight.grad is not None}
    trained = {name for name, _ in mvf.named_parameters() if not name.startswith('backbone')}
    assert with_gradient == trained
    assert not any(key.startswith('backbone') for key in mvf.trained_state())


@pytest.mark.parametrize('train_backbone', [[], ['blocks']])
def test_padding_that_skips_the_backbone_changes_nothing(train_backbone):
    """Against every frame in the backbone: embeddings, BatchNorm's statistics, loss, gradients."""
    mvf = model.build_model(settings(dropout=0., train_backbone=train_backbone))
    mvf.head = projection_head(32)
    mvf.train()
    views = torch.randn(2, 2, 8, 3, 24, 24)
    lengths = torch.tensor([[8, 5], [1, 7]])
    valid = torch.arange(8) < lengths[..., None]                      # (B, 2, T)
    for clip, length in zip(views.flatten(0, 1), lengths.flatten()):
        clip[length:] = torch.randn(3, 24, 24)                        # one frame, none of the valid
    time = torch.arange(8).expand(2, 2, 8)
    seen = []
    mvf.backbone.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))

    def step(embed):
        """-> embeddings, loss, gradients and statistics of a training step."""
        network_state = {key: value.clone() for key, value in mvf.state_dict().items()}
        mvf.zero_grad()
        z = embed()
        loss = scl(z.unflatten(0, (2, 2)), time, lengths, valid)
        loss.backward()
        found = [weight.grad for weight in mvf.parameters() if weight.requires_grad]
        found += [each.clone() for each in mvf.mtf.buffers() if each.is_floating_point()]
        mvf.load_state_dict(network_state)
        return [z, loss, *found]

    def of_every_frame():
        entities, _ = mvf.entities(views.flatten(0, 2))
        z = mvf.mtf(entities.unflatten(0, (4, 8)), valid.flatten(0, 1))
        z = mvf.head(z.flatten(0, 1)).unflatten(0, (4, 8))
        return F.normalize(z, dim=-1)

    plain = step(of_every_frame)
    ours = step(lambda: mvf(views.flatten(0, 1), valid.flatten(0, 1), project=True))
    assert seen == [32, 8 + 6 + 2 + 8]
    for a, b in zip(ours, plain, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_chunks_change_nothing():
    mvf = model.build_model(settings())
    clips = torch.randn(1, 7, 3, 24, 24)
    with torch.no_grad():
        whole = mvf(clips)
        mvf.frames_at_once = {'cpu': 3}
        assert torch.allclose(mvf(clips), whole, atol=1e-6)


def test_the_last_stage_of_a_resnet_is_trained():
    mvf = model.build_model(settings(backbone='resnet50', image_size=64, layers=[1], pool='max',
                                     train_backbone=['layer4']))
    mvf.train()
    features = mvf.features(torch.randn(1, 3, 64, 64))
    assert features.patches.shape == (1, 4, 2048) and features.cls is None
    features.patches.sum().backward()
    for name, weight in mvf.backbone.named_parameters():
        assert (weight.grad is not None) == name.startswith('layer4.')
    saved = {key for key in mvf.trained_state() if key.startswith('backbone')}
    assert saved and all('.layer4.' in key and 'running' not in key for key in saved)


@torch.no_grad()
def test_a_part_that_acts_on_nothing_that_is_read_is_not_trained():
    for part, layers in ('norm', [4]), ('blocks', [1, 2]):
        with pytest.raises(UserError, match=f'--train-backbone {part}'):
            model.build_model(settings(train_backbone=[part], layers=layers))
    saved = model.build_model(settings(train_backbone=['norm'], pool='cls')).trained_state()
    assert 'backbone.norm.bias' in saved


# ------------------------------------------------------------------- files, the table

@pytest.fixture
def saved(tmp_path):
    """A model, and its checkpoint as train.py writes it."""
    s = asdict(model.Architecture(**settings()).resolve())
    mvf = model.build_model(s)
    checkpoint = dict(settings=s, model=mvf.trained_state(), step=1,
                      backbone=fingerprint(mvf.backbone))
    torch.save(checkpoint, tmp_path / 'checkpoint.pt')
    return mvf


def test_checkpoint_of_a_frozen_backbone_is_kept_by_name(saved, tmp_path):
    again = model.load_model(tmp_path / 'checkpoint.pt').state_dict()
    assert all(torch.equal(value, again[key]) for key, value in saved.state_dict().items())
    content = torch.load(tmp_path / 'checkpoint.pt') | {'backbone': 0}
    torch.save(content, tmp_path / 'other.pt')
    with pytest.raises(UserError, match='another backbone'):
        model.load_model(tmp_path / 'other.pt')


def test_from_a_file_to_embeddings_in_three_lines(saved, tmp_path, monkeypatch):
    """From another working folder; the folder of a run is taken for its checkpoint."""
    write_images(tmp_path / 'squat', 7, '.png', size=(80, 50))
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    z = model.load_model('..').embed('../squat')
    assert z.shape == (7, 32) and z.dtype == np.float32
    frames = data.frame_folder('squat', tmp_path / 'squat', 24).read(range(7))
    with torch.no_grad():
        expected = saved(data.center(frames, 24)[None])[0]
    assert np.allclose(z, expected, atol=1e-5)


def test_a_long_video_is_one_thinned_sequence(saved, tmp_path):
    """Every third of 7 frames as one sequence; what lies between them is interpolated."""
    mvf = saved
    write_images(tmp_path / 'squat', 7, '.png', size=(24, 24))
    video = data.frame_folder('squat', tmp_path / 'squat')
    z = mvf.train().embed(video, most=3)
    assert mvf.training                                   # as it was
    with pytest.raises(UserError):
        mvf.embed(tmp_path / 'absent.mp4')
    assert mvf.training                                   # whatever happens
    mvf.eval()
    with torch.no_grad():
        known = mvf(data.center(video.read([0, 3, 6]), 24)[None], unit_length=False)[0]
    between = F.normalize(torch.lerp(known[0], known[1], 1 / 3), dim=-1)
    assert np.allclose(z[[0, 3, 6]], F.normalize(known, dim=-1), atol=1e-5)
    assert np.allclose(z[1], between, atol=1e-5)


def test_the_table_counts_every_part(monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', 'model.py --backbone tiny --frames 16'.split())
    counting.main()
    lines = capsys.readouterr().out.splitlines()
    assert 'T = 16 frames' in lines[0] and 'N = 3 entities' in lines[0]
    mvf = model.build_model(dict(backbone='tiny', weights='random', frames=16))
    total = sum(weight.numel() for weight in mvf.parameters())
    assert f'{total:,}' in lines[-1]
