"""Checkpoints of CARL and of the authors' MV-Former release, as checkpoints of train.py.

Both keep `model_state`, with the frozen backbone in it, `epoch`, and their settings as `cfg`. What
the weights show is read from them; what they do not (layers, T, readout) from `cfg`, and is never
guessed.
"""
import re
from dataclasses import asdict

import torch

from backbones import names
from model import Architecture, backbones
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
    (r'\.self_att\.linear_([QKV])2d\.', lambda found: f'.attn.{found[1].lower()}.'),
    (r'\.self_att\.linear_d2Q\.', '.attn.proj.'),
    (r'\.feed_forward\.', '.mlp.'),
    (r'^embed\.embedding_layer\.', 'mtf.out.'),
    (r'^ssl_projection\.net\.', 'head.'),
]


def translate(content, path):
    """What was read from such a file -> the dict that train.py writes. Errors: UserError.

    'backbone' (a fingerprint in ours) is None: the weights of the backbone are in 'model'.
    """
    state = content['model_state']
    config = content.get('cfg')
    if not isinstance(config, dict) or not all(map(torch.is_tensor, state.values())):
        raise UserError(f'{path}: has a model_state, but is no checkpoint of CARL or MV-Former, '
                        f'which holds tensors and, as cfg, its settings')
    ours = rename(state)
    try:
        settings = settings_of(ours, state, flatten(config))
    except KeyError as key:
        raise UserError(f'{path}: is no transformer of CARL or MV-Former: lacks {key}') from None
    except UserError as error:
        raise UserError(f'{path}: {error}') from None
    return dict(settings=settings, model=ours, backbone=None, step=None, optimizer=None)


def rename(state):
    """Their state dict under our parameter names."""
    ours = {names.rename(key, RENAMES): value for key, value in state.items()}
    names.join_qkv(ours)
    if 'pool.own' in ours:
        ours['pool.own'] = ours['pool.own'].squeeze(0)            # (1, N, d) -> (N, d)
    return ours


def flatten(config, section=None):
    """Nested settings -> {'NUM_FRAMES': 80, 'TRAIN.NUM_FRAMES': 80, ...}."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, name)
        flat |= {name: value, f'{section}.{name}': value}
    return flat


def settings_of(ours, theirs, config):
    """Our settings of a model. ours, theirs: its weights under our and their names."""
    for name, ours_is in dict(NUM_HEADS=8, SMART_LN_KEYS=False).items():
        if config.get(name) not in (None, ours_is):
            raise UserError(f'{name} {config[name]}: here it is {ours_is}')
    frames = config.get('TRAIN.NUM_FRAMES')
    if not isinstance(frames, int):
        raise UserError('its settings say no TRAIN.NUM_FRAMES, on which time depends')
    is_carl = any(key.startswith('res_finetune.') for key in theirs)
    blocks = {key.split('.')[2] for key in ours if key.startswith('mtf.blocks.')}
    name = backbone_of(ours)
    settings = Architecture(
        backbone=name, weights='random', train_backbone=['layer4'] if is_carl else [],
        image_size=config.get('IMAGE_SIZE'), frames=frames, depth=len(blocks),
        fc_width=len(ours['mtf.fc.1.weight']), embedding=len(ours['mtf.out.weight']),
        **tokens_of(ours, theirs, backbones()[name], config))
    return asdict(settings.resolve()) | dict(
        dataset=None, data=None, data_seed=0, loss='scl', limit=config.get('EVAL.FRAMES_PER_BATCH'))


def tokens_of(ours, theirs, row, config):
    """The part of the settings that says how frames become tokens, and tokens an embedding."""
    settings = dict(layers=[row.layers])
    if 'pool.own' in ours:
        settings |= dict(pool='lstp', disjoint=bool(config.get('SMART_DISJOINT')))
        entities, width = ours['pool.own'].shape
        if row.layers > 1:
            chosen = re.findall(r'\d+', str(config.get('SMART_FEATS')))    # '3,7,11', from 0
            if not chosen:
                raise UserError('its settings name no SMART_FEATS, the layers of LSTP')
            settings['layers'] = [int(block) + 1 for block in chosen]
    elif 'pool.split.weight' in ours:
        settings['pool'] = 'fwb'
        width = config.get('SMART_POOL_CHANNELS') or 384
        entities = len(ours['pool.split.weight']) // width
    else:
        return settings | dict(pool=late_fusion(theirs, row, config), entities=1)
    readout = config.get('SMART_FINAL') or 'max'
    readouts = {'one': 'cls', 'avg': 'avg'}
    if entities > 1 and readout not in readouts:
        raise UserError(f'SMART_FINAL {readout}: the readouts here are one and avg')
    return settings | dict(entities=entities, entity_width=width,
                           readout=readouts.get(readout, 'cls'))


def late_fusion(theirs, row, config):
    """How one token a frame was made: 'cls', 'avg' or 'max'."""
    if 'backbone.cls_token' in theirs:                    # else backbone.model.cls_token
        return 'cls'
    said = str(config.get('FLATTEN_METHOD'))
    if row.cls:
        said = f'{config.get("LATE_TYPE")} {said}'
    kinds = re.findall('max|avg', said)
    if not kinds:
        raise UserError('its settings name no LATE_TYPE or FLATTEN_METHOD of max or avg')
    return kinds[0]


def backbone_of(ours):
    """The name of the backbone that has just these parameters."""
    shapes = {key: value.shape for key, value in ours.items() if key.startswith('backbone.')}
    for name, row in backbones().items():
        with torch.device('meta'):                        # shapes without memory
            own = row.make(None).state_dict()
        if shapes == {f'backbone.{key}': value.shape for key, value in own.items()}:
            return name
    raise UserError(f'its backbone has the parameters of none of {", ".join(backbones())}')
