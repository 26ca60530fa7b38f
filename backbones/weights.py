"""Files of weights, as people have them, into a backbone: by what is in a file, not its name.

`.pth`, `.pt` and `.bin` of torch.save and `.safetensors`, official or from timm, Hugging Face or a
training run. Nothing in a file can run code. names.py knows the names that others use.
"""
import argparse
import http.client
import json
import pickle
import textwrap
import warnings
import zlib
from collections import OrderedDict
from pathlib import Path

import torch

from backbones.names import backbone_state
from running.errors import UserError

DTYPES = {'F64': torch.float64, 'F32': torch.float32, 'F16': torch.float16,
          'BF16': torch.bfloat16, 'I64': torch.int64}
# settings in training checkpoints: both only hold values; EasyDict, perhaps not here, is a dict
CONTAINERS = [argparse.Namespace, (OrderedDict, 'easydict.EasyDict')]


def read_file(path):
    """What is in a file of torch.save or safetensors, on the CPU. Errors: UserError."""
    try:
        with open(path, 'rb') as file, torch.serialization.safe_globals(CONTAINERS), \
                warnings.catch_warnings():
            warnings.simplefilter('ignore')               # of pickle protocols: said below
            if file.read(9)[8:] == b'{':                  # safetensors: 8 bytes of size, then JSON
                return read_safetensors(Path(path).read_bytes())
            file.seek(0)
            return torch.load(file, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise UserError(f'{path}: no such file') from None
    except Exception as error:                            # of any kind, where a file is damaged
        reason = textwrap.shorten(str(error) or 'empty', 150)
        if isinstance(error, pickle.UnpicklingError):
            reason = 'it holds more than tensors and plain containers, or less'
        raise UserError(f'{path}: not a whole file of tensors as torch.save or safetensors write '
                        f'them ({reason})') from None


def read_safetensors(content):
    """Bytes -> {name: tensor}: 8 bytes of size, JSON that says where each lies, values."""
    content = bytearray(content)
    begin = 8 + int.from_bytes(content[:8], 'little')
    entries = json.loads(content[8:begin])
    entries.pop('__metadata__', None)
    tensors = {}
    for name, entry in entries.items():
        start, end = entry['data_offsets']
        values = content[begin + start:begin + end]
        tensor = torch.frombuffer(values, dtype=DTYPES[entry['dtype']])
        tensors[name] = tensor.reshape(entry['shape'])
    return tensors


def fetch(address):
    """A file from the net, kept in torch.hub's cache -> its path. Errors: UserError."""
    path = Path(torch.hub.get_dir(), 'checkpoints', Path(address).name)
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(address, str(path))
        except (OSError, http.client.HTTPException) as error:
            raise UserError(f'cannot fetch {address} ({error}); give a file of them by --weights, '
                            f'or --backbone tiny to try things out') from None
    return path


def load_weights(backbone, source):
    """Put a file, or what is at an https address, into a backbone. Errors: UserError.

    Returns what was left out, in a line; '' where it held the backbone and no more.
    """
    path = source
    remedy = ''
    if str(source).startswith('https://'):
        path = fetch(source)
        remedy = f'; fetched from {source}: delete it to fetch it anew'
    try:
        state, sentence = backbone_state(read_file(path), backbone, path)
        load_strictly(backbone, state, path)
    except UserError as error:
        raise UserError(f'{error}{remedy}') from None
    return sentence


def load_strictly(module, state, source):
    """load_state_dict, but a key missing or too many or a wrong shape is a UserError naming it.
    Half-precision files are computed in the module's own precision."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reasons = str(error).split('\n', 1)[-1]           # the first line names the class
        raise UserError(f'{source} does not fit: {textwrap.shorten(reasons, 300)}') from None


def fingerprint(backbone, trained=()):
    """A checksum of all weights but those of the parts that are trained: what a checkpoint keeps of
    a frozen backbone."""
    total = 0
    for key, value in backbone.state_dict().items():
        if key.split('.')[0] not in trained:
            data = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            total = zlib.crc32(data.numpy(), total)
    return total


def load_checkpoint(path):
    """What train.py wrote: settings, videos (names), backbone (a fingerprint), model, optimizer,
    step, and the teacher if there is one.

    path: the file, or the folder of its run. Also from a checkpoint of CARL or of the authors'
    release (backbones/released.py): there 'backbone' is None, since it is in the file itself.
    Errors: UserError.
    """
    if Path(path).is_dir():
        path = Path(path, 'checkpoint.pt')
    checkpoint = read_file(path)
    from backbones.released import translate              # late: it builds on the ViT
    kinds = dict(settings=dict, model=dict, backbone=int)
    if isinstance(checkpoint, dict):
        if isinstance(checkpoint.get('model_state'), dict):
            return translate(checkpoint, path)
        if all(isinstance(checkpoint.get(name), kind) for name, kind in kinds.items()):
            return checkpoint
    raise UserError(f'{path}: a file of tensors, but no checkpoint of train.py')


def load_trained(model, checkpoint, source, head=True):
    """Put a checkpoint's weights into a model of the same settings; its head only where the model
    has one and `head` is True. Errors: UserError."""
    settings = checkpoint['settings']
    state = model.state_dict()
    needed = state                                        # the file brings its backbone
    if checkpoint['backbone'] is not None:
        needed = model.trained_state()
        if checkpoint['backbone'] != fingerprint(model.backbone, settings['train_backbone']):
            raise UserError(f'{source}: was trained on another backbone than these weights of '
                            f'{settings["backbone"]}; give --weights')
    skipped = () if head and model.head is not None else ('head.',)
    own = {key: state[key] for key in state if key not in needed or key.startswith(skipped)}
    theirs = checkpoint['model'].items()
    theirs = {key: value for key, value in theirs if not key.startswith(skipped)}
    load_strictly(model, own | theirs, source)
