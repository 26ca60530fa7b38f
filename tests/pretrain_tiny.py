"""Pre-train the tiny backbone, assets/tiny_vit.pt, on frames of the synthetic set: no labels, no masks, other seeds.

The student sees a third of the patches of a frame. From those a small decoder paints the hidden ones, as in masked
autoencoders (He et al., 2022), and its CLS token foretells what the teacher, its own moving average, says of another
crop of the whole frame, as in DINO (Caron et al., 2021; with a masked student: Assran et al., 2022). The teacher's
backbone is what is kept.

    python tests/pretrain_tiny.py
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
from data import ACTIONS, Act, normalise
from model import BACKBONES, ViT
from mtf import Block


def frames_of(seeds, each, stride):
    """Every `stride`-th frame of `each` videos of every action, of the generator's seeds -> uint8 (n, 3, 64, 64)."""
    acts = [Act(action, (seed, 0, number, k)) for seed in seeds for number, action in enumerate(ACTIONS)
            for k in range(each)]
    for act in acts:                                                 # draw no frame that is not kept
        act.poses, act.labels = act.poses[::stride], act.labels[::stride]
    return torch.cat([act.drawn[0] for act in acts])


def crop(images, scale):
    """uint8 (B, 3, S, S) -> one random crop, flip and colour change each, normalised float (B, 3, S, S)."""
    b = len(images)
    area, ratio = torch.empty(b).uniform_(scale, 1), torch.empty(b).uniform_(-.2, .2).exp()
    h, w = (area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1)
    x, y = (2 * torch.rand(b) - 1) * (1 - w), (2 * torch.rand(b) - 1) * (1 - h)
    w = w * (torch.rand(b) < .5).float().mul(2).sub(1)               # negative: flipped
    o = torch.zeros(b)
    where = torch.stack([torch.stack([w, o, x], -1), torch.stack([o, h, y], -1)], 1)              # (B, 2, 3)
    images = F.grid_sample(images.float() / 255, F.affine_grid(where, images.shape, align_corners=False),
                           align_corners=False, padding_mode='reflection')
    brightness, contrast, saturation = torch.empty(3, b, 1, 1, 1).uniform_(.6, 1.4)
    images = images.mean((1, 2, 3), keepdim=True).lerp(images, contrast) * brightness
    images = images.mean(1, keepdim=True).lerp(images, saturation)
    return normalise(images.clamp(0, 1))


