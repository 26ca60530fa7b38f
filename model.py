"""MV-Former (paper, section 3 and Figure 2): the backbone, and the whole model put together.

    clips (B, T, 3, height, width)
      --backbone-->  patches (F, P, L*C), cls (F, C)      ViT below, section 3.2; F = B*T
      --LSTP------>  entities (B, T, N, d)                lstp.py, section 3.3
      --MTF------->  embeddings (B, T, D)                 mtf.py, section 3.4

B clips of T frames (in training the two views of every video), N entities, P patches a frame, L
backbone layers of width C, D the embedding's width. `python model.py` prints all this as a table.
"""
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from backbones.weights import load_checkpoint, load_trained
from lstp import POOLERS
from mtf import MTF, READOUTS, Block
from running.errors import UserError
from running.processes import on_device
from running.settings import setting


# ----------------------------------------------------------------------------------------------
# The backbone: DINO's Vision Transformer

class Features(NamedTuple):
    """What a backbone makes of F frames."""
    patches: torch.Tensor          # (F, P, L*C), of the chosen layers, without the final norm
    cls: torch.Tensor | None       # (F, C), with the final norm; None: a backbone without CLS


class ViT(nn.Module):
    """The Vision Transformer (Dosovitskiy et al., ICLR 2021) of DINO (Caron et al., ICCV 2021).

    layers: blocks, counted from 1 as in the paper, whose outputs are the patch features; the last
    by default. trained_size: pixels a side of the pictures that its positions were trained on.
    """
    # backbones/dinov2.py and dinov3.py have others of these three
    block = Block
    eps = 1e-6                     # of LayerNorm
    prefix = 1                     # tokens before the patches: CLS; dinov2.py adds registers

    def __init__(self, layers=None, *, trained_size, patch_size, width, depth, heads):
        super().__init__()
        self.layers = list(layers or [depth])
        self.image_size = trained_size              # of the frames: build_backbone may change it
        self.patch_size = patch_size
        self.width = width
        self.channels = width * len(self.layers)
        self.trained_grid = trained_size // patch_size
        self.patch_embed = nn.Module()              # so that weights are named as DINO's
        self.patch_embed.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.trained_grid ** 2, width))
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            self.blocks.append(self.block(width, heads, 4 * width, eps=self.eps))
        self.norm = nn.LayerNorm(width, eps=self.eps)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                nn.init.trunc_normal_(weight, std=0.02)
            elif name.endswith('bias'):
                nn.init.zeros_(weight)

    @property
    def grid(self):
        """Patches a side of a frame, for features.py and pictures."""
        return self.image_size // self.patch_size

    def positions(self, rows, columns):
        """The position code (1, 1 + rows*columns, C) of CLS and patches."""
        if rows == columns == self.trained_grid:
            return self.pos_embed
        cls, patches = self.pos_embed.split([1, self.trained_grid ** 2], 1)
        patches = rearrange(patches, '1 (r c) d -> 1 d r c', r=self.trained_grid)
        patches = self.interpolate(patches.float(), rows, columns)
        patches = rearrange(patches, '1 d r c -> 1 (r c) d')
        return torch.cat([cls, patches.to(cls.dtype)], 1)

    def interpolate(self, code, rows, columns):
        """(1, C, M, M) -> (1, C, rows, columns). DINO's + 0.1, against rounding down, shifts the
        grid a little, and its features depend on it."""
        M = self.trained_grid
        factors = (rows + 0.1) / M, (columns + 0.1) / M
        return F.interpolate(code, scale_factor=factors, mode='bicubic')

    def tokens(self, images):
        """images (F, 3, height, width) -> what enters the first block (F, 1 + P, C)."""
        x = self.patch_embed.proj(images)                         # (F, C, rows, columns)
        positions = self.positions(*x.shape[-2:])
        x = rearrange(x, 'f c rows columns -> f (rows columns) c')
        cls = self.cls_token.expand(len(x), -1, -1)               # (F, 1, C)
        return torch.cat([cls, x], 1) + positions                 # (F, 1 + P, C)

    def block_arguments(self, images):
        """What every block is given beside the tokens: nothing here; a rotation in DINOv3, a mask
        in tiny_local."""
        return {}

    def forward(self, images):
        """images (F, 3, height, width) -> Features. release: patches as they leave a block, WITHOUT
        the final norm, which was trained on the last block's output alone; CLS with it, as DINO."""
        x = self.tokens(images)                                   # (F, prefix + P, C)
        arguments = self.block_arguments(images)
        chosen = {}
        for number, block in enumerate(self.blocks, 1):
            x = block(x, **arguments)
            if number in self.layers:
                chosen[number] = x[:, self.prefix:]               # (F, P, C)
        # release: of several layers the channels stand side by side
        patches = torch.cat([chosen[number] for number in self.layers], -1)
        return Features(patches, self.norm(x[:, 0]))              # (F, P, L*C), (F, C)

    def attention_map(self, images):
        """images (F, 3, height, width) -> the last block's attention of CLS, (F, heads, P)."""
        x = self.tokens(images)
        arguments = self.block_arguments(images)
        for block in self.blocks[:-1]:
            x = block(x, **arguments)
        last = self.blocks[-1]
        attention = last.attn.attention_map(last.norm1(x), **arguments)
        return attention[:, :, 0, self.prefix:]                   # of (F, heads, S, S)


