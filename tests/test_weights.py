"""Weights in the forms that people have them, written here from scratch; and what is refused."""
import argparse
import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch

import model
from backbones import weights
from backbones.weights import load_weights, read_file
from test_backbones import dino, dinov2, dinov2_reg, dinov3, golden, weights_under
from running.errors import UserError

# ----------------------------------------------------- the same weights under other names

SPLIT = {'dino': 'attention.attention.{}', 'dinov2': 'attention.attention.{}',
         'dinov3': 'attention.{}_proj'}
LETTERS = {'dino': ('query', 'key', 'value'), 'dinov2': ('query', 'key', 'value'),
           'dinov3': ('q', 'k', 'v')}
HUGGING_FACE = {                                          # official: theirs, the longer names first
    'dino': {'cls_token': 'embeddings.cls_token', 'pos_embed': 'embeddings.position_embeddings',
             'patch_embed.proj': 'embeddings.patch_embeddings.projection',
             'blocks': 'encoder.layer', 'norm1': 'layernorm_before', 'norm2': 'layernorm_after',
             'attn.proj': 'attention.output.dense', 'mlp.fc1': 'intermediate.dense',
             'mlp.fc2': 'output.dense', 'norm': 'layernorm'},
    'dinov2': {'cls_token': 'embeddings.cls_token', 'pos_embed': 'embeddings.position_embeddings',
               'mask_token': 'embeddings.mask_token',
               'register_tokens': 'embeddings.register_tokens',
               'patch_embed.proj': 'embeddings.patch_embeddings.projection',
               'blocks': 'encoder.layer', 'norm1': 'norm1', 'norm2': 'norm2',
               'attn.proj': 'attention.output.dense', 'ls1.gamma': 'layer_scale1.lambda1',
               'ls2.gamma': 'layer_scale2.lambda1', 'mlp.fc1': 'mlp.fc1', 'mlp.fc2': 'mlp.fc2',
               'norm': 'layernorm'},
    'dinov3': {'cls_token': 'embeddings.cls_token', 'mask_token': 'embeddings.mask_token',
               'storage_tokens': 'embeddings.register_tokens',
               'patch_embed.proj': 'embeddings.patch_embeddings', 'blocks': 'layer',
               'norm1': 'norm1', 'norm2': 'norm2', 'attn.proj': 'attention.o_proj',
               'ls1.gamma': 'layer_scale1.lambda1', 'ls2.gamma': 'layer_scale2.lambda1',
               'mlp.fc1': 'mlp.up_proj', 'mlp.fc2': 'mlp.down_proj', 'norm': 'norm'},
}


def hugging_face(state, generation):
    """As transformers' conversion scripts name them; DINOv3 without key bias, mask and periods."""
    theirs = {}
    for key, value in state.items():
        if key == 'rope_embed.periods' or key.endswith('bias_mask'):
            continue
        block = key.split('.')[1] if key.startswith('blocks.') else None
        rest = key.removeprefix(f'blocks.{block}.')
        table = HUGGING_FACE[generation]
        before = '' if block is None else f'{table["blocks"]}.{block}.'
        if rest.startswith('attn.qkv.'):
            if f'{key}_mask' in state:
                value = value * state[f'{key}_mask']
            for letter, part in zip(LETTERS[generation], value.chunk(3)):
                if (generation, letter, rest) != ('dinov3', 'k', 'attn.qkv.bias'):
                    name = SPLIT[generation].format(letter)
                    theirs[f'{before}{name}.{rest.split(".")[-1]}'] = part.clone()
            continue
        official = next(name for name in table if rest == name or rest.startswith(name + '.'))
        if key == 'mask_token' and generation == 'dinov3':
            value = value[None]
        theirs[before + table[official] + rest.removeprefix(official)] = value
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
            for number in 1, 2:
                theirs[f'blocks.{i}.gamma_{number}'] = theirs.pop(f'blocks.{i}.ls{number}.gamma')
            bias = theirs.pop(f'blocks.{i}.attn.qkv.bias')
            bias = bias * theirs.pop(f'blocks.{i}.attn.qkv.bias_mask')
            if bias_twin:
                theirs[f'blocks.{i}.attn.q_bias'] = bias[:32]
                theirs[f'blocks.{i}.attn.v_bias'] = bias[64:]
    return {key: value.clone() for key, value in theirs.items()}


