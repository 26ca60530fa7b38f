"""Pre-train a tiny backbone on frames of the drawn sets: no labels, no masks, other seeds.

'painter' makes assets/tiny_vit.pt: an autoencoder of what moves, by two frames of one video. The
ViT reads frame B in random twelfths of its patches, each alone (He et al., 2022). Three learned
queries pool the patch tokens, and a small decoder paints B from these three vectors and from frame
A, which it is given whole (Gupta et al., 2023). Scene and colours can be copied from A, so the
pooled tokens must say what has moved, and as no twelfth sees the whole, the tokens of the actor's
own patches must say it. Afterwards the CLS token alone tells a second painter what moved, while the
patch tokens are held where they are.

'local' makes assets/tiny_local.pt, nearer to what DINO's backbone learns: half of the patches are
hidden, and every token tells the histogram of oriented gradients of its own neighbourhood (Wei et
al., 2022); CLS tells two crops of a frame from those of other videos.

In both, colours are changed at random for the ViT alone, so that clothes and light matter little.

    python experiments/pretrain_tiny.py
    python experiments/pretrain_tiny.py --how local --scenes garden,present --seeds 1 --each 100

Each takes a quarter of an hour or less on 2 CPU cores.
"""
import argparse
import copy
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))
from backbones.tiny import TINY
from data import center, normalise
from datasets.synthetic import synthetic
from experiment import SCENES
from mtf import Block


# ----------------------------------------------------------------------------------------------
# Frames, and what is done to them

def videos_of(scenes, seeds, each, length):
    """`length` frames of `each` videos of every scene, seed, action -> (V, length, 3, 64, 64)."""
    videos = []
    for scene in scenes:
        for seed in seeds:
            for video in synthetic(seed, each, 0, SCENES[scene])['train']:
                chosen = torch.linspace(0, video.frames - 1, length).round()
                videos.append(video.read(chosen))
    return torch.stack(videos)


def crop(images, size, scale=.6):
    """A random crop and flip of each: uint8 (B, C, H, W) -> [0, 1] (B, C, size, size)."""
    b = len(images)
    area = torch.empty(b).uniform_(scale, 1)
    ratio = torch.empty(b).uniform_(-.2, .2).exp()
    h = (area / ratio).sqrt().clamp(max=1)
    w = (area * ratio).sqrt().clamp(max=1)
    x = (2 * torch.rand(b) - 1) * (1 - w)
    y = (2 * torch.rand(b) - 1) * (1 - h)
    flipped = torch.rand(b) < .5
    w = torch.where(flipped, -w, w)
    o = torch.zeros(b)
    rows = [torch.stack([w, o, x], -1), torch.stack([o, h, y], -1)]
    shape = (*images.shape[:2], size, size)
    grid = F.affine_grid(torch.stack(rows, 1), shape, align_corners=False)
    return F.grid_sample(images / 255, grid, align_corners=False, padding_mode='reflection')


def recolour(images):
    """Exchange the channels of most images; change brightness, contrast, saturation; normalise."""
    b = len(images)
    order = torch.where(torch.rand(b, 1) < .6, torch.rand(b, 3).argsort(1), torch.arange(3))
    order = repeat(order, 'b c -> b c h w', h=images.shape[2], w=images.shape[3])
    images = images.gather(1, order)
    brightness, contrast, saturation = torch.empty(3, b, 1, 1, 1).uniform_(.6, 1.4)
    images = images.mean((1, 2, 3), keepdim=True).lerp(images, contrast) * brightness
    images = images.mean(1, keepdim=True).lerp(images, saturation)
    return normalise(images.clamp(0, 1))


@torch.no_grad()
def rescale(vit, images, deviation):
    """Give the last block's patches of images (F, 3, S, S) this mean standard deviation: all that
    is added to the stream is scaled, which the blocks read through norms."""
    factor = deviation / vit(images).patches.flatten(0, 1).std(0).mean()
    adds = ('patch_embed', 'pos_embed', 'cls_token')
    for name, weight in vit.named_parameters():
        if name.startswith(adds) or '.attn.proj.' in name or '.mlp.fc2.' in name:
            weight *= factor


def fit(weights, loss_of, steps, lr):
    """Minimise loss_of() -> (loss, numbers to print) by AdamW with a warm-up and a cosine."""
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=(.9, .95), weight_decay=.03)
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group['lr'] = lr * min(step / 100, .5 * (1 + math.cos(math.pi * step / steps)))
        loss, numbers = loss_of()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 3.)
        optimizer.step()
        if step % 50 == 0:
            print(f'step {step}', *(f'{number.item():.4f}' for number in numbers), flush=True)