class Backbone(NamedTuple):
    """A row of `backbones`: all that other files must know of a backbone."""
    make: Callable                 # make(layers) -> the module, with random weights
    layers: int                    # how many there are to choose from; 1: a single feature map
    image_size: int                # pixels a side of a frame, unless told otherwise
    patch_size: int                # pixels a side; a picture cannot be smaller
    weights: str | Path | None     # address or file of the official weights
    where: str = ''                # how to get them if `weights` is None
    cls: bool = True               # has a CLS token
    float16: bool = True           # works in it; of DINOv3 its makers say it does not
    multiple_of: int = 1           # pixels: the sides of a picture are whole numbers of it


@cache
def backbones():
    """{name: Backbone}. Imported here, not above: they build on the ViT."""
    from backbones import dino, dinov2, dinov3, resnet50, tiny
    return dino.DINO | dinov2.DINOV2 | dinov3.DINOV3 | resnet50.RESNET50 | tiny.TINY


# ----------------------------------------------------------------------------------------------
# The model

class MVFormer(nn.Module):
    """Frozen backbone, pooler, MTF and, for training, the head that the objective puts on top."""

    frames_at_once = {'cpu': 32, 'mps': 32, 'cuda': 160}  # in a call of the backbone, for memory

    def __init__(self, backbone, pool, mtf, head=None):
        super().__init__()
        self.backbone = backbone
        self.pool = pool
        self.mtf = mtf
        self.head = head

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()                              # always: its BatchNorm statistics stay
        return self

    def features(self, images) -> Features:
        """images (F, 3, height, width), normalised RGB -> patches (F, P, L*C), cls (F, C).

        In float32, unless autocast gives the pooler 16 bits. No `no_grad` is needed: autograd
        records nothing where no weight is trained.
        """
        dtype = next(self.backbone.parameters()).dtype
        if dtype == torch.float32:
            return self.backbone(images)
        # a backbone in 16 bits (running/run.py) needs no autocast, whose LayerNorm is in float32
        with torch.autocast(images.device.type, enabled=False):
            patches, cls = self.backbone(images.to(dtype))
        if torch.is_autocast_enabled(images.device.type):
            return Features(patches, cls)
        return Features(patches.float(), None if cls is None else cls.float())

    def entities(self, images):
        """images (F, 3, height, width) -> entities (F, N, d), attention (F, N, P) or None."""
        chunks = images.split(self.frames_at_once.get(images.device.type, 32))
        parts = [self.pool(*self.features(chunk)) for chunk in chunks]
        entities, attention = zip(*parts)
        return torch.cat(entities), None if attention[0] is None else torch.cat(attention)

    def forward(self, clips, valid=None, project=False, unit_length=True):
        """clips (B, T, 3, height, width), valid bool (B, T) -> embeddings (B, T, D), float32.

        clips: or, with --versions, features packed like images (B, T, 1, P + 1, L*C), P patches and
        CLS (running/features.py). valid: False = padding, which repeats one frame at a clip's end.
        project: through the head, as SCL trains it, not in evaluation; D is then the head's width.
        """
        b = len(clips)
        images = rearrange(clips, 'b t c h w -> (b t) c h w')
        if valid is None:
            entities, _ = self.entities(images)                                    # (B*T, N, d)
        else:
            # on the CPU: a GPU's nonzero would be waited for, since its length is unknown
            needed, place = without_repeats(valid.cpu())
            needed, place, valid = on_device([needed, place, valid], images.device)
            entities, _ = self.entities(images[needed])
            entities = entities.index_select(0, place)                             # (B*T, N, d)
        z = self.mtf(rearrange(entities, '(b t) n d -> b t n d', b=b), valid)      # (B, T, D)
        if project:
            rows = self.head(rearrange(z, 'b t d -> (b t) d'))
            z = rearrange(rows, '(b t) d -> b t d', b=b)
        z = z.float()
        return F.normalize(z, dim=-1) if unit_length else z

    @torch.no_grad()
    def embed(self, video, most=1000):
        """Any video, in eval mode -> unit-length embeddings of its frames (n, D), float32 NumPy.

        video: a file or a folder of images, squashed to S x S pixels (the backbone's image_size);
        or a data.Video, of whose frames the central S x S are seen. One of more than `most` frames
        is thinned out, and the vectors between are interpolated. Errors: UserError.
        """
        from evaluation.embedding import embed_one        # late: a model needs no videos
        return embed_one(self, video, most)

    def trained_state(self):
        """What a checkpoint keeps: the trained weights, and the buffers outside the backbone."""
        frozen = {f'backbone.{name}' for name, _ in self.backbone.named_buffers()}
        for name, weight in self.named_parameters():
            if not weight.requires_grad:
                frozen.add(name)
        return {key: value for key, value in self.state_dict().items() if key not in frozen}