def under(prefix, state, change=0):
    return {prefix + key: value + change for key, value in state.items()}


def dino_training(state, generation):
    """DINO's full checkpoint: the student is another network and comes first."""
    head = {'head.mlp.0.weight': torch.zeros(3, 3), 'head.last_layer.weight_g': torch.ones(3, 1)}
    return {'student': under('module.backbone.', state, 1) | under('module.', head),
            'teacher': under('backbone.', state) | head,
            'optimizer': {'state': {}, 'param_groups': [{'lr': 0.1, 'params': [0]}]},
            'epoch': 800, 'args': argparse.Namespace(arch='vit_base', patch_size=8),
            'dino_loss': {'center': torch.zeros(1, 3)}}


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


def official(state, generation):
    return state


def under_model(state, generation):
    return {'model': state, 'epoch': 3}


def under_state_dict(state, generation):
    return {'state_dict': under('module.', state)}


def timm_with_biases(state, generation):
    return timm(state, generation, bias_twin=True)


def in_a_larger_model(state, generation):
    theirs = under('dinov2.', hugging_face(state, generation))
    return theirs | {'classifier.weight': torch.ones(2, 2)}


FORMS = {
    'official': official,
    'dino training': dino_training,
    'teacher in chunks': teacher_in_chunks,
    'teacher and student in one': both_in_one,
    'model': under_model,
    'state_dict': under_state_dict,
    'timm': timm,
    'timm, biases': timm_with_biases,
    'hugging face': hugging_face,
    'hugging face, in a larger model': in_a_larger_model,
}
FLAT = ['official', 'timm', 'timm, biases', 'hugging face', 'hugging face, in a larger model']
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


def save(content, path):
    """By torch.save, or as safetensors, by the ending."""
    if path.suffix == '.safetensors':
        save_safetensors(content, path)
    else:
        torch.save(content, path)


CASES = {'dino': (dino, 'dino', 'dino_vit', ('sd/',)),
         'dinov2': (dinov2, 'dinov2', 'dinov2_vit', ('sd/',)),
         'dinov2_reg': (dinov2_reg, 'dinov2', 'dinov2_vit', ('sd/', 'sd_reg/')),
         'dinov3': (dinov3, 'dinov3', 'dinov3_vit', ('sd/',))}


def official_state(case, form='official'):
    _, _, name, prefixes = CASES[case]
    state = weights_under(golden(name), *prefixes)
    if case == 'dinov3' and form == 'timm':               # no biases, as in the released files
        for i in range(4):
            state[f'blocks.{i}.attn.qkv.bias_mask'] = torch.zeros(96)
    return state


def another(backbone):
    """The same module with other weights."""
    for weight in backbone.parameters():
        torch.nn.init.normal_(weight)
    return backbone


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('form', FORMS)
@torch.no_grad()
def test_every_form_gives_the_same_features(case, form, tmp_path):
    make, generation, _, _ = CASES[case]
    reference, g = make((2, 4))
    state = official_state(case, form)
    torch.save(state, tmp_path / 'official.pth')
    load_weights(reference, tmp_path / 'official.pth')
    expected = reference(g['x'])
    content = FORMS[form](state, generation)
    endings = ['.pth', '.safetensors'] if form in FLAT else ['.bin']
    for ending in endings:
        save(content, tmp_path / f'weights{ending}')
        backbone = another(make((2, 4))[0])
        sentence = load_weights(backbone, tmp_path / f'weights{ending}')
        features = backbone(g['x'])
        assert torch.equal(features.patches, expected.patches)
        assert torch.equal(features.cls, expected.cls)
        assert '\n' not in sentence


