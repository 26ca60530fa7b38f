"""The models of one or several checkpoints, ready to be evaluated side by side."""
import model as models


def load_models(paths, device, **given):
    """-> {path: model}, the first one's settings; frozen backbones that are equal become one object.

    given: settings that replace those of training. Errors: ModelError.
    """
    networks, backbones, first = {}, {}, None
    for path in paths:
        checkpoint = models.load_checkpoint(path)
        settings = checkpoint['settings'] | given
        first = first or settings
        try:
            for name in ('dataset', 'data', 'data_seed', 'image_size'):
                if settings[name] != first[name]:
                    raise models.ModelError(f'{path}: {name} is {settings[name]}, of the first checkpoint '
                                            f'{first[name]}; evaluate them one by one')
            key = str([settings[name] for name in ('backbone', 'weights', 'layers', 'train_backbone')])
            network = models.build_model(settings, backbones.get(key)).to(device)
        except KeyError as missing:
            raise models.ModelError(f'{path}: no checkpoint of train.py as it is now: no {missing}; train again')
        models.load_weights(network, checkpoint, path)
        networks[str(path)] = network
        if not settings['train_backbone']:
            backbones[key] = network.backbone
    if device.type == 'cuda':
        for backbone in backbones.values():
            backbone.bfloat16()
    return networks, first
