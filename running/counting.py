"""`python model.py`: the architecture as a table, what each part makes and what it costs."""
import argparse
from dataclasses import asdict

import torch
from torch.utils.flop_counter import FlopCounterMode

from model import Architecture, build_model
from running.errors import UserError
from running.settings import add_arguments, check_limits

SECTIONS = {'backbone': '3.2', 'pool': '3.3'}             # of the paper; the rest is 3.4


def architecture(settings):
    """The parts of a model in the order in which a clip of T frames passes them: rows of
    (name, paper's section, output shape, parameters, trained?, multiply-adds as PyTorch counts)."""
    with torch.device('meta'):                            # no memory, no time
        model = build_model(settings | dict(weights='random'))
    shapes = {}

    def remember_shape(part, inputs, output):
        tensor = output if torch.is_tensor(output) else output[0]
        shapes[part] = tuple(tensor.shape)

    blocks = [f'mtf.blocks.{number}' for number in range(len(model.mtf.blocks))]
    names = ['backbone', 'pool', 'mtf.fc', *blocks, 'mtf.out']
    parts = {name: model.get_submodule(name) for name in names}
    for part in parts.values():
        part.register_forward_hook(remember_shape)
    model.frames_at_once = {'meta': model.mtf.frames}     # a clip is one call of the backbone
    size = model.backbone.image_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, model.mtf.frames, 3, size, size, device='meta'))
    flops = counter.get_flop_counts()
    rows = []
    for name, part in parts.items():
        parameters = sum(weight.numel() for weight in part.parameters())
        trained = any(weight.requires_grad for weight in part.parameters())
        own = flops.get(f'MVFormer.{name}', {})           # none for a part without weights
        macs = sum(own.values()) // 2
        section = SECTIONS.get(name, '3.4')
        rows.append((name, section, shapes[part], parameters, trained, macs))
    return rows


def main():
    """The command of model.py."""
    parser = argparse.ArgumentParser(
        description='The architecture of MV-Former as a table; the defaults are for Penn Action.')
    add_arguments(parser, Architecture())
    try:
        settings = Architecture(**vars(parser.parse_args())).resolve()
        check_limits(settings)
        rows = architecture(asdict(settings))
    except UserError as error:
        parser.error(str(error))
    frames = settings.frames
    _, _, (_, entities, _), *_ = rows[1]                  # the pooler's row, its shape (F, N, d)
    print(f'MV-Former: one clip of T = {frames} frames, {settings.backbone} layers '
          f'{settings.layers}, N = {entities} entities; MACs: multiply-adds')
    line = '{:14} {:6} {:18} {:>12} {:8} {:>13} {:>12}'.format
    print(line('part', 'paper', 'output', 'parameters', '', 'MACs a frame', 'MACs a clip'))
    rows.append(('whole', '', (), sum(row[3] for row in rows), None, sum(row[5] for row in rows)))
    for name, section, shape, parameters, trained, macs in rows:
        kind = {True: 'trained', False: 'frozen', None: ''}[trained]
        print(line(name, section, ' x '.join(map(str, shape)), f'{parameters:,}', kind,
                   f'{macs / frames / 1e6:,.2f} M', f'{macs / 1e9:,.3f} G'))