def test_what_was_done_is_said(tmp_path):
    def said(case, form):
        make, generation, _, _ = CASES[case]
        torch.save(FORMS[form](official_state(case, form), generation), tmp_path / 'it.pth')
        return load_weights(make()[0], tmp_path / 'it.pth')

    assert said('dino', 'official') == ''
    assert said('dinov2', 'official').endswith('it.pth: left out mask_token')
    assert "'teacher'" in said('dino', 'dino training')
    assert 'left out head.*' in said('dino', 'dino training')
    assert 'left out dino_head.*, ibot_head.*' in said('dinov2', 'teacher in chunks')
    assert 'classifier.*' in said('dino', 'hugging face, in a larger model')
    assert 'no bias' in said('dinov3', 'timm') and 'periods' in said('dinov3', 'timm')
    assert 'bias' not in said('dinov3', 'timm, biases')


@pytest.mark.parametrize('name', ['head', 'fc', 'classifier'])
def test_a_classifier_beside_the_backbone_is_passed_over_and_named(name, tmp_path):
    layer = {f'{name}.weight': torch.zeros(10, 32), f'{name}.bias': torch.zeros(10)}
    torch.save(timm(official_state('dino'), 'dino') | layer, tmp_path / 'it.pth')
    assert f'left out {name}.*' in load_weights(dino()[0], tmp_path / 'it.pth')


def test_the_content_decides_not_the_ending(tmp_path):
    state = official_state('dino')
    save_safetensors(state, tmp_path / 'a.pth')
    torch.save(state, tmp_path / 'b.safetensors')
    torch.save(state, tmp_path / 'c.bin', _use_new_zipfile_serialization=False)
    for name in 'a.pth', 'b.safetensors', 'c.bin':
        read = read_file(tmp_path / name)
        assert read.keys() == state.keys()
        assert all(torch.equal(read[key], state[key]) for key in state)


@pytest.mark.parametrize('dtype', list(TYPES))
def test_safetensors_of_every_type(dtype, tmp_path):
    values = {'a': torch.arange(-6, 6).reshape(3, 4).to(dtype), 'b': torch.tensor(5).to(dtype)}
    save_safetensors(values, tmp_path / 'it.safetensors')
    read = read_file(tmp_path / 'it.safetensors')
    for key, value in values.items():
        assert read[key].dtype == dtype and torch.equal(read[key], value)


@torch.no_grad()
def test_half_precision_files_are_computed_in_float32(tmp_path):
    vit, g = dino()
    half = {key: value.half() for key, value in official_state('dino').items()}
    torch.save(half, tmp_path / 'half.pth')
    load_weights(vit, tmp_path / 'half.pth')
    assert {value.dtype for value in vit.state_dict().values()} == {torch.float32}


def test_periods_are_the_files_own_where_it_has_them(tmp_path):
    vit, _ = dinov3()
    rounded = vit.rope_embed.periods.clone()
    exact = 100 ** (torch.arange(4) / 4)
    assert not torch.equal(rounded, exact) and torch.equal(rounded, exact.bfloat16().float())
    torch.save(official_state('dinov3') | {'rope_embed.periods': exact}, tmp_path / 'exact.pth')
    load_weights(vit, tmp_path / 'exact.pth')
    assert torch.equal(vit.rope_embed.periods, exact)


# -------------------------------------------------------------------------------- ResNet-50

def test_byol_torchvision_and_dino_resnets():
    with torch.device('meta'):
        backbone = model.backbones()['resnet50'].make(None)
    net = {key: torch.tensor(float(i)).expand(value.shape)        # one number each: cheap
           for i, (key, value) in enumerate(backbone.state_dict().items())}
    other = {key: value + 1 for key, value in net.items()}
    head = {'fc.weight': torch.zeros(1000, 2048), 'fc.bias': torch.zeros(1000)}
    files = {
        'byol': {'model': under('module.encoder.', net) | under('module.encoder_k.', other)},
        'torchvision': net | head,
        'dino': {'teacher': under('module.backbone.', net) | under('module.head.', head)},
    }
    for name, content in files.items():
        state, sentence = weights.backbone_state(content, backbone, name)
        assert sentence.startswith(f'{name}: ')
        assert state.keys() == net.keys()
        assert all(torch.equal(state[key], net[key]) for key in net)


# ---------------------------------------------------------------------------- refused

def refused(backbone, content, path):
    """The one line that says why a file is refused."""
    if content is not None:
        torch.save(content, path)
    with pytest.raises(UserError) as error:
        load_weights(backbone, path)
    assert '\n' not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


