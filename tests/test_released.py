"""Checkpoints of CARL and of the MV-Former release: small ones of the same structure, run against
a plain form of their model in float64; every published configuration by its shapes."""
import math

import pytest
import torch
import torch.nn.functional as F

import model
import train
from backbones.released import is_released, parse_yaml, translate
from backbones.weights import load_strictly, load_weights
from full_size import save_released
from loss import projection_head
from miniatures import write_images
from test_backbones import assert_close
from running.errors import UserError

PARTS = {'conv1': '0', 'bn1': '1', 'layer1': '4', 'layer2': '5', 'layer3': '6', 'layer4': '7'}


# ----------------------------------------------------------- their files, from their key names

def drawn(shapes):
    """Weights as unlike as the shapes ask for: variances positive, no two alike."""
    state = {}
    for key, shape in shapes.items():
        if key.endswith('num_batches_tracked'):
            state[key] = torch.tensor(7)
        elif key.endswith('running_var'):
            state[key] = 1 + 0.1 * torch.rand(shape)
        elif len(shape) == 1:
            state[key] = key.endswith('weight') + 0.1 * torch.randn(shape)
        else:
            state[key] = torch.randn(shape) / math.sqrt(math.prod(shape[1:]))
    return state


def linear(name, outputs, inputs):
    return {f'{name}.weight': (outputs, inputs), f'{name}.bias': (outputs,)}


def norm(name, width):
    return {f'{name}.weight': (width,), f'{name}.bias': (width,)}


def batch_norm(name, width):
    return norm(name, width) | {f'{name}.running_mean': (width,), f'{name}.running_var': (width,),
                                f'{name}.num_batches_tracked': ()}


def pool_shapes(pool, channels, cls_width, entities, width):
    """-> shapes of the pooling, the width of what enters the FC layers."""
    if pool == 'lstp':
        at = 'embed.pooling.cross_att'
        shapes = {f'{at}.Q_s': (1, entities, width), f'{at}.Q_s_b': (width,)}
        shapes |= linear(f'{at}.linear_K2d', width, channels)
        shapes |= linear(f'{at}.linear_V2d', width, channels)
        return shapes, width + entities
    if pool == 'fwb':
        shapes = linear('embed.pooling.lin_conv', width * entities, cls_width)
        return shapes, width + entities
    if pool == 'cls':
        return {}, cls_width
    return {}, channels


def their_shapes(pool, channels, cls_width, *, entities=1, width=384, fc=512, D=128, depth=3):
    """Names and shapes of all but the backbone."""
    shapes, inputs = pool_shapes(pool, channels, cls_width, entities, width)
    for number, size in (1, inputs), (5, fc):
        shapes |= linear(f'embed.fc_layers.{number}', fc, size)
        shapes |= batch_norm(f'embed.fc_layers.{number + 1}', fc)
    shapes |= linear('embed.video_emb', 256, fc)
    for i in range(depth):
        at = f'embed.video_encoder.enc_layers.{i}'
        shapes |= norm(f'{at}.res_layer0.norm', 256) | norm(f'{at}.res_layer1.norm', 256)
        for name in 'Q2d', 'K2d', 'V2d', 'd2Q':
            shapes |= linear(f'{at}.self_att.linear_{name}', 256, 256)
        shapes |= linear(f'{at}.feed_forward.fc1', 1024, 256)
        shapes |= linear(f'{at}.feed_forward.fc2', 256, 1024)
    shapes |= linear('embed.embedding_layer', D, 256) | linear('ssl_projection.net.0', 128, D)
    return shapes | batch_norm('ssl_projection.net.1', 128) | linear('ssl_projection.net.3', D, 128)


def their_backbone(backbone, pool, stage4_apart=False):
    """A backbone's state dict under their names."""
    theirs = {}
    for key, value in backbone.state_dict().items():
        part, _, rest = key.partition('.')
        if part in PARTS and stage4_apart and part == 'layer4':
            theirs[f'res_finetune.{rest}'] = value
        elif part in PARTS:
            theirs[f'backbone.{PARTS[part]}.{rest}'] = value
        else:
            theirs[f'backbone.{"" if pool == "cls" else "model."}{key}'] = value
    return theirs


