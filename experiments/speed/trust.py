"""What a fast form must not change: half precision beside float32, the memory of long videos."""
from functools import partial

import torch

import data
from evaluation.embedding import embed_splits
from loss import scl
from speed.measure import DEVICE, autocast, bytes_needed, row, seconds, size, span
from speed.training import batch_of, made_videos, prepared

GPU_MEMORY = 24e9    # of a card that people have


def precision(sizes):
    """bfloat16 beside float32, on the same weights and the same batch."""
    row('bfloat16 beside float32', 'float32', 'bfloat16', 'difference')
    for dataset, changes in sizes.steps:
        s, model = prepared(dataset, **changes)
        batch = batch_of(s, made_videos(sizes, s))
        clips = data.views(batch, s.image_size, DEVICE)
        images = clips[0, 0]                                          # (T, 3, S, S)
        features = {}
        losses = {}
        for dtype in (torch.float32, torch.bfloat16):
            model.backbone.to(dtype)
            with torch.no_grad():
                features[dtype] = model.features(images).patches.float()
            losses[dtype] = loss_of(model, s, clips, batch, dtype)
        whole, half = features.values()
        error = (half - whole).norm() / whole.norm()
        row(f'  {s.backbone}: norm of the features', f'{whole.norm():.4g}', f'{half.norm():.4g}',
            f'{error:.1e}')
        whole, half = losses.values()
        row(f'  {s.backbone}: SCL', f'{whole:.4f}', f'{half:.4f}', f'{abs(half / whole - 1):.1e}')


@torch.no_grad()
def loss_of(model, s, clips, batch, dtype):
    torch.manual_seed(0)                                              # the same dropout
    valid = batch['valid'].to(DEVICE)
    with autocast(dtype):
        z = model(clips.flatten(0, 1), valid.flatten(0, 1), project=True)
    z = z.unflatten(0, (-1, 2))                                       # (B, 2, T, D)
    return scl(z, batch['time'].to(DEVICE), batch['length'].to(DEVICE), valid).item()


# --------------------------------------------------------------------------------------------------
# Long videos

def long_video(sizes):
    """A long video through the whole model, as evaluation does it: what it takes and needs."""
    dataset, changes = sizes.steps[0]
    s, model = prepared(dataset, **changes)
    model.eval()
    scene = torch.randint(0, 256, (64, 3, s.image_size, s.image_size), dtype=torch.uint8)

    def decode(indices):
        for i in indices:
            yield scene[i % 64]

    video = data.Video('long', partial(int, sizes.long), decode)
    took = []
    embed = partial(embed_splits, {'': model}, {'val': [video]},
                    dict(dataset='synthetic', workers=0), thin=False)
    needed = bytes_needed(lambda: took.append(seconds(embed)))
    row('long video', 'time', 'frames/s', 'memory', 'of 24 GB')
    row(f'  {s.backbone}, {sizes.long} frames', span(took[0]), f'{sizes.long / took[0]:.1f}',
        size(needed), f'{needed / GPU_MEMORY:.1%}')
