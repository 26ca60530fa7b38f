"""Checkpoints of CARL and of the authors' MV-Former release, as checkpoints of train.py.

Both keep `model_state`, `epoch` and their settings as `cfg`; the frozen backbone is among the
weights. What the weights show is read from them; what they do not (layers, T, readout) from `cfg`
or, where a file has none, from the config.yml of its folder, and is never guessed.
"""
import re
from pathlib import Path

import torch

from backbones import names
from model import backbones
from running.errors import UserError

RENAMES = names.RENAMES + [
    (r'^backbone\.model\.', 'backbone.'),
    (r'^embed\.pooling\.cross_att\.linear_K2d\.', 'pool.key.'),
    (r'^embed\.pooling\.cross_att\.linear_V2d\.', 'pool.value.'),
    (r'^embed\.pooling\.cross_att\.Q_s_b$', 'pool.shared'),
    (r'^embed\.pooling\.cross_att\.Q_s$', 'pool.own'),
    (r'^embed\.pooling\.lin_conv\.', 'pool.split.'),
    (r'^embed\.fc_layers\.', 'mtf.fc.'),
    (r'^embed\.video_emb\.', 'mtf.fc.8.'),
    (r'^embed\.video_encoder\.enc_layers\.', 'mtf.blocks.'),
    (r'\.res_layer0\.norm\.', '.norm1.'),
    (r'\.res_layer1\.norm\.', '.norm2.'),
    (r'\.self_att\.linear_Q2d\.', '.attn.q.'),
    (r'\.self_att\.linear_K2d\.', '.attn.k.'),
    (r'\.self_att\.linear_V2d\.', '.attn.v.'),
    (r'\.self_att\.linear_d2Q\.', '.attn.proj.'),
    (r'\.feed_forward\.', '.mlp.'),
    (r'^embed\.embedding_layer\.', 'mtf.out.'),
    (r'^ssl_projection\.net\.', 'head.'),
]
# CARL's checkpoint for FineGym: blocks, T. It alone takes sequences of up to 6000 frames, not 1000
FINEGYM = (3, 240)


def is_released(content):
    """Is what was read from a file such a checkpoint?"""
    return isinstance(content, dict) and isinstance(content.get('model_state'), dict)


def translate(content, path):
    """What was read from such a file -> the dict that train.py writes. Errors: UserError.

    'backbone' (a fingerprint in ours) is None: the weights of the backbone are in 'model'.
    """
    state = content['model_state']
    epoch = content.get('epoch')
    if not all(map(torch.is_tensor, state.values())) or not isinstance(epoch, int):
        raise UserError(f'{path}: has a model_state, but is no checkpoint of CARL or MV-Former')
    config = content.get('cfg')
    if not isinstance(config, dict):
        config = read_config(path)
    ours = rename(state)
    return dict(settings=settings_of(ours, state, config, path), model=ours, backbone=None,
                epoch=epoch + 1, step=None, optimizer=None)


def rename(state):
    """Their state dict under our parameter names."""
    ours = {names.rename(key, RENAMES): value for key, value in names.in_float32(state).items()}
    names.join_qkv(ours)
    if 'pool.own' in ours and ours['pool.own'].dim() == 3:
        ours['pool.own'] = ours['pool.own'].flatten(0, 1)         # (1, N, d) -> (N, d)
    return ours


def settings_of(ours, theirs, config, path):
    """Our settings of a model. ours, theirs: its weights under our and their names."""
    needed = ['mtf.fc.1.weight', 'mtf.blocks.0.attn.qkv.weight', 'mtf.out.weight']
    needed += [key for key in ('pool.own', 'pool.split.weight') if key in ours]
    missing = [key for key in needed if key not in ours or ours[key].dim() != 2]
    if missing:
        raise UserError(f'{path}: is no transformer of CARL or MV-Former: {missing[0]} is not '
                        f'a matrix in it')
    heads = find(config, 'NUM_HEADS')
    if heads not in (None, 8):
        raise UserError(f'{path}: NUM_HEADS {heads}: the MTF here has 8')
    frames = number(config, 'TRAIN', 'NUM_FRAMES')
    if frames is None:
        raise UserError(f'{path}: its settings say no TRAIN.NUM_FRAMES, on which time depends')
    name, row = backbone_of(ours, path)
    is_carl = any(key.startswith('res_finetune.') for key in theirs)
    depth = len({key.split('.')[2] for key in ours if key.startswith('mtf.blocks.')})
    settings = dict(
        dataset=None, data=None, data_seed=0, backbone=name, weights='random',
        layers=[row.layers],
        image_size=number(config, 'IMAGE_SIZE') or row.image_size,
        train_backbone=['layer4'] if is_carl else [],
        entity_width=384, disjoint=False, readout='cls',
        frames=frames, merge=1, dropout=0.1, loss='scl',
        fc_width=len(ours['mtf.fc.1.weight']), embedding=len(ours['mtf.out.weight']),
        depth=depth, limit=number(config, 'EVAL', 'FRAMES_PER_BATCH'))
    if is_carl and settings['limit'] is None:
        settings['limit'] = 6000 if (depth, frames) == FINEGYM else 1000
    return settings | tokens_of(ours, theirs, row, config, path)