# ----------------------------------------------------------------- their model, in plain steps

def plain_pool(state, pool, patches, cls, disjoint=False):
    """(F, P, C), (F, C) -> tokens (F, N, d) with the id where there is one."""
    if pool == 'max':
        return patches.max(1, keepdim=True).values
    if pool == 'avg':
        return patches.mean(1, keepdim=True)
    if pool == 'cls':
        return cls[:, None]
    if pool == 'fwb':
        out = apply(state, 'pooling.lin_conv', cls)
        entities = out.view(len(out), 384, -1).mT
    else:
        query = state['embed.pooling.cross_att.Q_s'][0] + state['embed.pooling.cross_att.Q_s_b']
        key = apply(state, 'pooling.cross_att.linear_K2d', patches)
        value = apply(state, 'pooling.cross_att.linear_V2d', patches)
        attention = (query @ key.mT / query.shape[1] ** 0.5).softmax(-1)        # (F, N, P)
        if disjoint:
            strongest = attention.amax(1, keepdim=True)
            attention = torch.where(attention == strongest, attention, 0.)
        entities = attention @ value
    ids = torch.eye(entities.shape[1], dtype=entities.dtype).expand(len(entities), -1, -1)
    return torch.cat([entities, ids], -1)


def plain_fusion(state, tokens, T, readout, depth):
    """tokens (S, N, d) of one video -> embeddings (S, D) before L2."""
    s, n, _ = tokens.shape
    x = tokens.flatten(0, 1)
    for number in 1, 5:
        x = apply(state, f'fc_layers.{number}', x)
        at = f'embed.fc_layers.{number + 1}'
        x = (x - state[f'{at}.running_mean']) / (state[f'{at}.running_var'] + 1e-5).sqrt()
        x = (x * state[f'{at}.weight'] + state[f'{at}.bias']).relu()
    x = apply(state, 'video_emb', x).view(s, n, 256)
    code = torch.zeros(s, 1, 256, dtype=x.dtype)
    for t in range(s):
        position = t * (T - 1) / (s - 1)
        for channel in range(256):
            wave = math.cos if channel % 2 else math.sin
            code[t, 0, channel] = wave(position / 10000 ** (channel / 256))
    x = (x + code).flatten(0, 1)
    for i in range(depth):
        at = f'video_encoder.enc_layers.{i}'
        y = layer_norm(state, f'{at}.res_layer0.norm', x)
        x = x + plain_attention(state, f'{at}.self_att', y)
        y = layer_norm(state, f'{at}.res_layer1.norm', x)
        y = apply(state, f'{at}.feed_forward.fc1', y).relu()
        x = x + apply(state, f'{at}.feed_forward.fc2', y)
    x = x.view(s, n, 256)
    frame = x[:, 0] if readout == 'one' else x.mean(1)
    return apply(state, 'embedding_layer', frame)


def apply(state, name, x):
    return F.linear(x, state[f'embed.{name}.weight'], state[f'embed.{name}.bias'])


def layer_norm(state, name, x):
    return F.layer_norm(x, (256,), state[f'embed.{name}.weight'], state[f'embed.{name}.bias'])


def plain_attention(state, at, x):
    query = apply(state, f'{at}.linear_Q2d', x)
    key = apply(state, f'{at}.linear_K2d', x)
    value = apply(state, f'{at}.linear_V2d', x)
    heads = []
    for part in range(8):
        c = slice(32 * part, 32 * part + 32)
        attention = (query[:, c] @ key[:, c].mT / 32 ** 0.5).softmax(-1)
        heads.append(attention @ value[:, c])
    return apply(state, f'{at}.linear_d2Q', torch.cat(heads, 1))


# ------------------------------------------------------------------------------- small stand-ins

def config(train=80, **entries):
    """cfg, of which only what a test is about is said."""
    return dict(MODEL=dict(EMBEDDER_MODEL=entries), TRAIN=dict(NUM_FRAMES=train))


