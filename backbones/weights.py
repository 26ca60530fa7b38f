"""Files of weights: read without running code, loaded strictly."""
import pickle
import warnings
import zlib

import torch


class ModelError(ValueError):
    """Weights, a checkpoint or a setting that make no model; the message is one line for the user."""


def read_file(path):
    """torch.load of tensors and plain containers only: no file from a stranger may run code. Errors: ModelError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')               # of pickle protocols: what matters is said below
            return torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise ModelError(f'{path}: no such file') from None
    except Exception as error:                            # on a damaged file PyTorch's readers raise nearly anything
        reason = 'it holds more than tensors and plain containers, or less' if isinstance(
            error, pickle.UnpicklingError) else (str(error).splitlines() or ['empty'])[0][:150]
        raise ModelError(f'{path}: not a whole file of tensors as torch.save writes them ({reason})') from None


def load_strictly(module, state, source):
    """load_state_dict where a missing or extra key or a wrong shape is a ModelError that names it."""
    own = module.state_dict()
    problems = [f'missing {key}' for key in own if key not in state]
    problems += [f'unknown {key}' for key in state if key not in own]
    shapes = {key: tuple(getattr(value, 'shape', ())) for key, value in state.items()}
    problems += [f'{key} is {shapes[key]}, not {tuple(own[key].shape)}' for key in own
                 if key in state and (not torch.is_tensor(state[key]) or shapes[key] != own[key].shape)]
    if problems:
        more = f' and {len(problems) - 3} more' if len(problems) > 3 else ''
        raise ModelError(f'{source} does not fit: ' + ', '.join(problems[:3]) + more)
    module.load_state_dict(state)


def fingerprint(module):
    """A checksum of all weights: what a checkpoint keeps of a frozen backbone instead of its values."""
    total = 0
    for value in module.state_dict().values():
        total = zlib.crc32(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), total)
    return total


def load_weights(backbone, source):
    import urllib.error
    if str(source).startswith('https://'):
        try:
            state = torch.hub.load_state_dict_from_url(source, map_location='cpu', weights_only=True)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise ModelError(f'cannot fetch {source} ({error}); download it and give it by --weights') from None
    else:
        state = read_file(source)
    if isinstance(state, dict) and isinstance(state.get('model'), dict):
        prefix = 'module.encoder.'
        state = {key.removeprefix(prefix): value for key, value in state['model'].items() if key.startswith(prefix)}
    if not isinstance(state, dict) or not all(torch.is_tensor(value) for value in state.values()):
        raise ModelError(f'{source}: holds no state dict of tensors')
    state = {key: value for key, value in state.items() if not key.startswith('fc.')}
    load_strictly(backbone, {key: value.float() if value.is_floating_point() else value for key, value in state.items()}, source)