def test_weights_that_do_not_fit_are_named(tmp_path):
    vit, _ = dino()
    state = official_state('dino')
    path = tmp_path / 'weights.pt'
    less = {key: value for key, value in state.items() if key != 'norm.bias'}
    assert 'missing norm.bias' in refused(vit, less, path)
    other = less | {'norm.bia': state['norm.bias']}
    assert 'missing norm.bias (nearest: norm.bia)' in refused(vit, other, path)
    other = state | {'neck.weight': torch.zeros(1)}
    assert 'unknown neck.weight' in refused(vit, other, path)
    other = state | {'cls_token': torch.zeros(1, 1, 7)}
    assert 'cls_token is (1, 1, 7)' in refused(vit, other, path)
    assert 'no state dict' in refused(vit, [1, 2, 3], path)
    assert 'no state dict' in refused(vit, {'model': 3}, path)
    assert 'no state dict' in refused(vit, {'teacher': {'cls_token': 3}}, path)
    assert 'missing' in refused(vit, {}, path)
    path.write_bytes(b'')
    refused(vit, None, path)
    with pytest.raises(UserError, match='no such file'):
        load_weights(vit, tmp_path / 'nowhere.pt')


def test_weights_of_another_generation_are_refused(tmp_path):
    path = tmp_path / 'weights.pt'
    assert 'unknown register_tokens' in refused(dinov2()[0], official_state('dinov2_reg'), path)
    assert 'missing register_tokens' in refused(dinov2_reg()[0], official_state('dinov2'), path)
    assert 'blocks.0.ls1.gamma' in refused(dino()[0], official_state('dinov2'), path)
    assert 'pos_embed' in refused(dinov3()[0], official_state('dinov2_reg'), path)


def test_nothing_is_made_up(tmp_path):
    """Zeros take the place of a bias only where a format is known to leave it out."""
    path = tmp_path / 'weights.pt'
    whole = hugging_face(official_state('dino'), 'dino')
    for part in 'attention.attention.key.bias', 'attention.attention.query.weight':
        less = without(whole, f'encoder.layer.2.{part}')
        assert 'missing blocks.2.attn.qkv.' in refused(dino()[0], less, path)
    less = without(official_state('dino'), 'blocks.0.attn.qkv.bias')
    assert 'missing blocks.0.attn.qkv.bias' in refused(dino()[0], less, path)
    less = without(official_state('dinov3'), 'blocks.1.attn.qkv.bias')
    assert 'blocks.1.attn.qkv.bias' in refused(dinov3()[0], less, path)


def test_shapes_that_cannot_be_joined_are_named(tmp_path):
    path = tmp_path / 'weights.pt'
    theirs = hugging_face(official_state('dino'), 'dino')
    for shape in (32, 16), ():
        broken = theirs | {'encoder.layer.0.attention.attention.key.weight': torch.zeros(shape)}
        assert 'missing blocks.0.attn.qkv.weight' in refused(dino()[0], broken, path)
    broken = official_state('dinov3') | {'blocks.0.attn.qkv.bias_mask': torch.zeros(3)}
    assert 'unknown blocks.0.attn.qkv.bias_mask' in refused(dinov3()[0], broken, path)


def without(state, key):
    assert key in state
    return {name: value for name, value in state.items() if name != key}


class Code:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_no_file_runs_anything(tmp_path):
    ran = tmp_path / 'ran'
    code = Code(ran)
    state = official_state('dino')
    training = dino_training(state, 'dino')
    contents = [
        code,
        state | {'cls_token': code},
        training | {'args': code},
        training | {'args': argparse.Namespace(arch=code)},
        {'model_state': state, 'epoch': 3, 'cfg': code},
    ]
    path = tmp_path / 'weights.pth'
    for content in contents:
        for new in True, False:
            torch.save(content, path, _use_new_zipfile_serialization=new)
            assert 'plain containers' in refused(dino()[0], None, path)
        path.write_bytes(pickle.dumps(content))
        refused(dino()[0], None, path)
        with pytest.raises(UserError, match='torch.save'):
            model.load_checkpoint(path)
    assert not ran.exists()
    pickle.loads(path.read_bytes())                       # it would have
    assert ran.exists()