# cfg, and what it is: on the tiny ViT of four layers, or a ResNet
VIT_SMALL = dict(backbone='tiny', pool='lstp', layers=[4], entities=3, depth=3, readout='one')
ONE_SMALL = VIT_SMALL | dict(entities=1)
RESNET_SMALL = ONE_SMALL | dict(backbone='resnet50', pool='max', layers=[1])
SMALL = {
    'LSTP of three layers': (
        dict(FUSION_TYPE='smart', SMART_FEATS='0,1,3', SMART_ONE_HOT=True, SMART_FINAL='one'),
        VIT_SMALL | dict(layers=[1, 2, 4])),
    'LSTP, layers in another order, average': (
        dict(SMART_FEATS='3,1', SMART_FINAL='avg'),
        VIT_SMALL | dict(layers=[4, 2], entities=6, readout='avg')),
    'LSTP of one layer, one token': (
        dict(SMART_FEATS=2, SMART_FINAL='one'), ONE_SMALL | dict(layers=[3])),
    'LSTP, one token, no readout said': (dict(SMART_FEATS=3), ONE_SMALL),
    'LSTP, disjoint': (
        dict(SMART_FEATS='3', SMART_FINAL='one', SMART_DISJOINT=True), VIT_SMALL),
    'FWB': (dict(SMART_FINAL='one'), VIT_SMALL | dict(pool='fwb', entities=5)),
    'late fusion of CLS': ({}, ONE_SMALL | dict(pool='cls')),
    'late fusion of CLS, said': (
        dict(FUSION_TYPE='late', LATE_TYPE='cls', FLATTEN_METHOD='max_pool'),
        ONE_SMALL | dict(pool='cls', depth=2)),
    'late fusion of the maximum': (dict(LATE_TYPE='max'), ONE_SMALL | dict(pool='max')),
    'late fusion of the mean': (
        dict(LATE_TYPE='avg', FLATTEN_METHOD='max_pool'), ONE_SMALL | dict(pool='avg')),
    'late fusion by its pooling': (
        dict(LATE_TYPE='patches', FLATTEN_METHOD='avg_pool'), ONE_SMALL | dict(pool='avg')),
    'LSTP on a ResNet': (
        dict(FUSION_TYPE='smart', SMART_FINAL='one'),
        RESNET_SMALL | dict(pool='lstp', entities=3)),
    'CARL with two blocks': (dict(FLATTEN_METHOD='max_pool'), RESNET_SMALL | dict(depth=2)),
}


@pytest.fixture(scope='module')
def backbones():
    """In pictures of 64 pixels."""
    return {name: model.build_backbone(name, weights='random', image_size=64).eval()
            for name in ('tiny', 'resnet50')}


@pytest.mark.parametrize('what', SMALL)
@torch.no_grad()
def test_small_ones_are_their_model(what, backbones, tmp_path):
    entries, it = SMALL[what]
    pool = it['pool']
    layers = it['layers']
    depth = it['depth']
    is_carl = what.startswith('CARL')
    backbone = backbones[it['backbone']]
    if it['backbone'] == 'tiny':
        backbone.layers = layers
        backbone.channels = 96 * len(layers)
    torch.manual_seed(0)
    state = drawn(their_shapes(pool, backbone.channels, backbone.width, entities=it['entities'],
                               fc=16, D=12, depth=depth))
    state |= their_backbone(backbone, pool, stage4_apart=is_carl)
    path = tmp_path / 'it.pth'
    save_released(path, state, config(train=9, IMAGE_SIZE=64, **entries))
    settings = model.load_checkpoint(path)['settings']
    network = model.load_model(path)
    assert settings['layers'] == layers
    assert settings['frames'] == 9
    assert settings['pool'] == pool
    assert settings['train_backbone'] == (['layer4'] if is_carl else [])

    images = torch.randn(5, 3, 64, 64)
    features = backbone(images)
    assert torch.equal(network.features(images).patches, features.patches)
    double = {key: value.double() for key, value in state.items()}
    cls = None if features.cls is None else features.cls.double()
    tokens = plain_pool(double, pool, features.patches.double(), cls, what == 'LSTP, disjoint')
    expected = plain_fusion(double, tokens, 9, it['readout'], depth)
    assert_close(network(images[None], normalize=False)[0].double(), expected)


