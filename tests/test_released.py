"""Checkpoints of CARL and of the MV-Former release: published configurations by their shapes and
settings. That the renamed weights give their numbers: test_model.py, experiments/full_size.py.
"""
import math

import pytest
import torch

import evaluate
import model
import train
from backbones.build import build_backbone
from backbones.released import translate
from backbones.weights import backbone_state, fingerprint
from full_size import save_released
from loss import projection_head
from miniatures import write_images
from running.errors import UserError

PARTS = {'conv1': '0', 'bn1': '1', 'layer1': '4', 'layer2': '5', 'layer3': '6', 'layer4': '7'}


# ----------------------------------------------------------- their files, from their key names

def linear(name, outputs, inputs):
    return {f'{name}.weight': (outputs, inputs), f'{name}.bias': (outputs,)}


def norm(name, width):
    return {f'{name}.weight': (width,), f'{name}.bias': (width,)}


def batch_norm(name, width):
    return norm(name, width) | {f'{name}.running_mean': (width,), f'{name}.running_var': (width,),
                                f'{name}.num_batches_tracked': ()}


def pool_shapes(pool, backbone, entities, width=384):
    """-> shapes of the pooling, the width of what enters the FC layers."""
    if pool == 'lstp':
        at = 'embed.pooling.cross_att'
        shapes = {f'{at}.Q_s': (1, entities, width), f'{at}.Q_s_b': (width,)}
        shapes |= linear(f'{at}.linear_K2d', width, backbone.channels)
        return shapes | linear(f'{at}.linear_V2d', width, backbone.channels), width + entities
    if pool == 'fwb':
        shapes = linear('embed.pooling.lin_conv', width * entities, backbone.width)
        return shapes, width + entities
    return {}, backbone.width if pool == 'cls' else backbone.channels


def their_shapes(pool, backbone, *, entities, fc_width=512, embedding=128, depth=3):
    """Names and shapes of all but the backbone."""
    shapes, inputs = pool_shapes(pool, backbone, entities)
    for number, size in (1, inputs), (5, fc_width):
        shapes |= linear(f'embed.fc_layers.{number}', fc_width, size)
        shapes |= batch_norm(f'embed.fc_layers.{number + 1}', fc_width)
    shapes |= linear('embed.video_emb', 256, fc_width)
    for i in range(depth):
        at = f'embed.video_encoder.enc_layers.{i}'
        shapes |= norm(f'{at}.res_layer0.norm', 256) | norm(f'{at}.res_layer1.norm', 256)
        for name in 'Q2d', 'K2d', 'V2d', 'd2Q':
            shapes |= linear(f'{at}.self_att.linear_{name}', 256, 256)
        shapes |= linear(f'{at}.feed_forward.fc1', 1024, 256)
        shapes |= linear(f'{at}.feed_forward.fc2', 256, 1024)
    shapes |= linear('embed.embedding_layer', embedding, 256)
    shapes |= linear('ssl_projection.net.0', 128, embedding)
    shapes |= batch_norm('ssl_projection.net.1', 128)
    return shapes | linear('ssl_projection.net.3', embedding, 128)


def their_backbone(backbone, pool, is_carl=False):
    """A backbone's state dict under their names; CARL has the trained layer4 apart."""
    theirs = {}
    for key, value in backbone.state_dict().items():
        part, _, rest = key.partition('.')
        if is_carl and part == 'layer4':
            theirs[f'res_finetune.{rest}'] = value
        elif part in PARTS:
            theirs[f'backbone.{PARTS[part]}.{rest}'] = value
        else:
            theirs[f'backbone.{"" if pool == "cls" else "model."}{key}'] = value
    return theirs


def their_state(pool, backbone, is_carl=False, **sizes):
    state = {}
    for key, shape in their_shapes(pool, backbone, **sizes).items():
        state[key] = torch.randn(shape) / math.prod(shape[1:]) ** 0.5
        if key.endswith('running_var'):
            state[key] = torch.ones(shape)
    return state | their_backbone(backbone, pool, is_carl)


def config(frames=80, **entries):
    """cfg, of which only what a test is about is said."""
    return dict(MODEL=dict(EMBEDDER_MODEL=entries), TRAIN=dict(NUM_FRAMES=frames))


# ------------------------------------------------------------------ published configurations

LSTP = dict(FUSION_TYPE='smart', SMART_ONE_HOT=True, SMART_FINAL='one')
LAST = LSTP | dict(SMART_FEATS=11)
THREE = LSTP | dict(SMART_FEATS='3,7,11')
FINEGYM = LSTP | dict(SMART_FEATS='9,10,11', SMART_FINAL='avg')
CARL = dict(FLATTEN_METHOD='max_pool')
# what follows from cfg and shapes, but for `keys`, the number of weights
VIT = dict(keys=231, backbone='dino_vitb8', pool='lstp', frames=80, layers=[12], entities=3,
           readout='cls', fc_width=512, embedding=128, depth=3, image_size=224, disjoint=False)
