"""Pre-train the tiny backbone, assets/tiny_vit.pt, on the synthetic set's pixels: no labels, no masks, other seeds.

An autoencoder of what moves, by two frames of one video. The ViT reads frame B in random quarters of its patches, each
alone, as a masked autoencoder does (He et al., 2022). Three learned queries pool all the patch tokens, and a small
decoder paints B from these three vectors and from frame A, which it is given whole (as Gupta et al., 2023). The scene
and the colours are there to copy from A, so what the pooled tokens must say is what has moved: the pose. And as no
quarter sees the whole, the tokens of the actor's own patches must say it. B's colours are changed at random for the ViT
alone, so that clothes and light matter little. For a third of the images the CLS tokens' mean stands in for the three
vectors, so that CLS learns to speak for a frame as well.

    python tests/pretrain_tiny.py
"""
import argparse
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))
from data import ACTIONS, Act, normalise
from model import BACKBONES, ViT
from mtf import Block


def videos_of(seeds, each, length=16):
    """`length` frames, evenly spaced, of `each` videos of every action and seed -> uint8 (V, length, 3, 64, 64)."""
    videos = []
    for seed in seeds:
        for number, action in enumerate(ACTIONS):
            for k in range(each):
                act = Act(action, (seed, 0, number, k))
                chosen = torch.linspace(0, act.count() - 1, length).round().long().numpy()
                act.poses, act.labels = act.poses[chosen], act.labels[chosen]          # draw no frame that is not kept
                videos.append(act.drawn[0])
    return torch.stack(videos)


def crop(images, scale=.6):
    """uint8 (B, C, S, S) -> one random crop and flip each, the same for all channels, float in [0, 1]."""
    b = len(images)
    area, ratio = torch.empty(b).uniform_(scale, 1), torch.empty(b).uniform_(-.2, .2).exp()
    h, w = (area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1)
    x, y = (2 * torch.rand(b) - 1) * (1 - w), (2 * torch.rand(b) - 1) * (1 - h)
    w = w * (2 * (torch.rand(b) < .5) - 1)                                             # negative: flipped
    o = torch.zeros(b)
    where = torch.stack([torch.stack([w, o, x], -1), torch.stack([o, h, y], -1)], 1)   # (B, 2, 3)
    return F.grid_sample(images.float() / 255, F.affine_grid(where, images.shape, align_corners=False),
                         align_corners=False, padding_mode='reflection')


def recolour(images):
    """Exchange the colour channels of most images and change brightness, contrast and saturation; normalised."""
    b = len(images)
    order = torch.where(torch.rand(b, 1) < .6, torch.rand(b, 3).argsort(1), torch.arange(3))
    images = images.gather(1, repeat(order, 'b c -> b c h w', h=images.shape[2], w=images.shape[3]))
    brightness, contrast, saturation = torch.empty(3, b, 1, 1, 1).uniform_(.6, 1.4)
    images = images.mean((1, 2, 3), keepdim=True).lerp(images, contrast) * brightness
    images = images.mean(1, keepdim=True).lerp(images, saturation)
    return normalise(images.clamp(0, 1))


def read_in_groups(vit, images, groups):
    """images (B, 3, S, S) -> the groups' mean CLS (B, C), patches (B, P, C) in random order; a group sees only itself."""
    cls, tokens = vit.tokens(images).split([1, vit.grid ** 2], 1)
    order = torch.rand(tokens.shape[:2]).argsort(1)
    tokens = tokens.gather(1, repeat(order, 'b p -> b p c', c=vit.width))
    tokens = rearrange(tokens, 'b (g p) c -> (b g) p c', g=groups)
    tokens = torch.cat([repeat(cls, 'b 1 c -> (b g) 1 c', g=groups), tokens], 1)
    for block in vit.blocks:
        tokens = block(tokens)
    cls = reduce(vit.norm(tokens[:, 0]), '(b g) c -> b c', 'mean', g=groups)
    return cls, rearrange(tokens[:, 1:], '(b g) p c -> b (g p) c', g=groups)