# ----------------------------------------------------------- every published configuration

LSTP = dict(FUSION_TYPE='smart', SMART_ONE_HOT=True, SMART_FINAL='one')
LAST = LSTP | dict(SMART_FEATS=11)
THREE = LSTP | dict(SMART_FEATS='3,7,11')
FINEGYM = LSTP | dict(SMART_FEATS='9,10,11', SMART_FINAL='avg')
CARL = dict(FLATTEN_METHOD='max_pool')
# what follows from cfg and shapes, but for `keys`, the number of weights
VIT = dict(keys=231, backbone='dino_vitb8', pool='lstp', frames=80, layers=[12], entities=3,
           readout='cls', fc_width=512, embedding=128, depth=3, image_size=224)
ONE_TOKEN = VIT | dict(keys=225, entities=1)
RESNET = VIT | dict(keys=393, backbone='resnet50', pool='max', layers=[1], entities=1)
PUBLISHED = {
    'penn_mvf': (THREE, VIT | dict(layers=[4, 8, 12])),
    'pouring_mvf': (LAST, VIT | dict(frames=240)),
    'fg99_mvf': (FINEGYM, VIT | dict(frames=240, layers=[10, 11, 12], entities=6, readout='avg',
                                     fc_width=1536, embedding=256)),
    'ablate_dinoB8_lstp1': (LAST, VIT | dict(entities=1)),
    'ablate_dinoB8_lstp3': (LAST, VIT),
    'ablate_dinoB8_lstp5': (dict(SMART_FEATS=11, SMART_TOKENS=5), ONE_TOKEN | dict(pool='cls')),
    'ablate_dinoB8_multi_lstp1': (THREE, VIT | dict(layers=[4, 8, 12], entities=1)),
    'ablate_dinoB8_multi_lstp5': (THREE, VIT | dict(layers=[4, 8, 12], entities=5)),
    'ablate_dinoB8_fwb3': (LSTP, VIT | dict(keys=227, pool='fwb')),
    'ablate_dinoB8_fwb5': (LSTP, VIT | dict(keys=227, pool='fwb', entities=5)),
    'ablate_dinoB8_cls': ({}, ONE_TOKEN | dict(pool='cls')),
    'ablate_dinoB8_max': (dict(LATE_TYPE='max'), ONE_TOKEN | dict(pool='max')),
    'ablate_dinoB8_avg': (dict(LATE_TYPE='avg'), ONE_TOKEN | dict(pool='avg')),
    'ablate_rn50_lstp5': (LSTP, RESNET | dict(keys=399, pool='lstp', entities=5)),
    'ablate_rn50_max': (CARL, RESNET),
    'CARL for Penn Action': (CARL, RESNET),
    'CARL for FineGym': (CARL, RESNET | dict(frames=240)),
    'CARL for Pouring': (CARL, RESNET | dict(keys=377, frames=240, depth=2)),
    'CARL for Kinetics': (CARL, RESNET | dict(keys=377, depth=2)),
}


def shapes_but_head(state):
    return {key: value.shape for key, value in state.items() if not key.startswith('head.')}


def head_of(state):
    head = {}
    for key, value in state.items():
        if key.startswith('head.'):
            head[key.removeprefix('head.')] = value
    return head


