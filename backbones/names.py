"""The same weights under other names: timm's, Hugging Face's, training runs', CARL's.

Everything is brought to the names of the official files, which are this project's parameter names.
"""
import re
from collections import defaultdict

import torch

RENAMES = [                                               # pattern, official name; in this order
    # Hugging Face: ViT (DINO), DINOv2, DINOv3
    (r'\bembeddings\.position_embeddings', 'pos_embed'),
    (r'\bembeddings\.patch_embeddings\.(projection\.)?', 'patch_embed.proj.'),
    (r'\bembeddings\.', ''),
    (r'\b(encoder\.)?layer\.(\d+)\.', r'blocks.\2.'),
    (r'\blayernorm_before', 'norm1'),
    (r'\blayernorm_after', 'norm2'),
    (r'\blayernorm\.', 'norm.'),
    (r'\battention\.attention\.([qkv])\w+', r'attn.\1'),  # query, key, value
    (r'\battention\.([qkv])_proj', r'attn.\1'),
    (r'\battention\.(output\.dense|o_proj)', 'attn.proj'),
    (r'\blayer_scale(\d)\.lambda1', r'ls\1.gamma'),
    (r'\b(intermediate\.dense|mlp\.up_proj)', 'mlp.fc1'),
    (r'\b(output\.dense|mlp\.down_proj)', 'mlp.fc2'),
    # timm
    (r'\breg_token', 'register_tokens'),
    (r'\bgamma_(\d)', r'ls\1.gamma'),
    (r'\battn\.([qkv])_bias', r'attn.\1.bias'),
    # DINOv2's training in chunks of blocks, which are counted through
    (r'\bblocks\.\d+\.(\d+)\.', r'blocks.\1.'),
    # DINOv3's own name for what DINOv2 calls registers
    (r'\bstorage_tokens', 'register_tokens'),
    # CARL and the MV-Former release keep torchvision's ResNet in a list; layer4 apart if trained
    (r'\bbackbone\.0\.', 'backbone.conv1.'),
    (r'\bbackbone\.1\.', 'backbone.bn1.'),
    (r'\bbackbone\.4\.', 'backbone.layer1.'),
    (r'\bbackbone\.5\.', 'backbone.layer2.'),
    (r'\bbackbone\.6\.', 'backbone.layer3.'),
    (r'\bbackbone\.7\.', 'backbone.layer4.'),
    (r'\bres_finetune\.', 'backbone.layer4.'),
]
# not used for features: of masked training, of satellite models, poolers and classifiers
UNUSED = re.compile(r'mask_token$|local_cls_norm\.|pooler\.|(head|fc|classifier)\.')


def rename(key, renames=RENAMES):
    for pattern, name in renames:
        key = re.sub(pattern, name, key)
    return key


def official(state, own):
    """The backbone's part of a file, under official names -> (state, notes on what was done).

    own: the state dict of the backbone. It stands under the prefix where its first convolution is.
    """
    renamed = {rename(key): value for key, value in state.items()}
    count = len(renamed.keys() - state.keys())
    notes = [f'{count} names changed to the official ones'] if count else []
    first = next(key for key, value in own.items() if value.dim() == 4)
    prefixes = [key.removesuffix(first) for key in renamed if ('.' + key).endswith('.' + first)]
    # a teacher is the average that its makers publish; of a ResNet's many conv1 the outermost
    prefix = min(prefixes, key=lambda prefix: ('student' in prefix, len(prefix)), default='')
    if prefix:
        notes.append(f'under {prefix}')
    inside = {}
    others = []
    for key, value in renamed.items():
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and (name in own or not UNUSED.match(name)):
            inside[name] = value
        else:
            others.append(name)
    if others:
        notes.append(f'left out {groups(others)}')
    return inside, notes


def in_float32(state):
    """Also of half-precision files; what is no floating-point number stays."""
    return {key: value.float() if value.is_floating_point() else value
            for key, value in state.items()}


def groups(keys):
    """What many keys begin with, for a line: 'head.*, mask_token'."""
    first = {key.split('.')[0] + ('.*' if '.' in key else '') for key in keys}
    return ', '.join(sorted(first))


def complete(state, own):
    """Bring what some files hold in another form to the official one, in place -> notes."""
    notes = []
    rotary = 'rope_embed.periods' in own
    if join_qkv(state, no_key_bias=rotary):
        notes.append('joined queries, keys and values')
    if 'register_tokens' in own and 'pos_embed' in own and 'pos_embed' in state:
        position = state['pos_embed']
        if position.dim() == 3 and position.shape[1] + 1 == own['pos_embed'].shape[1]:
            # timm has it added into cls_token
            zero = torch.zeros_like(position[:, :1])
            state['pos_embed'] = torch.cat([zero, position], 1)
            notes.append("CLS's position is in its token")
    if rotary:
        notes += complete_dinov3(state, own)
    return notes


def join_qkv(state, no_key_bias=False):
    """attn.q, attn.k, attn.v -> attn.qkv, in place; incomplete ones stay -> were there any?

    no_key_bias: where only queries and values have a bias, that of the keys is 0.
    """
    parts = defaultdict(dict)
    for key in list(state):
        if re.search(r'\battn\.[qkv]\.(weight|bias)$', key):
            stem, letter, kind = key.rsplit('.', 2)
            parts[stem, kind][letter] = state[key]
    for (stem, kind), part in parts.items():
        if no_key_bias and kind == 'bias' and 'q' in part:
            part.setdefault('k', torch.zeros_like(part['q']))
        shapes = {tuple(value.shape) for value in part.values()}
        if len(part) == 3 and len(shapes) == 1 and shapes != {()}:
            state[f'{stem}.qkv.{kind}'] = torch.cat([part['q'], part['k'], part['v']])
            for letter in 'qkv':
                state.pop(f'{stem}.{letter}.{kind}', None)
    return bool(parts)


def complete_dinov3(state, own):
    """Masked biases, or none at all; rounded periods where a file leaves them out."""
    notes = []
    masks = [key for key in state if key.endswith('.qkv.bias_mask')]
    for key in masks:
        bias = key.removesuffix('_mask')
        if bias in state and state[bias].shape == state[key].shape:
            state[bias] = state[bias] * state.pop(key)
    if not any(key.endswith('.qkv.bias') for key in state):
        for key in own:
            if key.endswith('.qkv.bias'):
                state[key] = torch.zeros_like(own[key])
        notes.append('no bias of queries, keys and values')
    if 'rope_embed.periods' not in state:
        state['rope_embed.periods'] = own['rope_embed.periods']
        notes.append('periods as in the official files')
    return notes