class Student(nn.Module):
    def __init__(self, vit, width=64, classes=256):
        super().__init__()
        self.vit, patches = vit, vit.grid ** 2
        self.enter = nn.Linear(vit.width, width)
        self.hidden = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, 1 + patches, width) * .02)
        self.decoder = nn.Sequential(Block(width, 4, 4 * width), Block(width, 4, 4 * width), nn.LayerNorm(width),
                                     nn.Linear(width, 3 * vit.patch_size ** 2))
        self.head = nn.Sequential(nn.Linear(vit.width, 256), nn.GELU(), nn.Linear(256, 64))
        self.classes = nn.Parameter(F.normalize(torch.randn(classes, 64), dim=-1))

    def say(self, cls):
        """CLS (B, C) -> cosines with the classes (B, K)."""
        return F.normalize(self.head(cls), dim=-1) @ F.normalize(self.classes, dim=-1).T

    def encode(self, images, keep):
        """Patches keep (B, k) of the images -> tokens (B, 1 + k, C) after the final norm, CLS first."""
        x = self.vit.tokens(images)
        x = torch.cat([x[:, :1], x[:, 1:].gather(1, repeat(keep, 'b k -> b k c', c=x.shape[-1]))], 1)
        for block in self.vit.blocks:
            x = block(x)
        return self.vit.norm(x)

    def paint(self, x, keep):
        """Tokens (B, 1 + k, C) -> all patches (B, P, 3*8*8) as the decoder imagines them."""
        x = self.enter(x)
        full = self.hidden.expand(len(x), self.place.shape[1] - 1, -1)
        full = full.scatter(1, repeat(keep, 'b k -> b k c', c=x.shape[-1]), x[:, 1:])
        return self.decoder(torch.cat([x[:, :1], full], 1) + self.place)[:, 1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default=BACKBONES['tiny'][3])
    parser.add_argument('--steps', type=int, default=4000)
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--keep', type=float, default=.34, help='share of the patches that the student sees')
    parser.add_argument('--distil', type=float, default=.1, help='weight of the CLS loss')
    parser.add_argument('--scale', type=float, default=.5, help='smallest crop, as a share of the area')
    parser.add_argument('--seeds', type=int, default=8, help='seeds 1000, 1001, ... of the generator')
    parser.add_argument('--save-every', type=int, default=500)
    args = parser.parse_args()
    torch.manual_seed(0)
    start = time.time()
    frames = frames_of(range(1000, 1000 + args.seeds), 100, 4)
    print(f'{len(frames)} frames drawn in {time.time() - start:.0f} s', flush=True)

    student = Student(ViT(image_size=64, **BACKBONES['tiny'][1]))
    teacher = copy.deepcopy(student).requires_grad_(False)
    decay = [w for w in student.parameters() if w.dim() == 2]
    rest = [w for w in student.parameters() if w.dim() != 2]
    optimizer = torch.optim.AdamW([dict(params=decay, weight_decay=.05), dict(params=rest, weight_decay=0.)],
                                  lr=args.lr, betas=(.9, .95))
    center = torch.zeros(1, len(student.classes))
    patches, kept = student.vit.grid ** 2, round(args.keep * student.vit.grid ** 2)
    start = time.time()
    for step in range(1, args.steps + 1):
        done = step / args.steps
        for group in optimizer.param_groups:
            group['lr'] = args.lr * min(step / 200, .5 * (1 + math.cos(math.pi * done)))
        images = frames[torch.randint(len(frames), (args.batch,))]
        seen, other = crop(images, args.scale), crop(images, args.scale)

        order = torch.rand(args.batch, patches).argsort(1)
        keep, hide = order[:, :kept], order[:, kept:]
        tokens = student.encode(seen, keep)
        target = rearrange(seen, 'b c (y h) (x w) -> b (y x) (c h w)', h=student.vit.patch_size, w=student.vit.patch_size)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + .02).sqrt() \
            + target.mean(-1, keepdim=True)
        wrong = (student.paint(tokens, keep) - target).square().mean(-1)                           # (B, P)
        paint = wrong.gather(1, hide).mean()

        with torch.no_grad():
            said = teacher.say(teacher.vit(other).cls)
            goal = ((said - center) / .04).softmax(-1)
            center.lerp_(said.mean(0, keepdim=True), .1)
        distil = -(goal * (student.say(tokens[:, 0]) / .1).log_softmax(-1)).sum(-1).mean()

        optimizer.zero_grad()
        (paint + args.distil * distil).backward()
        nn.utils.clip_grad_norm_(student.parameters(), 3.)
        optimizer.step()
        momentum = 1 - (1 - .996) * .5 * (1 + math.cos(math.pi * done))
        with torch.no_grad():
            for old, new in zip(teacher.parameters(), student.parameters()):
                old.lerp_(new, 1 - momentum)
        if step % 100 == 0:
            spread = -(goal.mean(0) * goal.mean(0).clamp(min=1e-9).log()).sum()
            print(f'step {step}  paint {paint.item():.4f}  distil {distil.item():.3f}  classes used {spread.exp().item():.0f}'
                  f'  {time.time() - start:.0f} s', flush=True)
        if step % args.save_every == 0 or step == args.steps:
            torch.save({name: weight.half() for name, weight in teacher.vit.state_dict().items()}, args.out)


if __name__ == '__main__':
    main()