@pytest.mark.parametrize('what', PUBLISHED)
def test_every_published_configuration_fits(what):
    entries, expected = PUBLISHED[what]
    expected = dict(expected)
    keys = expected.pop('keys')
    pool = expected['pool']
    with torch.device('meta'):                            # shapes alone
        backbone = model.backbones()[expected['backbone']].make(expected['layers'])
        shapes = their_shapes(pool, backbone.channels, backbone.width,
                              entities=expected['entities'], fc=expected['fc_width'],
                              D=expected['embedding'], depth=expected['depth'])
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
        state |= their_backbone(backbone, pool, stage4_apart=what.startswith('CARL'))
        assert len(state) == keys
        content = dict(model_state=state, epoch=299, cfg=config(expected['frames'], **entries))
        assert is_released(content)
        translated = translate(content, what)
        settings = translated['settings']
        network = model.build_model(settings)
    assert {key: settings[key] for key in expected} == expected
    if what.startswith('CARL'):
        assert settings['limit'] == (6000 if 'FineGym' in what else 1000)
    assert translated['epoch'] == 300
    assert translated['backbone'] is None
    assert shapes_but_head(network.state_dict()) == shapes_but_head(translated['model'])
    head = projection_head(expected['embedding'])
    assert shapes_but_head(head_of(translated['model'])) == shapes_but_head(head.state_dict())


# ----------------------------------------------------------------------- where settings are from

def small(entries=None, train=80, **changes):
    """What torch.load gives of a small LSTP checkpoint."""
    backbone = model.backbones()['tiny'].make([4])
    state = drawn(their_shapes('lstp', 96, 96, entities=3, fc=16, D=12))
    state |= their_backbone(backbone, 'lstp')
    entries = dict(SMART_FEATS='3', SMART_FINAL='one') | (entries or {})
    return dict(epoch=0, model_state=state, cfg=config(train, **entries)) | changes


CONFIG_YML = '''# of a run
DATASETS:
- penn
MODEL:
  BASE_MODEL: {LAYER: 12}
  EMBEDDER_MODEL:
    FC_LAYERS:
    - - 256
      - true
    SMART_DISJOINT: false   # no
    SMART_FEATS: '3'
    SMART_FINAL: "one"
EVAL:
  FRAMES_PER_BATCH: 6000
TRAIN:
  BATCH_SIZE: 1
  NUM_FRAMES: 33
'''


@pytest.mark.parametrize('inside', ['run', 'run/checkpoints'])
def test_settings_from_config_yml_where_the_file_has_none(inside, tmp_path):
    folder = tmp_path / inside
    folder.mkdir(parents=True)
    path = folder / 'checkpoint_epoch_00299.pth'
    save_released(path, small()['model_state'], None)
    with pytest.raises(UserError, match='checkpoint_epoch_00299.pth.*config.yml'):
        model.load_checkpoint(path)
    (tmp_path / 'run' / 'config.yml').write_text(CONFIG_YML)
    settings = model.load_checkpoint(path)['settings']
    expected = dict(frames=33, layers=[4], readout='cls', entities=3, disjoint=False,
                    limit=6000)
    assert {key: settings[key] for key in expected} == expected


def test_yaml_of_these_files():
    assert parse_yaml(CONFIG_YML)['MODEL']['EMBEDDER_MODEL'] == dict(
        FC_LAYERS={}, SMART_DISJOINT=False, SMART_FEATS='3', SMART_FINAL='one')
    tagged = ('MODEL: !!python/object/new:easydict.EasyDict\n'
              '  dictitems:\n'
              '    A: 1\n'
              'B: !!python/object/apply:os.system ["mkdir ran"]\n'
              'C: null\n'
              'D: -3\n'
              'E: 3,7,11\n')
    assert parse_yaml(tagged) == dict(MODEL=dict(dictitems=dict(A=1)), B={}, C=None, D=-3,
                                      E='3,7,11')
    assert parse_yaml('') == {}


@pytest.mark.parametrize('content, words', [
    (small(dict(SMART_FINAL='lin')), 'SMART_FINAL lin'),
    (small(dict(SMART_FINAL='max')), 'SMART_FINAL max'),
    (small(dict(SMART_FINAL=None)), 'SMART_FINAL max'),
    (small(dict(SMART_LN_KEYS=True)), 'SMART_LN_KEYS'),
    (small(dict(NUM_HEADS=4)), 'NUM_HEADS 4'),
    (small(dict(SMART_FEATS=None)), 'SMART_FEATS'),
    (small(train=None), 'TRAIN.NUM_FRAMES'),
    (small(train='many'), 'TRAIN.NUM_FRAMES'),
    (small(cfg={}), 'TRAIN.NUM_FRAMES'),
    (small(cfg=3), 'config.yml'),
    (small(epoch='last'), 'no checkpoint'),
    (small(model_state={'a': 3}), 'no checkpoint'),
    (small(model_state={}), 'no transformer'),
])
def test_what_cannot_be_expressed_is_refused(content, words):
    with pytest.raises(UserError) as error:
        translate(content, 'folder/it.pth')
    assert words in str(error.value) and 'it.pth' in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('key, words', [
    ('embed.video_encoder.enc_layers.0.self_att.linear_Q2d.weight', 'no transformer'),
    ('backbone.model.norm.bias', 'its backbone')])
