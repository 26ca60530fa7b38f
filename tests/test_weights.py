"""Weights in the forms that people have them, written here from scratch; and what is refused."""
import argparse
import json
import os
import pickle
import shutil
import struct
from functools import partial

import pytest
import torch

import model
from backbones.weights import backbone_state, load_checkpoint, load_weights, read_file
from running.errors import UserError
from test_backbones import official_state, reference

# ----------------------------------------------------- the same weights under other names

OF_BOTH = {'cls_token': 'embeddings.cls_token', 'pos_embed': 'embeddings.position_embeddings',
           'mask_token': 'embeddings.mask_token', 'register_tokens': 'embeddings.register_tokens',
           'patch_embed.proj': 'embeddings.patch_embeddings.projection', 'blocks': 'encoder.layer',
           'attn.q': 'attention.attention.query', 'attn.k': 'attention.attention.key',
           'attn.v': 'attention.attention.value', 'attn.proj': 'attention.output.dense',
           'norm': 'layernorm'}
SCALES = {'norm1': 'norm1', 'norm2': 'norm2', 'ls1.gamma': 'layer_scale1.lambda1',
          'ls2.gamma': 'layer_scale2.lambda1'}
HUGGING_FACE = {                                          # official: theirs
    'dino': OF_BOTH | {'norm1': 'layernorm_before', 'norm2': 'layernorm_after',
                       'mlp.fc1': 'intermediate.dense', 'mlp.fc2': 'output.dense'},
    'dinov2': OF_BOTH | SCALES | {'mlp.fc1': 'mlp.fc1', 'mlp.fc2': 'mlp.fc2'},
    'dinov3': OF_BOTH | SCALES | {
        'storage_tokens': 'embeddings.register_tokens', 'blocks': 'layer', 'norm': 'norm',
        'patch_embed.proj': 'embeddings.patch_embeddings', 'attn.q': 'attention.q_proj',
        'attn.k': 'attention.k_proj', 'attn.v': 'attention.v_proj',
        'attn.proj': 'attention.o_proj', 'mlp.fc1': 'mlp.up_proj', 'mlp.fc2': 'mlp.down_proj'}}


def split_qkv(state):
    """attn.qkv in three, its bias masked, as Hugging Face has it."""
    parts = {}
    for key, value in state.items():
        if key.endswith('bias_mask'):
            continue
        if 'attn.qkv.' not in key:
            parts[key] = value
            continue
        value = value * state.get(f'{key}_mask', 1)
        for letter, part in zip('qkv', value.chunk(3)):
            parts[key.replace('qkv', letter)] = part.clone()
    return parts


def hugging_face(state, generation):
    """As transformers' conversion scripts name them; DINOv3 without key bias, mask and periods."""
    theirs = {}
    for key, value in split_qkv(state).items():
        if key == 'rope_embed.periods' or (generation == 'dinov3' and key.endswith('attn.k.bias')):
            continue
        before = ''
        if key.startswith('blocks.'):
            _, number, key = key.split('.', 2)
            before = f'{HUGGING_FACE[generation]["blocks"]}.{number}.'
        stem = key.removesuffix('.weight').removesuffix('.bias')
        theirs[before + HUGGING_FACE[generation][stem] + key.removeprefix(stem)] = value
    return theirs


def timm(state, generation, bias_twin=False):
    """As timm's model.safetensors; bias_twin: its dinov3 `_qkvb` models."""
    theirs = {key: value for key, value in state.items() if key != 'mask_token'}
    if 'register_tokens' in theirs:
        theirs['reg_token'] = theirs.pop('register_tokens')
        cls, theirs['pos_embed'] = theirs['pos_embed'].split([1, 16], 1)
        theirs['cls_token'] = theirs['cls_token'] + cls
    if generation == 'dinov3':
        theirs['reg_token'] = theirs.pop('storage_tokens')
        del theirs['rope_embed.periods']
        for i in range(4):
            at = f'blocks.{i}'
            theirs[f'{at}.gamma_1'] = theirs.pop(f'{at}.ls1.gamma')
            theirs[f'{at}.gamma_2'] = theirs.pop(f'{at}.ls2.gamma')
            bias = theirs.pop(f'{at}.attn.qkv.bias') * theirs.pop(f'{at}.attn.qkv.bias_mask')
            if bias_twin:
                theirs[f'{at}.attn.q_bias'], _, theirs[f'{at}.attn.v_bias'] = bias.chunk(3)
    return {key: value.clone() for key, value in theirs.items()}


