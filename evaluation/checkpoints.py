"""The models of one or several checkpoints, ready to be evaluated side by side."""
import os

import model as models
from running.errors import UserError
from running.processes import half_dtype

DEFAULTS = {'workers': min(4, os.cpu_count()), 'label_unit': None}  # of older and other checkpoints


def load_models(paths, device, **given):
    """-> {path: model}, and the settings of the first.

    given: settings that replace those of training, where they are not None. Models with the same
    frozen backbone share one object, so that every frame passes it once. Errors: UserError.
    """
    given = {name: value for name, value in given.items() if value is not None}
    networks = {}
    shared = {}  # backbones that are not in a checkpoint, by what they are
    frozen = []  # networks whose backbone nobody fine-tuned
    first = None
    for path in paths:
        checkpoint = models.load_checkpoint(path)
        settings = DEFAULTS | checkpoint['settings']
        if 'dataset' in given:
            settings['label_unit'] = None    # that of another data set
        settings |= given
        first = first or settings
        if settings.get('dataset') is None:
            raise UserError(f'{path}: says no data set; give its name by --dataset')
        # one that was fine-tuned, or that the checkpoint brings, is like no other
        own = settings['train_backbone'] or checkpoint['backbone'] is None
        key = str([settings[name] for name in ('backbone', 'weights', 'layers')])
        try:
            refuse_mixed(path, settings, first)
            network = models.build_model(settings, None if own else shared.get(key))
        except KeyError as missing:
            raise UserError(f'{path}: no checkpoint of train.py as it is now: '
                            f'no {missing}; train again')
        models.load_trained(network, checkpoint, path)
        networks[str(path)] = network.to(device)
        if not own:
            shared[key] = network.backbone
        if not settings['train_backbone']:
            frozen.append(network)
    half = half_dtype(device)
    if half:
        for network in frozen:
            network.backbone.to(half)
    return networks, first


def refuse_mixed(path, settings, first):
    """Only models that see the same frames stand in one table."""
    for name in ('dataset', 'data', 'data_seed', 'label_unit', 'image_size'):
        if settings[name] != first[name]:
            raise UserError(f'{path}: {name} is {settings[name]}, of the first checkpoint '
                            f'{first[name]}; evaluate them one by one')