def test_what_lacks_weights_is_refused(key, words):
    content = small()
    del content['model_state'][key]
    with pytest.raises(UserError, match=words):
        translate(content, 'it.pth')


def test_entities_without_an_id_are_refused():
    content = small()
    key = 'embed.fc_layers.1.weight'
    content['model_state'][key] = content['model_state'][key][:, :-3]
    with pytest.raises(UserError, match='SMART_ONE_HOT'):
        translate(content, 'it.pth')


def test_a_key_that_the_model_lacks_is_named(tmp_path):
    content = small()
    extra = content['model_state'] | {'embed.gru.weight_ih_l0': torch.zeros(3, 3)}
    save_released(tmp_path / 'it.pth', extra, content['cfg'])
    with pytest.raises(UserError, match='it.pth does not fit: unknown embed.gru.weight_ih_l0'):
        model.load_model(tmp_path / 'it.pth')


# ------------------------------------------------------------- the backbone alone, by --weights

@pytest.mark.parametrize('name, pool', [('resnet50', 'max'), ('tiny', 'lstp'), ('tiny', 'cls')])
def test_their_backbone_by_weights(name, pool, backbones, tmp_path):
    """--weights takes the backbone out of such a file: what training from it goes on with."""
    theirs = their_backbone(backbones[name], pool, stage4_apart=True)
    theirs['embed.video_emb.bias'] = torch.zeros(256)
    save_released(tmp_path / 'it.pth', theirs, config())
    again = model.backbones()[name].make(None)
    sentence = load_weights(again, tmp_path / 'it.pth')
    assert 'embed.*' in sentence
    assert model.fingerprint(again) == model.fingerprint(backbones[name])


def test_training_starts_from_one(backbones, monkeypatch, tmp_path):
    """With its backbone, which the run's checkpoint must find again: the same command resumes."""
    for number in range(4):
        video = tmp_path / 'videos' / ('train' if number < 3 else 'val') / str(number)
        write_images(video, 4, '.png', size=(64, 64))
    theirs = drawn(their_shapes('lstp', 96, 96, entities=3, fc=16, D=12))
    theirs |= their_backbone(backbones['tiny'], 'lstp')
    save_released(tmp_path / 'it.pth', theirs, config(4, SMART_FEATS='3', SMART_FINAL='one'))
    command = (f'train.py --dataset folder --data {tmp_path}/videos --init {tmp_path}/it.pth '
               f'--out {tmp_path}/run --backbone tiny --layers 4 --fc-width 16 --embedding 12 '
               f'--image-size 64 --frames 4 --batch 3 --workers 0 --lr 0 --epochs ')
    for epochs in '1', '1':
        monkeypatch.setattr('sys.argv', (command + epochs).split())
        train.main()
        settings = model.load_checkpoint(tmp_path / 'run')['settings']
        network = model.load_model(tmp_path / 'run')
        assert settings['weights'] == str(tmp_path / 'it.pth')
        expected = model.fingerprint(backbones['tiny'])
        assert model.fingerprint(network.backbone) == expected
        own = theirs['embed.pooling.cross_att.Q_s'][0]
        assert torch.equal(network.pool.own, own)         # the learning rate was 0


def test_the_head_comes_along():
    content = small()
    state = translate(content, 'it.pth')['model']
    head = projection_head(12)
    load_strictly(head, head_of(state), 'it.pth')
    assert torch.equal(head[3].weight, content['model_state']['ssl_projection.net.3.weight'])