# ----------------------------------------------------------------------------------------------
# 'painter'

def read_in_groups(vit, images, groups):
    """images (B, 3, S, S) -> patches (B, P, C), in random order, read in `groups` that see only
    themselves."""
    cls, tokens = vit.tokens(images).split([1, vit.grid ** 2], 1)
    order = torch.rand(tokens.shape[:2]).argsort(1)
    tokens = tokens.gather(1, repeat(order, 'b p -> b p c', c=vit.width))
    tokens = rearrange(tokens, 'b (g p) c -> (b g) p c', g=groups)
    tokens = torch.cat([repeat(cls, 'b 1 c -> (b g) 1 c', g=groups), tokens], 1)
    for block in vit.blocks:
        tokens = block(tokens)
    return rearrange(tokens[:, 1:], '(b g) p c -> b (g p) c', g=groups)


class Painter(nn.Module):
    """A in patches (B, P, 3*p*p) and what is said of B (B, N, C) -> B - A in patches."""

    def __init__(self, channels, patches, pixels, said=3, width=96):
        super().__init__()
        self.query = nn.Parameter(torch.randn(said, channels) * .02)
        self.key = nn.Linear(channels, channels)
        self.said = nn.Linear(channels, width)
        self.pixels = nn.Linear(pixels, width)
        self.place = nn.Parameter(torch.randn(1, said + patches, width) * .02)
        self.blocks = nn.Sequential(
            Block(width, 4, 2 * width), Block(width, 4, 2 * width), nn.LayerNorm(width))
        self.out = nn.Linear(width, pixels)
        nn.init.zeros_(self.out.weight)

    def pool(self, tokens):
        """Patch tokens (B, P, C) -> what they say together, (B, N, C)."""
        logits = torch.einsum('q c, b p c -> b q p', self.query, self.key(tokens))
        return logits.softmax(-1) @ tokens

    def forward(self, a, said):
        x = torch.cat([self.said(said), self.pixels(a)], 1) + self.place
        return self.out(self.blocks(x)[:, len(self.query):])


def paint(vit, videos, said, read, steps, lr, batch=64):
    """Train the ViT and a painter; read(painter, B) -> what it is told (B, said, C), a penalty."""
    p = vit.patch_size
    painter = Painter(vit.width, vit.grid ** 2, 3 * p ** 2, said)

    def in_patches(images):
        return rearrange(images, 'b c (y h) (x w) -> b (y x) (c h w)', h=p, w=p)

    def loss_of():
        which = torch.randint(len(videos), (batch,))
        when = torch.rand(batch, videos.shape[1]).argsort(1)[:, :2]
        pair = torch.cat([videos[which, when[:, 0]], videos[which, when[:, 1]]], 1)
        a, b = crop(pair, vit.image_size).chunk(2, 1)                 # the same crop of both
        with torch.autocast('cpu', dtype=torch.bfloat16):
            what, penalty = read(painter, recolour(b))
            a = in_patches(normalise(a))
            b = in_patches(normalise(b))
            painted = painter(a, what).float()
        wrong = (painted - (b - a)).square().mean()
        moved = (b - a).square().mean()
        return wrong + penalty, (wrong, moved)

    fit([*vit.parameters(), *painter.parameters()], loss_of, steps, lr)