def under(prefix, state, change=0):
    return {prefix + key: value + change for key, value in state.items()}


def dino_training(state, generation):
    """DINO's full checkpoint: the student is another network and comes first."""
    head = {'head.mlp.0.weight': torch.zeros(3, 3), 'head.last_layer.weight_g': torch.ones(3, 1)}
    return {'student': under('module.backbone.', state, 1) | under('module.', head),
            'teacher': under('backbone.', state) | head,
            'optimizer': {'state': {}, 'param_groups': [{'lr': 0.1, 'params': [0]}]},
            'epoch': 800, 'args': argparse.Namespace(arch='vit_base', patch_size=8)}


def teacher_in_chunks(state, generation):
    """DINOv2's teacher_checkpoint.pth with its blocks in two chunks."""
    chunked = {}
    for key, value in state.items():
        if key.startswith('blocks.'):
            number = key.split('.')[1]
            key = f'blocks.{int(number) // 2}.{key.removeprefix("blocks.")}'
        chunked[key] = value
    heads = {'dino_head.mlp.0.weight': torch.zeros(3, 3), 'ibot_head.mlp.0.bias': torch.zeros(3)}
    return {'teacher': under('backbone.', chunked) | heads}


def both_in_one(state, generation):
    """Teacher and student side by side in one state dict."""
    return {'model': under('student.backbone.', state, 1) | under('teacher.backbone.', state)}


def under_state_dict(state, generation):
    return {'state_dict': under('module.', state), 'epoch': 3}


def in_a_larger_model(state, generation):
    theirs = under('dinov2.', hugging_face(state, generation))
    return theirs | {'classifier.weight': torch.ones(2, 2)}


WITH_BIASES = partial(timm, bias_twin=True)
FLAT = [timm, WITH_BIASES, hugging_face, in_a_larger_model]
FORMS = [
    ('dinov2', timm), ('dinov2_reg', timm), ('dinov3', timm), ('dinov3', WITH_BIASES),
    ('dino', hugging_face), ('dinov2_reg', hugging_face), ('dinov3', hugging_face),
    ('dinov2', in_a_larger_model), ('dino', dino_training), ('dinov2', teacher_in_chunks),
    ('dino', both_in_one), ('dino', under_state_dict)]
OWN = official_state('dino')
THEIRS = hugging_face(OWN, 'dino')
DINO = reference('dino')[0]
TYPES = {torch.float64: 'F64', torch.float32: 'F32', torch.float16: 'F16', torch.bfloat16: 'BF16',
         torch.int64: 'I64'}


def save_safetensors(state, path, **changes):
    header = {'__metadata__': {'format': 'pt'}}
    data = b''
    for key, value in state.items():
        bytes_ = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        header[key] = {'dtype': TYPES[value.dtype], 'shape': list(value.shape),
                       'data_offsets': [len(data), len(data) + len(bytes_)]}
        data += bytes_
    text = json.dumps(header | changes).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text + data)


@pytest.mark.parametrize('case, form', FORMS)
@torch.no_grad()
def test_every_form_gives_the_same_features(case, form, tmp_path):
    generation = case.removesuffix('_reg')
    state = official_state(case)
    if case == 'dinov3' and form == timm:                 # no biases, as in the released files
        for i in range(4):
            state[f'blocks.{i}.attn.qkv.bias_mask'] = torch.zeros(96)
    official, g = reference(case, (2, 4))
    torch.save(state, tmp_path / 'official.pth')
    load_weights(official, tmp_path / 'official.pth')
    expected = official(g['x'])
    save = save_safetensors if form in FLAT else torch.save
    save(form(state, generation), tmp_path / 'it')
    backbone, _ = reference(case, (2, 4))
    for weight in backbone.parameters():
        torch.nn.init.normal_(weight)
    assert '\n' not in load_weights(backbone, tmp_path / 'it')
    features = backbone(g['x'])
    assert torch.equal(features.patches, expected.patches)
    assert torch.equal(features.cls, expected.cls)


