"""MV-Former (paper, section 3 and Figure 2): the frozen backbones and the whole model put together.

    clips (B, T, 3, H, W)  --backbone-->  patches (F, P, L*C), cls (F, C)     F = B*T frames, L layers of width C
                           --LSTP------>  entities (B, T, N, d)               lstp.py, section 3.3
                           --MTF------->  embeddings (B, T, D), unit length   mtf.py, section 3.4

`python model.py` prints the architecture as a table.
"""
import argparse
import sys
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from backbones.dino import DINO, ViT
from backbones.dinov2 import DINOV2
from backbones.dinov3 import DINOV3
from backbones.released import is_released, translate
from backbones.resnet50 import RESNET50
from backbones.weights import ModelError, fingerprint, load_strictly, read_file
from backbones.weights import load_weights as read_backbone
from loss import OBJECTIVES
from lstp import LSTP, FixedWidth, OneToken
from mtf import MTF


# ---------------------------------------------------------------------------------------------------------------------
# Backbones (section 3.2): from single frames to patch features of several layers
BACKBONES = DINO | DINOV2 | DINOV3 | RESNET50


def build_backbone(name, *, weights=None, layers=None, image_size=None):
    """The backbone with its weights loaded, frozen. weights: a file, None for the official ones, or 'random' (always
    the same draw: to try speed and memory without a download)."""
    if name not in BACKBONES:
        raise ModelError(f'backbone {name!r}: choose from {", ".join(BACKBONES)}')
    row = BACKBONES[name]
    if image_size and image_size < row.patch_size:
        raise ModelError(f'--image-size {image_size}: {name} needs at least {row.patch_size} pixels')
    if image_size and image_size % row.multiple_of:
        raise ModelError(f'--image-size {image_size}: {name} needs a multiple of {row.multiple_of} pixels')
    if row.layers == 1 and list(layers or [1]) != [1]:
        raise ModelError(f'layers {layers}: {name} has one feature map only; leave --layers out')
    if weights is None and row.weights is None:
        raise ModelError(f'{name}: has no official weights to fetch; {row.where}')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = row.make(layers)
    if weights != 'random':
        sentence = read_backbone(backbone, weights or row.weights)
        if sentence:
            print(sentence, file=sys.stderr)
    backbone.image_size = image_size or row.image_size
    return backbone.requires_grad_(False)


# ---------------------------------------------------------------------------------------------------------------------
# The whole model

class MVFormer(nn.Module):
    """Frozen backbone, pooler, MTF and, for training, the projection head.

    head: what the objective trains on top of the embedding (loss.OBJECTIVES), or None.
    """
    chunk = 160                                           # frames the backbone sees at once

    def __init__(self, backbone, pool, mtf, head=None):
        super().__init__()
        self.backbone, self.pool, self.mtf, self.head = backbone, pool, mtf, head

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()                              # always: no dropout to switch on, no statistics to move
        return self

    def features(self, images):
        """images (F, 3, H, W) -> Features; without a graph while the backbone is frozen."""
        dtype = next(self.backbone.parameters()).dtype
        # weights that are bf16 need no autocast, which would take the LayerNorms back to float32
        with nullcontext() if dtype == torch.float32 else torch.autocast(images.device.type, enabled=False):
            return self.backbone(images.to(dtype))

    def entities(self, images):
        """images (F, 3, H, W) -> entities (F, N, d), attention (F, N, P) or None; frames in chunks."""
        parts = [self.pool(*self.features(chunk)) for chunk in images.split(self.chunk)]
        entities, attention = zip(*parts)
        return torch.cat(entities), None if attention[0] is None else torch.cat(attention)

    def forward(self, clips, valid=None, project=False, normalize=True):
        """clips (B, T, 3, H, W) normalised RGB, valid bool (B, T) -> embeddings (B, T, D) of unit length.

        project: through the projection head (SCL trains on its output; evaluation never uses it).
        normalize=False: as they are, which TCC and SaL want.
        """
        entities, _ = self.entities(rearrange(clips, 'b t c h w -> (b t) c h w'))
        z = self.mtf(rearrange(entities, '(b t) n d -> b t n d', b=len(clips)), valid)
        if project:
            z = rearrange(self.head(rearrange(z, 'b t d -> (b t) d')), '(b t) d -> b t d', b=len(clips))
        return F.normalize(z.float(), dim=-1) if normalize else z.float()

    def trained_state(self):
        """The state dict without the frozen part, which is kept by its name and fingerprint."""
        frozen = {f'backbone.{name}' for name, _ in self.backbone.named_buffers()}
        frozen |= {name for name, weight in self.named_parameters() if not weight.requires_grad}
        return {key: value for key, value in self.state_dict().items() if key not in frozen}