ONE_TOKEN = VIT | dict(keys=225, entities=1)
RESNET = VIT | dict(keys=393, backbone='resnet50', pool='max', layers=[1], entities=1)
CONFIGURATIONS = {
    'penn_mvf': (THREE, VIT | dict(layers=[4, 8, 12])),
    'pouring_mvf': (LAST, VIT | dict(frames=240)),
    'fg99_mvf': (FINEGYM, VIT | dict(frames=240, layers=[10, 11, 12], entities=6, readout='avg',
                                     fc_width=1536, embedding=256)),
    'ablate_dinoB8_lstp5': (dict(SMART_FEATS=11, SMART_TOKENS=5), ONE_TOKEN | dict(pool='cls')),
    'ablate_dinoB8_fwb5': (LSTP, VIT | dict(keys=227, pool='fwb', entities=5)),
    'ablate_dinoB8_avg': (dict(LATE_TYPE='avg', FLATTEN_METHOD='max_pool'),
                          ONE_TOKEN | dict(pool='avg')),
    'ablate_rn50_lstp5': (LSTP, RESNET | dict(keys=399, pool='lstp', entities=5)),
    'ablate_rn50_max': (CARL, RESNET),
    'CARL for Pouring': (CARL, RESNET | dict(keys=377, frames=240, depth=2)),
    # not published, but possible
    'layers in another order, disjoint': (LSTP | dict(SMART_FEATS='7,3', SMART_DISJOINT=True),
                                          VIT | dict(layers=[8, 4], disjoint=True)),
    'one entity, no readout said': (dict(SMART_FEATS=3), VIT | dict(layers=[4], entities=1)),
    'late fusion by its pooling': (dict(LATE_TYPE='patches', FLATTEN_METHOD='avg_pool'),
                                   ONE_TOKEN | dict(pool='avg')),
}


@pytest.mark.parametrize('what', CONFIGURATIONS)
def test_configurations_fit(what):
    entries, expected = CONFIGURATIONS[what]
    expected = dict(expected)
    keys = expected.pop('keys')
    is_carl = what.startswith('CARL')
    sizes = {name: expected[name] for name in ('entities', 'fc_width', 'embedding', 'depth')}
    with torch.device('meta'):                            # shapes alone
        backbone = model.backbones()[expected['backbone']].make(expected['layers'])
        state = their_state(expected['pool'], backbone, is_carl, **sizes)
        assert len(state) == keys
        content = dict(model_state=state, epoch=299, cfg=config(expected['frames'], **entries))
        translated = translate(content, what)
        settings = translated['settings']
        network = model.build_model(settings)
        network.head = projection_head(expected['embedding'])
    assert {key: settings[key] for key in expected} == expected
    assert settings['train_backbone'] == (['layer4'] if is_carl else [])
    own = {key: value.shape for key, value in network.state_dict().items()}
    assert own == {key: value.shape for key, value in translated['model'].items()}


# ------------------------------------------------------------------- a small one, as a file

@pytest.fixture(scope='module')
def tiny():
    return build_backbone('tiny', weights='random', layers=[4])


@pytest.fixture(scope='module')
def small(tiny):
    """What torch.load gives of a small LSTP checkpoint."""
    torch.manual_seed(0)
    state = their_state('lstp', tiny, entities=3, fc_width=16, embedding=12)
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
    ('embed.fc_layers.1.weight', None, 'no transformer.*mtf.fc.1.weight'),
    ('embed.video_encoder.enc_layers.0.self_att.linear_Q2d.weight', None, 'missing mtf.blocks.0'),
    ('embed.fc_layers.1.weight', torch.zeros(16, 384), 'SMART_ONE_HOT'),
    ('embed.gru.weight', torch.zeros(3, 3), 'it.pth does not fit: unknown embed.gru.weight')])
def test_weights_missing_or_too_many_are_named(key, value, words, small, tmp_path):
    state = {name: weight for name, weight in small['model_state'].items() if name != key}
    if value is not None:
        state[key] = value
    save_released(tmp_path / 'it.pth', state, small['cfg'])
    with pytest.raises(UserError, match=words):
        model.load_model(tmp_path / 'it.pth')


def test_carls_backbone_is_found_by_weights():
    """As training from such a file does."""
    with torch.device('meta'):
        backbone = model.backbones()['resnet50'].make(None)
        theirs = their_backbone(backbone, 'max', is_carl=True)
        theirs['embed.video_emb.bias'] = torch.zeros(256)
        state, sentence = backbone_state(dict(model_state=theirs), backbone, 'it.pth')
    assert 'left out embed.*' in sentence
    own = {key: value.shape for key, value in backbone.state_dict().items()}
    assert own == {key: value.shape for key, value in state.items()}


def test_training_starts_from_one(small, tiny, monkeypatch, tmp_path):
    """With its backbone, which the run's checkpoint must find again: the same command resumes."""
    monkeypatch.setattr(evaluate, 'evaluate', lambda *_, **__: {})
    for name in 'train/a', 'val/b':
        write_images(tmp_path / 'videos' / name, 4, '.png', size=(24, 24))
    save_released(tmp_path / 'it.pth', small['model_state'], small['cfg'])
    command = (f'train.py --dataset folder --data {tmp_path}/videos --init {tmp_path}/it.pth '
               f'--out {tmp_path}/run --backbone tiny --layers 4 --fc-width 16 --embedding 12 '
               f'--image-size 24 --frames 4 --batch 1 --workers 0 --lr 0 --epochs 1')
    monkeypatch.setattr('sys.argv', command.split())
    for _ in range(2):
        train.main()
    for path in tmp_path / 'it.pth', tmp_path / 'run':    # the learning rate was 0
        network = model.load_model(path)
        assert fingerprint(network.backbone) == fingerprint(tiny)
        own = small['model_state']['embed.pooling.cross_att.Q_s'][0]
        assert torch.equal(network.pool.own, own)