class Painter(nn.Module):
    """Pixels of A (B, P, 3*8*8), CLS (B, C) and patches (B, P, C) of B -> pixels of B - A, (B, P, 3*8*8)."""

    def __init__(self, channels, patches, pixels, queries=3, width=96):
        super().__init__()
        self.query = nn.Parameter(torch.randn(queries, channels) * .02)
        self.key, self.value, self.cls = nn.Linear(channels, channels), nn.Linear(channels, width), nn.Linear(channels, width)
        self.pixels = nn.Linear(pixels, width)
        self.place = nn.Parameter(torch.randn(1, queries + patches, width) * .02)
        self.blocks = nn.Sequential(Block(width, 4, 2 * width), Block(width, 4, 2 * width), nn.LayerNorm(width))
        self.out = nn.Linear(width, pixels)
        nn.init.zeros_(self.out.weight)

    def forward(self, a, cls, tokens):
        attention = torch.einsum('q c, b p c -> b q p', self.query, self.key(tokens)).softmax(-1)
        by_cls = torch.rand(len(a), 1, 1) < 1 / 3
        said = torch.where(by_cls, self.cls(cls)[:, None], self.value(attention @ tokens))           # (B, queries, width)
        x = torch.cat([said, self.pixels(a)], 1) + self.place
        return self.out(self.blocks(x)[:, len(self.query):])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default=BACKBONES['tiny'][3])
    parser.add_argument('--steps', type=int, default=2000)
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--lr', type=float, default=1.5e-3)
    parser.add_argument('--groups', type=int, default=4, help='of patches, each of which the ViT reads alone')
    parser.add_argument('--seeds', type=int, default=6, help='seeds 1000, 1001, ... of the generator')
    args = parser.parse_args()
    torch.manual_seed(0)
    videos = videos_of(range(1000, 1000 + args.seeds), 60)
    print(f'{len(videos)} videos of {videos.shape[1]} frames drawn', flush=True)

    vit = ViT(image_size=64, **BACKBONES['tiny'][1])
    painter = Painter(vit.width, vit.grid ** 2, 3 * vit.patch_size ** 2)
    cut = lambda x: rearrange(x, 'b c (y h) (x w) -> b (y x) (c h w)', h=vit.patch_size, w=vit.patch_size)
    weights = [*vit.parameters(), *painter.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=args.lr, betas=(.9, .95), weight_decay=.03)
    start, told = time.time(), []
    for step in range(1, args.steps + 1):
        for group in optimizer.param_groups:
            group['lr'] = args.lr * min(step / 100, .5 * (1 + math.cos(math.pi * step / args.steps)))
        which = torch.randint(len(videos), (args.batch,))
        when = torch.rand(args.batch, videos.shape[1]).argsort(1)[:, :2]
        a, b = crop(torch.cat([videos[which, when[:, 0]], videos[which, when[:, 1]]], 1)).chunk(2, 1)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            tokens = read_in_groups(vit, recolour(b), args.groups)      # CLS, patches
            a, b = cut(normalise(a)), cut(normalise(b))
            painted = painter(a, *tokens).float()
        wrong, moved = (painted - (b - a)).square().mean(), (b - a).square().mean()
        optimizer.zero_grad()
        wrong.backward()
        nn.utils.clip_grad_norm_(weights, 3.)
        optimizer.step()
        told.append((wrong.item(), moved.item()))
        if step % 50 == 0:
            wrong, moved = torch.tensor(told[-50:]).mean(0)
            print(f'step {step}  error {wrong:.4f}, {wrong / moved:.3f} of copying A  {time.time() - start:.0f} s',
                  flush=True)
        if step % 200 == 0 or step == args.steps:
            torch.save({name: weight.half() for name, weight in vit.state_dict().items()}, args.out)


if __name__ == '__main__':
    main()