def test_what_was_left_out_is_said():
    layer = {'fc.weight': torch.zeros(10, 32), 'classifier.bias': torch.zeros(10)}
    for content, said in [
            (THEIRS, ''),
            (OWN | layer, 'it: left out classifier.*, fc.*'),
            (dino_training(OWN, 'dino'), "it: took its part 'teacher'; left out head.*")]:
        assert backbone_state(content, DINO, 'it')[1] == said


def test_the_content_decides_not_the_ending(tmp_path):
    """Tensors of every type, in three kinds of file under wrong names."""
    state = {'scalar': torch.tensor(5.)}
    for dtype, name in TYPES.items():
        state[name] = torch.arange(-6, 6).reshape(3, 4).to(dtype)
    save_safetensors(state, tmp_path / 'a.pth')
    torch.save(state, tmp_path / 'b.safetensors')
    torch.save(state, tmp_path / 'c.bin', _use_new_zipfile_serialization=False)
    for name in 'a.pth', 'b.safetensors', 'c.bin':
        read = read_file(tmp_path / name)
        assert read.keys() == state.keys()
        for key, value in state.items():
            assert read[key].dtype == value.dtype and torch.equal(read[key], value)


def test_half_precision_files_are_computed_in_float32(tmp_path):
    torch.save({key: value.half() for key, value in OWN.items()}, tmp_path / 'it')
    vit, _ = reference('dino')
    load_weights(vit, tmp_path / 'it')
    assert torch.equal(vit.norm.weight, OWN['norm.weight'].half().float())


def test_periods_are_the_files_own_where_it_has_them():
    vit, _ = reference('dinov3')
    exact = 100 ** (torch.arange(4) / 4)
    assert torch.equal(vit.rope_embed.periods, exact.bfloat16().float())
    state, _ = backbone_state(official_state('dinov3') | {'rope_embed.periods': exact}, vit, 'it')
    assert torch.equal(state['rope_embed.periods'], exact)


def test_byol_torchvision_and_dino_resnets():
    with torch.device('meta'):
        backbone = model.backbones()['resnet50'].make(None)
    net = {key: torch.tensor(float(i)).expand(value.shape)        # one number each: cheap
           for i, (key, value) in enumerate(backbone.state_dict().items())}
    other = {key: value + 1 for key, value in net.items()}
    head = {'fc.weight': torch.zeros(1000, 2048), 'fc.bias': torch.zeros(1000)}
    for content in [
            {'model': under('module.encoder.', net) | under('module.encoder_k.', other)},     # BYOL
            net | head,                                                               # torchvision
            {'teacher': under('module.backbone.', net) | under('module.head.', head)}]:      # DINO
        state, _ = backbone_state(content, backbone, 'it')
        assert state.keys() == net.keys()
        assert all(torch.equal(state[key], net[key]) for key in net)


# ---------------------------------------------------------------------------- refused

def without(state, key):
    assert key in state
    return {name: value for name, value in state.items() if name != key}


LAYER = 'encoder.layer.2.attention.attention'
REFUSED = [                                               # into, what, words
    ('dino', without(OWN, 'norm.bias'), 'Missing key(s) in state_dict: "norm.bias"'),
    ('dino', OWN | {'neck.weight': torch.zeros(1)}, '"neck.weight"'),
    ('dino', OWN | {'cls_token': torch.zeros(1, 1, 7)}, 'mismatch for cls_token'),
    ('dino', {'teacher': {'cls_token': 3}}, 'no state dict'),
    ('dino', {1: torch.zeros(3)}, 'no state dict'),
    # another generation's
    ('dinov2_reg', official_state('dinov2'), '"register_tokens"'),
    # zeros take the place of a bias only where a format is known to leave it out
    ('dino', without(THEIRS, f'{LAYER}.key.bias'), '"blocks.2.attn.qkv.bias"'),
    ('dinov3', without(official_state('dinov3'), 'blocks.1.attn.qkv.bias'),
     'blocks.1.attn.qkv.bias'),
    # shapes that cannot be joined
    ('dino', THEIRS | {f'{LAYER}.key.weight': torch.zeros(32, 16)}, '"blocks.2.attn.qkv.weight"'),
    ('dinov3', official_state('dinov3') | {'blocks.0.attn.qkv.bias_mask': torch.zeros(3)},
     '"blocks.0.attn.qkv.bias_mask"'),
]


