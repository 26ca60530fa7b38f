"""Checkpoints of CARL and of the MV-Former release: their names and shapes (tests/golden), and what
other published configurations change. That the renamed weights give their numbers: test_model.py,
experiments/full_size.py.
"""
from pathlib import Path

import pytest
import torch

import evaluate
import model
import train
from backbones.build import build_backbone
from backbones.released import translate
from backbones.weights import fingerprint
from full_size import save_released
from loss import projection_head
from miniatures import write_images
from running.errors import UserError

GOLDEN = Path(__file__).parent / 'golden'
POOLING = 'embed.pooling'
FIRST = 'embed.fc_layers.1.weight'


# ---------------------------------------------------------------- their weights, shapes alone

def shaped(*shape):
    return torch.empty(shape, device='meta')


def listed(name):
    """The state dict of a checkpoint, by a list of its names and shapes."""
    state = {}
    for line in (GOLDEN / f'{name}_keys.txt').read_text().splitlines():
        if '\t' in line:
            key, shape = line.split('\t')
            is_scalar = shape.startswith('scalar')
            state[key] = shaped() if is_scalar else shaped(*map(int, shape.split('x')))
    return state


def without(state, beginning):
    return {key: value for key, value in state.items() if not key.startswith(beginning)}


def lstp(state, entities=3, channels=768):
    """With so many entities, of backbone features of so many channels."""
    at = f'{POOLING}.cross_att'
    return state | {
        f'{at}.Q_s': shaped(1, entities, 384), FIRST: shaped(512, 384 + entities),
        f'{at}.linear_K2d.weight': shaped(384, channels),
        f'{at}.linear_V2d.weight': shaped(384, channels)}


def one_token(state, inputs=768):
    return without(state, POOLING) | {FIRST: shaped(512, inputs)}


def wide(state):
    """FC layers of 1536 in the place of 512."""
    wider = {}
    for key, value in state.items():
        if key.startswith(('embed.fc_layers', 'embed.video_emb')):
            value = shaped(*[1536 if size == 512 else size for size in value.shape])
        wider[key] = value
    return wider


PENN = listed('mvf')                                      # the release's penn_mvf
CARL = listed('carl')                                     # layer4 of its ResNet stands apart
ONE_CLS = one_token({key.replace('backbone.model.', 'backbone.'): PENN[key] for key in PENN})
FWB = one_token(PENN, 384 + 5) | {f'{POOLING}.lin_conv.weight': shaped(5 * 384, 768),
                                  f'{POOLING}.lin_conv.bias': shaped(5 * 384)}
RN50 = {key.replace('res_finetune.', 'backbone.7.'): CARL[key] for key in CARL}
RN50_LSTP = without(lstp(PENN, 5, 2048), 'backbone')
RN50_LSTP |= {key: RN50[key] for key in RN50 if key.startswith('backbone')}


# ------------------------------------------------------------------ published configurations

def config(frames=80, **entries):
    """cfg, of which only what a test is about is said."""
    return dict(MODEL=dict(EMBEDDER_MODEL=entries), TRAIN=dict(NUM_FRAMES=frames))


SMART = dict(FUSION_TYPE='smart', SMART_ONE_HOT=True, SMART_FINAL='one')
THREE = config(**SMART, SMART_FEATS='3,7,11')
LAST = config(240, **SMART, SMART_FEATS=11)
AVG = config(240, **SMART | dict(SMART_FEATS='9,10,11', SMART_FINAL='avg'))
OTHER = config(**SMART, SMART_FEATS='7,3', SMART_DISJOINT=True)
NO_FUSION = config(SMART_FEATS=11, SMART_TOKENS=5)
AVG_POOL = config(LATE_TYPE='avg', FLATTEN_METHOD='max_pool')
MAX_POOL = config(FLATTEN_METHOD='max_pool')
# the settings that follow: those of pouring_mvf, and what differs
POURING = dict(backbone='dino_vitb8', pool='lstp', frames=240, layers=[12], entities=3,
               readout='cls', fc_width=512, embedding=128, depth=3, image_size=224, disjoint=False)
ONE = dict(frames=80, entities=1)
RESNET = dict(frames=80, backbone='resnet50', layers=[1])
RESNET_MAX = RESNET | dict(pool='max', entities=1)
CONFIGURATIONS = {
    'penn_mvf': (PENN, THREE, dict(frames=80, layers=[4, 8, 12])),
    'pouring_mvf': (lstp(PENN), LAST, {}),
    'fg99_mvf': (wide(lstp(PENN, 6, 2304)), AVG,
                 dict(layers=[10, 11, 12], entities=6, readout='avg', fc_width=1536)),
    'ablate_dinoB8_lstp5': (ONE_CLS, NO_FUSION, ONE | dict(pool='cls')),
    'ablate_dinoB8_fwb5': (FWB, config(**SMART), dict(frames=80, pool='fwb', entities=5)),
    'ablate_dinoB8_avg': (one_token(PENN), AVG_POOL, ONE | dict(pool='avg')),
    'ablate_rn50_lstp5': (RN50_LSTP, config(**SMART), RESNET | dict(entities=5)),
    'CARL, Penn Action': (CARL, MAX_POOL, RESNET_MAX),
    'CARL, Kinetics': (without(CARL, 'embed.video_encoder.enc_layers.2'), MAX_POOL,
                       RESNET_MAX | dict(depth=2)),
    # not published, but possible
    'other layers, disjoint': (lstp(PENN, 3, 1536), OTHER,
                               dict(frames=80, layers=[8, 4], disjoint=True)),
    'no readout said': (lstp(PENN, 1), config(SMART_FEATS=3), ONE | dict(layers=[4])),
}