def safetensors_bytes(tmp_path, **changes):
    save_safetensors({'cls_token': torch.arange(4.)}, tmp_path / 'whole', **changes)
    return (tmp_path / 'whole').read_bytes()


def with_header(text):
    return struct.pack('<Q', len(text)) + text


ENTRY = {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 16]}
BROKEN_ENTRIES = {
    'values outside': ENTRY | {'data_offsets': [0, 2 ** 60]},
    'values backwards': ENTRY | {'data_offsets': [16, 0]},
    'values before the file': ENTRY | {'data_offsets': [-16, 0]},
    'another shape': ENTRY | {'shape': [5]},
    'a shape too large': ENTRY | {'shape': [2 ** 40]},
    'an unknown type': ENTRY | {'dtype': 'F8_E4M3'},
    'no offsets': {'dtype': 'F32', 'shape': [4]},
    'code for an entry': '__import__("os").mkdir("ran")',
    'a number for an entry': 7,
}


@pytest.mark.parametrize('what', BROKEN_ENTRIES)
def test_broken_entries_of_safetensors_are_refused(what, tmp_path):
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(safetensors_bytes(tmp_path, cls_token=BROKEN_ENTRIES[what]))
    refused(dino()[0], None, path)
    assert not Path('ran').exists()


def test_broken_headers_of_safetensors_are_refused(tmp_path):
    path = tmp_path / 'weights.safetensors'
    whole = safetensors_bytes(tmp_path)
    length = struct.unpack('<Q', whole[:8])[0]
    for content in [whole[:8 + length // 2],                      # cut in the header
                    whole[:-3],                                   # cut in the values
                    struct.pack('<Q', 2 ** 62) + whole[8:],       # a header longer than the file
                    with_header(b'{' + b'x' * 50),                # no JSON
                    with_header(b'{"a":' * 100000),               # deeper than Python's stack
                    with_header(b'{}')]:                          # nothing in it
        path.write_bytes(content)
        refused(dino()[0], None, path)


# ----------------------------------------------------------------------- torch.hub's cache

ADDRESS = 'https://127.0.0.1:9/dino_vit.pth'             # a port where nobody listens


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """Where torch.hub keeps what was fetched from ADDRESS."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch home'))
    path = tmp_path / 'torch home' / 'hub' / 'checkpoints' / 'dino_vit.pth'
    path.parent.mkdir(parents=True)
    return path


CACHED = {'a page': b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
          'empty': b'', 'cut': b'PK\3\4' + bytes(2000),
          'a page of HTML': b'<!DOCTYPE html>\n<html>',
          'JSON': b'{"message": "not found"}', 'another archive': b'\x1f\x8b' + bytes(100)}


@pytest.mark.parametrize('what', [*CACHED, 'a folder', 'other weights'])
def test_a_broken_file_in_the_cache_is_named(what, cached):
    if what == 'a folder':
        cached.mkdir()
    elif what == 'other weights':
        torch.save({'norm.weight': torch.ones(3)}, cached)
    else:
        cached.write_bytes(CACHED[what])
    with pytest.raises(UserError) as error:
        load_weights(dino()[0], ADDRESS)
    message = str(error.value)
    assert str(cached) in message and 'delete' in message and ADDRESS in message
    assert '\n' not in message and 'cannot fetch' not in message


def test_weights_are_fetched_once(cached, monkeypatch, tmp_path):
    torch.save(official_state('dino'), tmp_path / 'there.pth')
    fetched = []

    def download(address, path):
        fetched.append(address)
        shutil.copy(tmp_path / 'there.pth', path)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    for _ in range(2):
        backbone = another(dino()[0])
        load_weights(backbone, ADDRESS)
        assert torch.equal(backbone.cls_token, official_state('dino')['cls_token'])
    assert fetched == [ADDRESS] and cached.exists()


def test_without_a_network_the_way_out_is_said(cached):
    with pytest.raises(UserError, match=f'cannot fetch {ADDRESS}.*--weights'):
        load_weights(dino()[0], ADDRESS)
    assert not cached.exists()
