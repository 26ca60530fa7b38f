"""Pre-train the tiny backbone, assets/tiny_vit.pt, on the synthetic set's pixels: no labels, no masks, other seeds.

An autoencoder of what moves, by two frames of one video. The ViT reads frame B in random twelfths of its patches, each
alone, as a masked autoencoder does (He et al., 2022). Three learned queries pool all the patch tokens, and a small
decoder paints B from these three vectors and from frame A, which it is given whole (as Gupta et al., 2023). The scene
and the colours are there to copy from A, so what the pooled tokens must say is what has moved: the pose. And as no
twelfth sees the whole, the tokens of the actor's own patches must say it. B's colours are changed at random for the ViT
alone, so that clothes and light matter little.

A small penalty on the tokens' size keeps one loud channel, "here is the actor", from drowning the pose: without it
LSTP finds the actor at once, and training then stays at the clock's level.

Afterwards the CLS token learns to speak for a frame, as DINO's does: it alone tells a second painter what moved, while
the patch tokens are held where they are.

    python tests/pretrain_tiny.py           a quarter of an hour on 2 CPU cores
"""
import argparse
import copy
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))
from data import center, normalise
from datasets.synthetic import ACTIONS, Act
from model import BACKBONES
from mtf import Block


def videos_of(seeds, each, length=16):
    """`length` frames, evenly spaced, of `each` videos of every action and seed -> uint8 (V, length, 3, 64, 64)."""
    videos = []
    for seed in seeds:
        for number, action in enumerate(ACTIONS):
            for k in range(each):
                act = Act(action, (seed, 0, number, k))
                chosen = torch.linspace(0, act.count() - 1, length).round().long().numpy()
                videos.append(torch.stack(list(act.decode(chosen))))                   # draws no other frame
    return torch.stack(videos)


def crop(images, size, scale=.6):
    """uint8 (B, C, H, W) -> one random crop and flip each, the same for all channels, float (B, C, S, S) in [0, 1]."""
    b = len(images)
    area, ratio = torch.empty(b).uniform_(scale, 1), torch.empty(b).uniform_(-.2, .2).exp()
    h, w = (area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1)
    x, y = (2 * torch.rand(b) - 1) * (1 - w), (2 * torch.rand(b) - 1) * (1 - h)
    w = w * (2 * (torch.rand(b) < .5) - 1)                                             # negative: flipped
    o = torch.zeros(b)
    where = torch.stack([torch.stack([w, o, x], -1), torch.stack([o, h, y], -1)], 1)   # (B, 2, 3)
    grid = F.affine_grid(where, (*images.shape[:2], size, size), align_corners=False)
    return F.grid_sample(images.float() / 255, grid, align_corners=False, padding_mode='reflection')


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
    """images (B, 3, S, S) -> patches (B, P, C) in random order, read in `groups`, each of which sees only itself."""
    cls, tokens = vit.tokens(images).split([1, vit.grid ** 2], 1)
    order = torch.rand(tokens.shape[:2]).argsort(1)
    tokens = tokens.gather(1, repeat(order, 'b p -> b p c', c=vit.width))
    tokens = rearrange(tokens, 'b (g p) c -> (b g) p c', g=groups)
    tokens = torch.cat([repeat(cls, 'b 1 c -> (b g) 1 c', g=groups), tokens], 1)
    for block in vit.blocks:
        tokens = block(tokens)
    return rearrange(tokens[:, 1:], '(b g) p c -> b (g p) c', g=groups)


@torch.no_grad()
def scale(vit, images):
    """Give the last block's patches of images (F, 3, S, S) a standard deviation of 5, the mean over the channels.

    All that is added to the stream is scaled; the blocks read it through norms, so nothing else changes. The larger the
    features, the sooner LSTP's softmax grows sharp."""
    factor = 5 / vit(images).patches.flatten(0, 1).std(0).mean()
    for name, weight in vit.named_parameters():
        if name.startswith(('patch_embed', 'pos_embed', 'cls_token')) or '.attn.proj.' in name or '.mlp.fc2.' in name:
            weight *= factor