def build_model(settings, backbone=None):
    """The model that a dict of settings describes (train.Settings), in eval mode; pass a backbone to share it."""
    s = settings
    if backbone is None:
        backbone = build_backbone(s['backbone'], weights=s['weights'], layers=s['layers'], image_size=s['image_size'])
        for name in s['train_backbone']:
            parts = dict(backbone.named_children()) | dict(backbone.named_parameters(recurse=False))
            if name not in parts:
                raise ModelError(f'--train-backbone {name}: {s["backbone"]} has the parts {", ".join(parts)}')
            parts[name].requires_grad_(True)
    if s['pool'] == 'lstp':
        pool = LSTP(backbone.channels, s['entities'], s['entity_width'], s['disjoint'])
    elif s['pool'] in ('cls', 'fwb') and not BACKBONES[s['backbone']].cls:
        raise ModelError(f'pool {s["pool"]}: {s["backbone"]} has no CLS token; choose lstp, avg or max')
    elif s['pool'] == 'fwb':
        pool = FixedWidth(backbone.width, s['entities'], s['entity_width'])
    else:
        pool = OneToken(backbone.width if s['pool'] == 'cls' else backbone.channels, s['pool'])
    mtf = MTF(pool.width, pool.entities, ids=pool.ids, frames=s['frames'], fc_width=s['fc_width'],
              embedding=s['embedding'], readout=s['readout'], depth=s.get('depth', 3), dropout=s['dropout'])
    head = OBJECTIVES[s['loss']].head
    return MVFormer(backbone, pool, mtf, head and head(s['embedding'], None)).eval()


def load_checkpoint(path):
    """The dict that train.py writes: settings, model, optimizer, epoch, ... Errors: ModelError in one line."""
    checkpoint = read_file(path)
    if is_released(checkpoint):
        return translate(checkpoint, path)
    whole = isinstance(checkpoint, dict) and {'settings', 'model', 'epoch', 'backbone'} <= set(checkpoint)
    if not whole or not isinstance(checkpoint['settings'], dict) or not isinstance(checkpoint['model'], dict) \
            or not all(torch.is_tensor(value) for value in checkpoint['model'].values()):
        raise ModelError(f'{path}: a file of tensors, but no checkpoint of train.py')
    return checkpoint


def load_weights(model, checkpoint, source):
    """Put a checkpoint's trained weights into a model built from the same settings."""
    own = fingerprint(model.backbone)
    if checkpoint['backbone'] not in (None, own) and not checkpoint['settings']['train_backbone']:
        raise ModelError(f'{source}: was trained on another backbone than {checkpoint["settings"]["backbone"]} '
                         f'with these weights; give the right ones by --weights')
    state = model.state_dict()
    load_strictly(model, {key: state[key] for key in state.keys() - model.trained_state().keys()} | checkpoint['model'],
                  source)


def load_model(path, backbone=None):
    """A trained MVFormer in eval mode, and its settings, from a checkpoint of train.py."""
    checkpoint = load_checkpoint(path)
    model = build_model(checkpoint['settings'], backbone)
    load_weights(model, checkpoint, path)
    return model, checkpoint['settings']


# ---------------------------------------------------------------------------------------------------------------------
# python model.py: the architecture as a table

def architecture(settings):
    """Rows (part, paper section, output shape, parameters, trained?, multiply-adds) for one clip of T frames, counted
    by PyTorch on a model without memory ("meta" device)."""
    with torch.device('meta'):
        model = build_model(settings | dict(weights='random'))
        clips = torch.empty(1, settings['frames'], 3, model.backbone.image_size, model.backbone.image_size)
    model.chunk = settings['frames']
    stages = [('backbone', '3.2', model.backbone), ('pool', '3.3', model.pool), ('mtf.fc', '3.4', model.mtf.fc),
              *((f'mtf.blocks.{i}', '3.4', block) for i, block in enumerate(model.mtf.blocks)),
              ('mtf.out', '3.4', model.mtf.out)] + [('head', '4 (SCL)', model.head)] * (settings['loss'] == 'scl')
    shapes = {}
    for name, _, module in stages:
        module.register_forward_hook(lambda module, inputs, output, name=name: shapes.update(
            {name: tuple((output if torch.is_tensor(output) else output[0]).shape)}))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(clips, project=settings['loss'] == 'scl')
    counts = counter.get_flop_counts()
    return [(name, section, shapes[name], sum(p.numel() for p in module.parameters()),
             any(p.requires_grad for p in module.parameters()),
             sum(counts[f'MVFormer.{name}'].values()) // 2) for name, section, module in stages]


def main():
    from train import PRESETS, preset                     # here alone the arrow points up: the presets live with training
    parser = argparse.ArgumentParser(description='The architecture of MV-Former as a table, for one clip.')
    parser.add_argument('dataset', nargs='?', default='penn', choices=PRESETS, help='whose settings (default: penn)')
    settings = vars(preset(parser.parse_args().dataset).resolve())
    frames = settings['frames']
    print(f'MV-Former for {settings["dataset"]}: one clip of T = {frames} frames, N = {settings["entities"]} entities, '
          f'{settings["backbone"]} layers {settings["layers"]}')
    row = '{:14} {:9} {:18} {:>12} {:8} {:>14} {:>14}'.format
    print(row('part', 'paper', 'output', 'parameters', '', 'MACs a frame', 'MACs a clip'))
    rows = architecture(settings)
    for name, section, shape, parameters, trained, macs in rows:
        print(row(name, section, ' x '.join(map(str, shape)), f'{parameters:,}', 'trained' if trained else 'frozen',
                  f'{macs / frames / 1e6:,.2f} M', f'{macs / 1e9:,.3f} G'))
    macs = sum(r[-1] for r in rows)
    print(row('whole', '', '', f'{sum(r[3] for r in rows):,}', '', f'{macs / frames / 1e6:,.2f} M', f'{macs / 1e9:,.3f} G'))


if __name__ == '__main__':
    main()
