"""The same weights under other names: timm's, Hugging Face's, training runs', CARL's.

Everything is brought to the names of the official files, which are this project's parameter names.
"""
import re

import torch
import torch.nn.functional as F

from running.errors import UserError

# where a training checkpoint keeps weights, the best first
PARTS = ('teacher', 'student', 'model', 'state_dict', 'model_state')
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
    (r'\bbackbone\.([4-7])\.', lambda found: f'backbone.layer{int(found[1]) - 3}.'),
    (r'\bres_finetune\.', 'backbone.layer4.'),
]
# not used for features: of masked training, of satellite models, poolers and classifiers
UNUSED = re.compile(r'mask_token$|local_cls_norm\.|pooler\.|(head|fc|classifier)\.')


def rename(key, renames=RENAMES):
    for pattern, name in renames:
        key = re.sub(pattern, name, key)
    return key


def backbone_state(content, backbone, source):
    """What is in a file -> (the backbone's own state dict, what was done for that, in a line).

    The backbone stands under the prefix where its first convolution is. Errors: UserError.
    """
    state = content
    notes = []
    for part in PARTS:
        if isinstance(state, dict) and isinstance(state.get(part), dict):
            state = state[part]
            notes.append(f'took its part {part!r}')
    tensors = isinstance(state, dict) and all(map(torch.is_tensor, state.values()))
    if not tensors or not all(isinstance(key, str) for key in state):
        raise UserError(f'{source}: holds no state dict of tensors')
    state = {rename(key): value for key, value in state.items()}
    own = backbone.state_dict()
    first = next(key for key, value in own.items() if value.dim() == 4)
    prefixes = [key.removesuffix(first) for key in state if ('.' + key).endswith('.' + first)]
    # a teacher is the average that its makers publish; of a ResNet's many conv1 the outermost
    prefix = min(prefixes, key=lambda prefix: ('student' in prefix, len(prefix)), default='')
    inside = {}
    others = set()
    for key, value in state.items():
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and (name in own or not UNUSED.match(name)):
            inside[name] = value
        else:
            others.add(re.sub(r'\..*', '.*', name))       # head.*, mask_token
    if others:
        notes.append('left out ' + ', '.join(sorted(others)))
    complete(inside, own)
    return inside, f'{source}: ' + '; '.join(notes) if notes else ''


def complete(state, own):
    """Bring what some files hold in another form to the official one, in place."""
    if 'rope_embed.periods' in own:                       # the official ones are rounded
        state.setdefault('rope_embed.periods', own['rope_embed.periods'])
        complete_biases(state, own)
    join_qkv(state)
    if 'pos_embed' in own and 'pos_embed' in state:
        position = state['pos_embed']
        if position.shape == own['pos_embed'][:, 1:].shape:
            state['pos_embed'] = F.pad(position, (0, 0, 1, 0))    # timm: CLS's is in cls_token


def complete_biases(state, own):
    """DINOv3's: keys have none, by a mask in the official files; in some files nothing has one."""
    if not any(key.endswith(('.q.bias', '.qkv.bias')) for key in state):
        state |= {key: torch.zeros_like(own[key]) for key in own if key.endswith('.qkv.bias')}
    for key in list(state):
        mask = state.get(f'{key}_mask')
        if key.endswith('.q.bias'):
            state.setdefault(key.replace('.q.', '.k.'), torch.zeros_like(state[key]))
        elif mask is not None and mask.shape == state[key].shape:
            state[key] = state[key] * state.pop(f'{key}_mask')


def join_qkv(state):
    """attn.q, attn.k, attn.v -> attn.qkv, in place; what does not fit together stays."""
    for key in [key for key in state if re.search(r'\battn\.q\.(weight|bias)$', key)]:
        stem, _, kind = key.rpartition('.q.')
        names = [f'{stem}.{letter}.{kind}' for letter in 'qkv']
        shapes = {state[name].shape if name in state else None for name in names}
        if len(shapes) == 1 and state[key].dim() > 0:
            state[f'{stem}.qkv.{kind}'] = torch.cat([state.pop(name) for name in names])