def without_repeats(valid):
    """ours: all padding of a clip is one frame, so the backbone need see only the first of it.

    valid bool (B, T) -> which K frames to see (K,), and for each of all its place in them (B*T,).
    """
    needed = valid.clone()
    needed[:, 0] = True
    needed[:, 1:] |= valid[:, :-1]                        # the first of padding, after a valid one
    needed = needed.flatten()                                                      # (B*T,)
    return needed.nonzero()[:, 0], needed.cumsum(0) - 1   # - 1: the last needed frame so far


# ----------------------------------------------------------------------------------------------
# Settings: for Penn Action, the paper's or, where it is silent, the release's

@dataclass
class Architecture:
    """What the model is made of; train.py adds how it is trained. `setting` (running/settings.py)
    takes a field's default, its --help, its limits; choices may be a function; `group` heads this
    field and those after it in --help. Fixed in mtf.py: its width H, heads, MLPs' width."""
    backbone: str = setting('dino_vitb8', '%(choices)s', choices=backbones, group='model')
    weights: str = setting(None, "a file of backbone weights, or 'random'", metavar='FILE')
    train_backbone: list = setting((), 'parts to fine-tune, e.g. layer4', metavar='PARTS')
    image_size: int = setting(None, 'pixels a side of a frame, if not as usual', least=1)
    layers: list = setting(None, 'backbone layers to use, e.g. 4,8,12', metavar='LAYERS')
    pool: str = setting('lstp', 'how a frame becomes tokens: %(choices)s', choices=POOLERS)
    entities: int = setting(3, 'N, entities a frame, of lstp and fwb', least=1)
    entity_width: int = setting(384, 'd, width of an entity', least=1)
    disjoint: bool = setting(False, 'lstp: each patch keeps its strongest entity')
    fc_width: int = setting(512, 'width of the two FC layers', least=1)
    depth: int = setting(3, 'transformer blocks of the MTF', least=1)
    merge: int = setting(1, 'neighbouring frames that share tokens', least=1)
    readout: str = setting('cls', 'first token of a frame, or mean', choices=READOUTS)
    embedding: int = setting(128, 'D, width of a frame embedding', least=1)
    dropout: float = setting(0.1, 'dropout rate of the MTF', most=0.99)
    frames: int = setting(80, 'T, frames of a training clip', least=2)

    def resolve(self):
        """Where a setting is None, take it from backbone and pooler. Returns self."""
        row = backbones()[self.backbone]
        if self.layers is None:
            self.layers = [row.layers]
            if POOLERS[self.pool].multi_layer_by_default and row.layers > 1:
                third = row.layers / 3                    # 4, 8, 12 of 12
                self.layers = [int(third), int(2 * third), row.layers]
        self.layers = list(self.layers)
        self.train_backbone = list(self.train_backbone)
        self.image_size = self.image_size or row.image_size
        return self


# ----------------------------------------------------------------------------------------------
# From settings to a model

def build_model(settings, backbone=None):
    """The model that a dict of settings describes, in eval mode, without a head.

    settings: of Architecture; others in it are passed over, and what is absent has its default.
    backbone: one to share. Errors: UserError.
    """
    from backbones.build import build_backbone, unfreeze    # late: they know the backbones
    own = [each.name for each in fields(Architecture) if each.name in settings]
    s = Architecture(**{name: settings[name] for name in own}).resolve()
    row = backbones()[s.backbone]
    make_pool = POOLERS[s.pool]
    if make_pool.needs_cls and not row.cls:
        others = [name for name in POOLERS if not POOLERS[name].needs_cls]
        raise UserError(f'pool {s.pool}: {s.backbone} has no CLS token; '
                        f'choose from {", ".join(others)}')
    if backbone is None:
        backbone = build_backbone(s.backbone, weights=s.weights, layers=s.layers,
                                  image_size=s.image_size)
        if s.train_backbone:
            unfreeze(backbone, s)
    pool = make_pool(backbone.channels, backbone.width, entities=s.entities,
                     width=s.entity_width, disjoint=s.disjoint)
    if s.disjoint and not hasattr(pool, 'disjoint'):
        raise UserError(f'--disjoint: pool {s.pool} has no attention; choose lstp')
    mtf = MTF(pool.width, pool.num_entities, append_ids=pool.append_ids, frames=s.frames,
              fc_width=s.fc_width, depth=s.depth, merge=s.merge, embedding=s.embedding,
              readout=s.readout, dropout=s.dropout)
    return MVFormer(backbone, pool, mtf).eval()


def load_model(path, weights=None):
    """A trained MVFormer in eval mode, without its head, from a checkpoint or the folder of a run.

    weights: a file of the frozen backbone's, if it has moved since training.

        embeddings = load_model('runs/penn').embed('squat.mp4')        # (n, D), one a frame
    """
    checkpoint = load_checkpoint(path)
    settings = dict(checkpoint['settings'])
    if weights:
        settings['weights'] = str(weights)
    model = build_model(settings)
    load_trained(model, checkpoint, path)
    return model


if __name__ == '__main__':
    from running.counting import main    # late: it imports this file
    main()