def refused(backbone, path):
    """The one line that says why a file is refused."""
    with pytest.raises(UserError) as error:
        load_weights(backbone, path)
    assert '\n' not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize('into, content, words', REFUSED, ids=range(len(REFUSED)))
def test_weights_that_do_not_fit_are_named(into, content, words, tmp_path):
    torch.save(content, tmp_path / 'weights.pt')
    assert words in refused(reference(into)[0], tmp_path / 'weights.pt')


class Code:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_no_file_runs_anything(tmp_path):
    code = Code(tmp_path / 'ran')
    path = tmp_path / 'weights.pth'
    for content in [OWN | {'cls_token': code}, {'model_state': OWN, 'epoch': 3, 'cfg': code},
                    {'teacher': OWN, 'args': argparse.Namespace(arch=code)}]:
        torch.save(content, path)
        assert 'plain containers' in refused(DINO, path)
        path.write_bytes(pickle.dumps(content))
        refused(DINO, path)
        with pytest.raises(UserError, match='torch.save'):
            load_checkpoint(path)
    assert not (tmp_path / 'ran').exists()
    pickle.loads(path.read_bytes())                       # it would have
    assert (tmp_path / 'ran').exists()


ENTRY = {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 16]}
BROKEN_ENTRIES = [ENTRY | {'data_offsets': [8, 2 ** 60]}, ENTRY | {'shape': [5]},
                  ENTRY | {'dtype': 'F8_E4M3'}, {'dtype': 'F32', 'shape': [4]}, 7]


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / 'weights.pt'
    too_deep = b'{"a":' * 100000                          # for Python's reader of JSON
    damaged = [b'', struct.pack('<Q', len(too_deep)) + too_deep]
    for new in True, False:
        torch.save(OWN, path, _use_new_zipfile_serialization=new)
        damaged.append(path.read_bytes()[:9000])
    save_safetensors({'cls_token': torch.arange(4.)}, path)
    whole = path.read_bytes()
    damaged += [whole[:30], whole[:-3], struct.pack('<Q', 2 ** 62) + whole[8:]]
    for entry in BROKEN_ENTRIES:
        save_safetensors({'cls_token': torch.arange(4.)}, path, cls_token=entry)
        damaged.append(path.read_bytes())
    for content in damaged:
        path.write_bytes(content)
        assert 'not a whole file of tensors' in refused(DINO, path)


# ----------------------------------------------------------------------- torch.hub's cache

ADDRESS = 'https://127.0.0.1:9/dino_vit.pth'             # a port where nobody listens


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """Where torch.hub keeps what was fetched from ADDRESS."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch home'))
    path = tmp_path / 'torch home' / 'hub' / 'checkpoints' / 'dino_vit.pth'
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize('content', [b'<?xml version="1.0"?><Error></Error>', b'', b'PK\3\4'])
def test_a_broken_file_in_the_cache_is_named(content, cached):
    cached.write_bytes(content)
    with pytest.raises(UserError, match=f'^{cached}: .*{ADDRESS}: delete it to fetch it anew$'):
        load_weights(DINO, ADDRESS)


def test_weights_are_fetched_once(cached, monkeypatch, tmp_path):
    torch.save(OWN, tmp_path / 'there.pth')
    fetched = []

    def download(address, path):
        fetched.append(address)
        shutil.copy(tmp_path / 'there.pth', path)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    for _ in range(2):
        backbone, _ = reference('dino')
        torch.nn.init.zeros_(backbone.cls_token)
        load_weights(backbone, ADDRESS)
        assert torch.equal(backbone.cls_token, OWN['cls_token'])
    assert fetched == [ADDRESS] and cached.exists()


def test_without_a_network_the_way_out_is_said(cached):
    with pytest.raises(UserError, match=f'cannot fetch {ADDRESS}.*--weights'):
        load_weights(DINO, ADDRESS)
    assert not cached.exists()