class Painter(nn.Module):
    """A cut in patches (B, P, 3*p*p) and what is said of B (B, N, C) -> B - A cut in patches, (B, P, 3*p*p)."""

    def __init__(self, channels, patches, pixels, said=3, width=96):
        super().__init__()
        self.query, self.key = nn.Parameter(torch.randn(said, channels) * .02), nn.Linear(channels, channels)
        self.said, self.pixels = nn.Linear(channels, width), nn.Linear(pixels, width)
        self.place = nn.Parameter(torch.randn(1, said + patches, width) * .02)
        self.blocks = nn.Sequential(Block(width, 4, 2 * width), Block(width, 4, 2 * width), nn.LayerNorm(width))
        self.out = nn.Linear(width, pixels)
        nn.init.zeros_(self.out.weight)

    def pool(self, tokens):
        """Patch tokens (B, P, C) -> what they say together, (B, N, C)."""
        return torch.einsum('q c, b p c -> b q p', self.query, self.key(tokens)).softmax(-1) @ tokens

    def forward(self, a, said):
        x = torch.cat([self.said(said), self.pixels(a)], 1) + self.place
        return self.out(self.blocks(x)[:, len(self.query):])


def learn(vit, videos, said, read, steps, batch=64, lr=1.5e-3):
    """Train the ViT with a painter told `said` vectors of B; read(painter, B) -> those (B, said, C), more to pay."""
    size = vit.grid * vit.patch_size
    painter = Painter(vit.width, vit.grid ** 2, 3 * vit.patch_size ** 2, said)
    cut = lambda x: rearrange(x, 'b c (y h) (x w) -> b (y x) (c h w)', h=vit.patch_size, w=vit.patch_size)
    weights = [*vit.parameters(), *painter.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=(.9, .95), weight_decay=.03)
    start, told = time.time(), []
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group['lr'] = lr * min(step / 100, .5 * (1 + math.cos(math.pi * step / steps)))
        which = torch.randint(len(videos), (batch,))
        when = torch.rand(batch, videos.shape[1]).argsort(1)[:, :2]
        a, b = crop(torch.cat([videos[which, when[:, 0]], videos[which, when[:, 1]]], 1), size).chunk(2, 1)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            what, besides = read(painter, recolour(b))
            a, b = cut(normalise(a)), cut(normalise(b))
            painted = painter(a, what).float()
        wrong, moved = (painted - (b - a)).square().mean(), (b - a).square().mean()
        optimizer.zero_grad()
        (wrong + besides).backward()
        nn.utils.clip_grad_norm_(weights, 3.)
        optimizer.step()
        told.append((wrong.item(), moved.item()))
        if step % 50 == 0:
            wrong, moved = torch.tensor(told[-50:]).mean(0)
            print(f'step {step}  error {wrong:.4f}, {wrong / moved:.3f} of copying A  {time.time() - start:.0f} s',
                  flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default=BACKBONES['tiny'].weights)
    parser.add_argument('--steps', type=int, default=600)
    parser.add_argument('--cls-steps', type=int, default=300)
    parser.add_argument('--groups', type=int, default=12, help='of patches, each of which the ViT reads alone')
    parser.add_argument('--quiet', type=float, default=1e-5, help='weight of the mean square of the tokens')
    parser.add_argument('--seeds', type=int, default=6, help='seeds 1000, 1001, ... of the generator')
    args = parser.parse_args()
    torch.manual_seed(0)
    videos = videos_of(range(1000, 1000 + args.seeds), 60)
    print(f'{len(videos)} videos of {videos.shape[1]} frames drawn', flush=True)
    size = BACKBONES['tiny'].image_size
    vit = BACKBONES['tiny'].make(None)

    def patches_speak(painter, images):
        tokens = read_in_groups(vit, images, args.groups)
        return painter.pool(tokens), args.quiet * tokens.float().square().mean()

    def cls_speaks(painter, images):
        tokens, held = vit.tokens(images), before.tokens(images)
        for block, old in zip(vit.blocks, before.blocks):
            tokens, held = block(tokens), old(held)
        held = held[:, 1:].float()
        return vit.norm(tokens[:, :1]), (tokens[:, 1:].float() - held).square().mean() / held.var()

    learn(vit, videos, 3, patches_speak, args.steps)
    before = copy.deepcopy(vit).requires_grad_(False)
    learn(vit, videos, 1, cls_speaks, args.cls_steps, lr=1e-3)
    scale(vit.eval(), center(videos[::9, 0], size))
    torch.save({name: weight.half() for name, weight in vit.state_dict().items()}, args.out)


if __name__ == '__main__':
    main()