@pytest.mark.parametrize('what', CONFIGURATIONS)
def test_configurations_fit(what):
    state, cfg, changes = CONFIGURATIONS[what]
    expected = POURING | changes
    translated = translate(dict(model_state=state, epoch=299, cfg=cfg), what)
    settings = translated['settings']
    assert {key: settings[key] for key in expected} == expected
    assert settings['train_backbone'] == (['layer4'] if what.startswith('CARL') else [])
    with torch.device('meta'):
        network = model.build_model(settings)
        network.head = projection_head(128)
    own = {key: value.shape for key, value in network.state_dict().items()}
    assert own == {key: value.shape for key, value in translated['model'].items()}


# ------------------------------------------------------------------- a small one, as a file

@pytest.fixture(scope='module')
def tiny():
    return build_backbone('tiny', weights='random', layers=[4])


@pytest.fixture(scope='module')
def small(tiny):
    """What torch.load gives of an LSTP checkpoint on the tiny backbone."""
    torch.manual_seed(0)
    state = {}
    for key, value in without(lstp(PENN, channels=96), 'backbone').items():
        state[key] = torch.rand(value.shape) / 10
    for key, value in tiny.state_dict().items():
        state[f'backbone.model.{key}'] = value
    return dict(epoch=0, model_state=state,
                cfg=config(4, SMART_FEATS='3', SMART_FINAL='one', IMAGE_SIZE=24))


def cfg(**entries):
    return dict(cfg=config(**dict(SMART_FEATS='3', SMART_FINAL='one') | entries))


@pytest.mark.parametrize('changes, words', [
    (cfg(SMART_FINAL='lin'), 'SMART_FINAL lin'),
    (cfg(SMART_FINAL=None), 'SMART_FINAL max'),
    (cfg(SMART_LN_KEYS=True), 'SMART_LN_KEYS'),
    (cfg(NUM_HEADS=4), 'NUM_HEADS 4'),
    (cfg(SMART_FEATS=None), 'SMART_FEATS'),
    (dict(cfg={}), 'TRAIN.NUM_FRAMES'),
    (dict(cfg=None), 'no checkpoint of CARL'),
    (dict(model_state={'a': 3}), 'no checkpoint of CARL'),
    (dict(model_state={}), 'its backbone'),
])
def test_what_cannot_be_expressed_is_refused(changes, words, small):
    with pytest.raises(UserError, match=f'folder/it.pth.*{words}') as error:
        translate(small | changes, 'folder/it.pth')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('key, value, words', [
    (FIRST, None, 'no transformer.*mtf.fc.1.weight'),
    ('embed.video_encoder.enc_layers.0.self_att.linear_Q2d.weight', None, 'Missing.*mtf.blocks.0'),
    (FIRST, torch.zeros(512, 384), 'size mismatch for mtf.fc.1.weight'),
    ('embed.gru.weight', torch.zeros(3, 3), 'it.pth does not fit: Unexpected.*embed.gru.weight')])
def test_weights_missing_or_too_many_are_named(key, value, words, small, tmp_path):
    state = {name: weight for name, weight in small['model_state'].items() if name != key}
    if value is not None:
        state[key] = value
    save_released(tmp_path / 'it.pth', state, small['cfg'])
    with pytest.raises(UserError, match=words):
        model.load_model(tmp_path / 'it.pth')


def test_training_starts_from_one(small, tiny, monkeypatch, tmp_path):
    """With its backbone, which the run's checkpoint must find again: the same command resumes."""
    monkeypatch.setattr(evaluate, 'evaluate', lambda *_, **__: {})
    for name in 'train/a', 'val/b':
        write_images(tmp_path / 'videos' / name, 4, '.png', size=(24, 24))
    save_released(tmp_path / 'it.pth', small['model_state'], small['cfg'])
    command = (f'train.py --dataset folder --data {tmp_path}/videos --init {tmp_path}/it.pth '
               f'--out {tmp_path}/run --backbone tiny --layers 4 --image-size 24 --frames 4 '
               f'--batch 1 --workers 0 --lr 0 --epochs 1')
    monkeypatch.setattr('sys.argv', command.split())
    for _ in range(2):
        train.main()
    for path in tmp_path / 'it.pth', tmp_path / 'run':    # the learning rate was 0
        network = model.load_model(path)
        assert fingerprint(network.backbone) == fingerprint(tiny)
        own = small['model_state']['embed.pooling.cross_att.Q_s'][0]
        assert torch.equal(network.pool.own, own)