def tokens_of(ours, theirs, row, config, path):
    """The part of the settings that says how frames become tokens, and tokens an embedding."""
    if 'pool.own' in ours:
        settings = lstp_of(ours['pool.own'], row, config, path)
    elif 'pool.split.weight' in ours:
        width = number(config, 'SMART_POOL_CHANNELS') or 384
        entities = len(ours['pool.split.weight']) // width
        settings = dict(pool='fwb', entity_width=width, entities=entities)
    else:
        return dict(pool=late_fusion(theirs, row, config, path), entities=1)
    inputs = ours['mtf.fc.1.weight'].shape[1]
    if inputs != settings['entity_width'] + settings['entities']:
        raise UserError(f'{path}: without SMART_ONE_HOT: the entities here always have an id')
    if settings['entities'] > 1:
        settings['readout'] = readout_of(config, path)
    return settings


def backbone_of(ours, path):
    """The backbone that has just these parameters -> its name and row."""
    shapes = {key.removeprefix('backbone.'): value.shape for key, value in ours.items()
              if key.startswith('backbone.')}
    for name, row in backbones().items():
        with torch.device('meta'):                        # shapes without memory
            own = row.make(None).state_dict()
        if shapes == {key: value.shape for key, value in own.items()}:
            return name, row
    raise UserError(f'{path}: its backbone has the parameters of none of '
                    f'{", ".join(backbones())}')


def lstp_of(own, row, config, path):
    """Settings of LSTP with the queries `own` (N, d)."""
    if find(config, 'SMART_LN_KEYS'):
        raise UserError(f'{path}: SMART_LN_KEYS: LSTP here does not normalise its keys')
    settings = dict(pool='lstp', entities=len(own), entity_width=own.shape[1],
                    disjoint=bool(find(config, 'SMART_DISJOINT')))
    if row.layers > 1:
        chosen = str(find(config, 'SMART_FEATS'))         # '3,7,11' or 11: blocks counted from 0
        settings['layers'] = [int(block) + 1 for block in re.findall(r'\d+', chosen)]
        if not settings['layers']:
            raise UserError(f'{path}: its settings name no SMART_FEATS, the layers of LSTP')
    return settings


def late_fusion(theirs, row, config, path):
    """How one token a frame was made: 'cls', 'avg' or 'max'."""
    if row.cls and 'backbone.cls_token' in theirs:        # else backbone.model.cls_token
        return 'cls'
    kinds = [find(config, 'FLATTEN_METHOD')]
    if row.cls:
        kinds.insert(0, find(config, 'LATE_TYPE'))
    for kind in kinds:
        for pool in 'max', 'avg':
            if pool in str(kind):
                return pool
    raise UserError(f'{path}: its settings name no LATE_TYPE or FLATTEN_METHOD of max or avg')


def readout_of(config, path):
    """How the entities of a frame become one embedding; where nothing is said, by their maximum."""
    theirs = find(config, 'SMART_FINAL') or 'max'
    ours = {'one': 'cls', 'avg': 'avg'}
    if theirs not in ours:
        raise UserError(f'{path}: SMART_FINAL {theirs}: the readouts here are one and avg')
    return ours[theirs]


def find(config, name):
    """A setting by its name, in whatever section it stands; None if there is none."""
    if name in config:
        return config[name]
    for section in config.values():
        if isinstance(section, dict):
            value = find(section, name)
            if value is not None:
                return value
    return None


def number(config, *path):
    """A setting that is a positive whole number, by its name or section and name; else None."""
    for name in path:
        config = find(config, name) if isinstance(config, dict) else None
    return config if isinstance(config, int) and config > 0 else None


def read_config(path):
    """The config.yml in the folder of a checkpoint or in the one above."""
    for folder in list(Path(path).absolute().parents)[:2]:
        file = folder / 'config.yml'
        if file.exists():
            return parse_yaml(file.read_text(encoding='utf-8', errors='replace'))
    raise UserError(f'{path}: has no cfg, the settings that its weights do not show, and there is '
                    f'no config.yml beside it or its folder; put the one of its training there')


def parse_yaml(text):
    """The `NAME: value` lines of a YAML file, nested by indentation; of lists none is needed."""
    root = {}
    sections = [(-1, root)]                               # those open, with their indentation
    for line in text.splitlines():
        match = re.match(r'( *)(\w+): *(.*)', line)
        if not match:
            continue
        indent = len(match[1])
        value = re.sub(r'(^| )#.*', '', match[3]).strip()
        while sections[-1][0] >= indent:
            sections.pop()
        inside = sections[-1][1]
        if value == '' or value[0] in '!&':               # a tag or anchor, then the entries
            inside[match[2]] = {}
            sections.append((indent, inside[match[2]]))
        else:
            inside[match[2]] = parse_scalar(value)
    return root


def parse_scalar(text):
    words = {'true': True, 'false': False, 'null': None, '~': None}
    if text.lower() in words:
        return words[text.lower()]
    if re.fullmatch(r'[-+]?\d+', text):
        return int(text)
    return text.strip('\'"')