def train_by_painting(vit, videos, args):
    """Printed: the painting's error, and that of copying A."""
    def patches_speak(painter, images):
        tokens = read_in_groups(vit, images, groups=12)
        # a little against one loud channel, "here is the actor", that would drown the pose
        return painter.pool(tokens), 1e-5 * tokens.float().square().mean()

    paint(vit, videos, 3, patches_speak, args.steps, args.lr)
    before = copy.deepcopy(vit).requires_grad_(False)

    def cls_speaks(painter, images):
        tokens = vit.tokens(images)
        held = before.tokens(images)
        for block, old in zip(vit.blocks, before.blocks):
            tokens = block(tokens)
            held = old(held)
        held = held[:, 1:].float()
        moved = (tokens[:, 1:].float() - held).square().mean() / held.var()
        return vit.norm(tokens[:, :1]), moved

    paint(vit, videos, 1, cls_speaks, args.steps // 2, lr=1e-3)


# ----------------------------------------------------------------------------------------------
# 'local'

def oriented_gradients(images, cell, bins=9):
    """images (B, 3, S, S) -> histograms of the unsigned gradient directions of a patch and of its
    eight neighbours (B, P, 9 * bins), divided by the mean length of the histograms around."""
    grey = images.mean(1, keepdim=True)
    dx = F.pad(grey[..., 2:] - grey[..., :-2], (1, 1))
    dy = F.pad(grey[..., 2:, :] - grey[..., :-2, :], (0, 0, 1, 1))
    strength = (dx ** 2 + dy ** 2).sqrt()
    angle = torch.atan2(dy, dx) % math.pi / math.pi * bins            # 0 .. bins
    low = angle.floor()
    share = angle - low                                               # of the next bin
    low = low.long() % bins
    histogram = torch.zeros(len(images), bins, *images.shape[2:])
    histogram.scatter_add_(1, low, strength * (1 - share))
    histogram.scatter_add_(1, (low + 1) % bins, strength * share)
    histogram = F.avg_pool2d(histogram, cell)                         # (B, bins, rows, columns)
    energy = histogram.square().sum(1, keepdim=True)
    histogram = histogram / (F.avg_pool2d(energy, 3, 1, 1).sqrt() + .02)
    return rearrange(F.unfold(histogram, 3, padding=1), 'b k p -> b p k')


def train_locally(vit, videos, args, batch=32):
    """Printed: the error of the histograms, relative to their variance; the loss of CLS."""
    hidden = nn.Parameter(torch.randn(vit.width) * .02)
    tell = nn.Linear(vit.width, 81)
    project = nn.Sequential(nn.Linear(vit.width, 128), nn.ReLU(), nn.Linear(128, 64))

    def loss_of():
        which = torch.randperm(len(videos))[:batch]
        frames = videos[which, torch.randint(videos.shape[1], (batch,))]
        images = torch.cat([crop(frames, vit.image_size), crop(frames, vit.image_size)])
        target = oriented_gradients(images, vit.patch_size)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            tokens = vit.tokens(recolour(images))
            hide = torch.rand(tokens.shape[:2]) < .5
            hide[:, 0] = False                                        # CLS
            blank = (hidden + vit.pos_embed).to(tokens.dtype)
            tokens = torch.where(hide[..., None], blank, tokens)
            for block in vit.blocks:
                tokens = block(tokens, **vit.block_arguments(images))
            tokens = vit.norm(tokens)
            told = tell(tokens[:, 1:]).float()
            cls = F.normalize(project(tokens[:, 0]).float(), dim=-1)
        wrong = (told - target).square().mean() / target.var()
        one, other = cls.chunk(2)
        logits = one @ other.T / .1
        which = torch.arange(batch)
        apart = (F.cross_entropy(logits, which) + F.cross_entropy(logits.T, which)) / 2
        return wrong + .1 * apart, (wrong, apart)

    weights = [hidden, *vit.parameters(), *tell.parameters(), *project.parameters()]
    fit(weights, loss_of, args.steps, args.lr)


# what is trained, how, and the deviation of its features: the larger, the sooner LSTP grows sharp
METHODS = {
    'painter': ('tiny', train_by_painting, 5),
    'local': ('tiny_local', train_locally, 12.5),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--how', default='painter', choices=list(METHODS))
    parser.add_argument('--scenes', default='present', help=f'of {",".join(SCENES)}')
    parser.add_argument('--out', type=Path, help='else its own file in assets/')
    parser.add_argument('--steps', type=int, default=600)
    parser.add_argument('--lr', type=float, default=1.5e-3)
    parser.add_argument('--seeds', type=int, default=6, help='1000, 1001, ... of the generator')
    parser.add_argument('--each', type=int, default=60, help='videos of an action and a seed')
    args = parser.parse_args()
    torch.manual_seed(0)
    seeds = range(1000, 1000 + args.seeds)
    videos = videos_of(args.scenes.split(','), seeds, args.each, length=16)
    print(f'{len(videos)} videos of {videos.shape[1]} frames drawn', flush=True)
    name, train, deviation = METHODS[args.how]
    row = TINY[name]
    vit = row.make([row.layers])
    train(vit, videos, args)
    rescale(vit.eval(), center(videos[::9, 0], vit.image_size), deviation)
    weights = {key: weight.half() for key, weight in vit.state_dict().items()}
    torch.save(weights, args.out or row.weights)


if __name__ == '__main__':
    main()
