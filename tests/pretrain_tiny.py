"""Pre-train the tiny backbone, assets/tiny_vit.pt, on the synthetic set's pixels: no labels, no masks, other seeds.

A masked autoencoder (He et al., 2022) on two frames of a video (as Gupta et al., 2023): given all of frame A, a small
decoder paints the patches of frame B that were hidden from the ViT, which saw a third of B. The scene is there to copy
from A, so what the ViT says of B is what has moved: the pose. It sees B twice, its colours changed each time anew, and
is asked to say the same of both.

    python tests/pretrain_tiny.py
"""
import argparse
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
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


def pick(tokens, keep):
    """Tokens (B, 1+P, C), CLS first -> CLS and the patches keep (B, k): (B, 1+k, C)."""
    return torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, repeat(keep, 'b k -> b k c', c=tokens.shape[-1]))], 1)


class Painter(nn.Module):
    """Pixels of A (B, P, 3*8*8) and tokens of B (B, 1+k, C) at CLS and patches keep (B, k) -> B - A, (B, P, 3*8*8)."""

    def __init__(self, channels, patches, pixels, width=96):
        super().__init__()
        self.pixels, self.tokens = nn.Linear(pixels, width), nn.Linear(channels, width)
        self.place = nn.Parameter(torch.randn(1, 1 + patches, width) * .02)
        self.blocks = nn.Sequential(Block(width, 4, 2 * width), Block(width, 4, 2 * width), nn.LayerNorm(width))
        self.out = nn.Linear(width, pixels)
        nn.init.zeros_(self.out.weight)

    def forward(self, a, tokens, keep):
        place = self.place.expand(len(a), -1, -1)
        x = torch.cat([self.pixels(a) + place[:, 1:], self.tokens(tokens) + pick(place, keep)], 1)
        return self.out(self.blocks(x)[:, :a.shape[1]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default=BACKBONES['tiny'][3])
    parser.add_argument('--steps', type=int, default=2000)
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--lr', type=float, default=1.5e-3)
    parser.add_argument('--seen', type=float, default=.34, help='share of the patches of B that the ViT sees')
    parser.add_argument('--agree', type=float, default=.1, help='weight of the agreement between two colourings')
    parser.add_argument('--seeds', type=int, default=6, help='seeds 1000, 1001, ... of the generator')
    args = parser.parse_args()
    torch.manual_seed(0)
    videos = videos_of(range(1000, 1000 + args.seeds), 60)
    print(f'{len(videos)} videos of {videos.shape[1]} frames drawn', flush=True)

    vit = ViT(image_size=64, **BACKBONES['tiny'][1])
    side, patches = vit.patch_size, vit.grid ** 2
    painter = Painter(vit.width, patches, 3 * side ** 2)
    cut = lambda x: rearrange(x, 'b c (y h) (x w) -> b (y x) (c h w)', h=side, w=side)
    weights = [*vit.parameters(), *painter.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=args.lr, betas=(.9, .95), weight_decay=.03)
    start, told = time.time(), []
    for step in range(1, args.steps + 1):
        for group in optimizer.param_groups:
            group['lr'] = args.lr * min(step / 100, .5 * (1 + math.cos(math.pi * step / args.steps)))
        which = torch.randint(len(videos), (args.batch,))
        when = torch.rand(args.batch, videos.shape[1]).argsort(1)[:, :2]
        a, b = crop(torch.cat([videos[which, when[:, 0]], videos[which, when[:, 1]]], 1)).chunk(2, 1)
        order = torch.rand(args.batch, patches).argsort(1).repeat(2, 1)
        keep, hidden = order[:, :round(args.seen * patches)], order[:, round(args.seen * patches):]

        with torch.autocast('cpu', dtype=torch.bfloat16):
            tokens, agree = pick(vit.tokens(torch.cat([recolour(b), recolour(b)])), keep), 0.
            for number, block in enumerate(vit.blocks):
                tokens = block(tokens)                                                 # (2B, 1+k, C)
                if number:
                    one, two = tokens.float().chunk(2)
                    spread = tokens.detach().float().var((0, 1))
                    agree = agree + ((one - two).square() / (2 * spread + 1e-4)).mean() / (len(vit.blocks) - 1)
            a, b = cut(normalise(a)).repeat(2, 1, 1), cut(normalise(b)).repeat(2, 1, 1)
            painted = painter(a, vit.norm(tokens), keep).float()
        wrong, moved = ((x - b + a).square().mean(-1).gather(1, hidden).mean() for x in (painted, torch.zeros(())))

        optimizer.zero_grad()
        (wrong + args.agree * agree).backward()
        nn.utils.clip_grad_norm_(weights, 3.)
        optimizer.step()
        told.append((wrong.detach(), moved, agree.detach()))
        if step % 50 == 0:
            wrong, moved, agree = torch.tensor(told[-50:]).mean(0)
            print(f'step {step}  error {wrong:.4f}, {wrong / moved:.3f} of copying A  disagreement {agree:.3f}'
                  f'  {time.time() - start:.0f} s', flush=True)
        if step % 200 == 0 or step == args.steps:
            torch.save({name: weight.half() for name, weight in vit.state_dict().items()}, args.out)


if __name__ == '__main__':
    main()
