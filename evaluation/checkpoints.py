"""The models of one or several checkpoints, ready to be evaluated side by side."""
import model as models


def load_models(paths, device, **given):
    """-> {path: model}, and the settings of the first.

    given: settings that replace those of training, where they are not None. Models with the same
    frozen backbone share one object, so that every frame passes it once. Errors: ModelError.
    """
    given = {name: value for name, value in given.items() if value is not None}
    networks = {}
    backbones = {}
    first = None
    for path in paths:
        checkpoint = models.load_checkpoint(path)
        settings = checkpoint['settings'] | given
        first = first or settings
        try:
            refuse_mixed(path, settings, first)
            key = str([settings[name] for name in ('backbone', 'weights', 'layers')])
            trained = settings['train_backbone']
            network = models.build_model(settings, None if trained else backbones.get(key))
        except KeyError as missing:
            raise models.ModelError(f'{path}: no checkpoint of train.py as it is now: '
                                    f'no {missing}; train again')
        models.load_weights(network, checkpoint, path)
        networks[str(path)] = network.to(device)
        if not trained:
            backbones[key] = network.backbone
    if device.type == 'cuda':
        for backbone in backbones.values():
            backbone.bfloat16()
    return networks, first


def refuse_mixed(path, settings, first):
    """Only models that see the same frames stand in one table."""
    for name in ('dataset', 'data', 'data_seed', 'image_size'):
        if settings[name] != first[name]:
            raise models.ModelError(f'{path}: {name} is {settings[name]}, of the first checkpoint '
                                    f'{first[name]}; evaluate them one by one')
