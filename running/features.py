"""ours: the frozen backbone sees the videos before training, which reads from disk what it said.

Before the first step of `train.py --versions K` the backbone sees each video as it is, and each
training video in K augmented versions, of one draw each. Training takes the two views of a video,
at time stamps drawn as ever, from two versions; evaluation takes the video as it is. Steps need no
pixels then, but a video has K looks for ever, not new ones each time.

    FOLDER/key.txt       what the features are of: weights, layers, pixels, augmentation, videos
    FOLDER/NAME.k        the video as it is, k = 0, or its k-th version: float16 (n, 1, P + 1, L*C),
                         as if pictures of one channel: P patches, then a row with CLS (else 0)
"""
import copy
import zlib
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from timeit import timeit

import numpy as np
import torch
from tqdm import tqdm

import data
from backbones.weights import fingerprint
from evaluation.embedding import file_names
from model import Features
from running.errors import UserError
from running.processes import all_gather, print_rank0, rank0_first, wait_for_all
from running.record import lock_folder, whole_file


class SeenVideo(data.Video):
    """A video whose features lie in `files`, of version k every `steps[k]`-th frame's, each of the
    `shape` of a packed frame; `read` still gives its pixels, for pictures of it."""

    def features(self, version, indices):
        """Packed frames, float16 (n, 1, P + 1, L*C). Errors: UserError, OSError."""
        if not self.files[version].exists():
            for _ in super().parts():                     # says what is wrong with the video
                pass
        rows = np.memmap(self.files[version], np.float16, 'r').reshape(-1, *self.shape)
        return torch.from_numpy(rows[np.asarray(indices) // self.steps[version]])

    def read_views(self, rng, time):
        """time (views, T) -> packed frames (views * T, ...), each view from another version."""
        versions = 1 + rng.permutation(len(self.files) - 1)
        return torch.cat(list(map(self.features, np.resize(versions, len(time)), time)))

    def parts(self, size=64, step=1):
        for part in torch.arange(0, self.frames, step).split(size):
            yield self.features(0, part)


def see(model, videos, folder, versions, strength, *, longest=0, device='cpu', rank=0, world=1):
    """{'train': [Video], 'val': [Video]} -> the same of SeenVideo, which the model then takes. Each
    process makes its share of what the folder lacks. strength: options of data.augment; longest:
    that of data.Clips, which reads no other frames of a version. Errors: UserError, OSError."""
    backbone = model.backbone
    take_packed(backbone)
    distinct = list(dict.fromkeys(videos['train'] + videos['val']))
    key = dict(weights=fingerprint(backbone), layers=getattr(backbone, 'layers', None),
               pixels=backbone.image_size, precision=next(backbone.parameters()).dtype,
               augmentation=strength, longest=longest, videos=list(map(identity, distinct)))
    with rank0_first():
        check_key(Path(folder, 'key.txt'), key)
    seen = {}
    frames = 0                                                    # to be seen yet
    for video, name, (_, length, _) in zip(distinct, file_names(distinct), key['videos']):
        seen[video] = one = copy.copy(video)
        one.__class__ = SeenVideo
        one.shape = 1, backbone.grid ** 2 + 1, backbone.channels
        last = versions if video in videos['train'] else 0
        one.files = [Path(folder, f'{name}.{k}') for k in range(last + 1)]
        one.steps = [1] + last * [data.thinning(length, longest)]
        one.lacks = [k for k, file in enumerate(one.files) if not file.exists()]
        frames += sum(len(range(0, length, one.steps[k])) for k in one.lacks)
    if any(all_gather(frames)):                                   # all have looked by now
        announce(backbone, frames, folder, device, world)
        lacking = [one for one in seen.values() if one.lacks]
        with lock_folder(Path(folder)) if rank == 0 else nullcontext():
            wait_for_all()                                        # until the folder is ours
            for one in tqdm(lacking[rank::world], 'backbone', unit='video', disable=None):
                with suppress(UserError):                         # training and evaluation say it
                    make(one, backbone, strength, device)
            wait_for_all()
    return {split: list(map(seen.get, videos[split])) for split in videos}


def take_packed(backbone):
    """Let a backbone take packed frames (F, 1, P + 1, L*C), too."""
    class Either(type(backbone)):
        def forward(self, frames):
            if frames.shape[1] == 3:
                return super().forward(frames)
            return Features(frames[:, 0, :-1], frames[:, 0, -1, :self.width])
    backbone.__class__ = Either


def identity(video):
    """What tells a video from others: name, number of frames, checksum of three of them."""
    try:
        n = video.frames
        return [video.name, n, zlib.crc32(video.read([0, n // 2, n - 1]).numpy())]
    except UserError:
        return [video.name, 0, 0]


def check_key(path, key):
    """Write the key of a new folder, or refuse features of something else. Errors: UserError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f'{name}: {value}' for name, value in key.items()]
    if not path.exists():
        with whole_file(path) as file:
            file.write('\n'.join(lines).encode())
    known = path.read_text(encoding='utf-8').splitlines()
    other = [line.split(':')[0] for line in lines if line not in known]
    if other:
        raise UserError(f'{path.parent}: holds features of other {", ".join(other)}; '
                        f'begin anew by --fresh, or give another --features')


def announce(backbone, frames, folder, device, world):
    images = torch.zeros(32, 3, backbone.image_size, backbone.image_size, device=device)
    size = frames * look(backbone, images)[0].nbytes / 1e9        # the first call prepares
    minutes = timeit(partial(look, backbone, images), number=1) / 32 * frames / world / 60
    print_rank0(f'{folder}: the backbone sees {frames:,} frames, once: {minutes:.1f} minutes or '
                f'more, {size:.2f} GB of features', flush=True)


@torch.inference_mode()
def look(backbone, images):
    """Normalised images (F, 3, S, S) -> packed frames (F, 1, P + 1, L*C), float16 on the CPU."""
    patches, cls = backbone(images.to(next(backbone.parameters()).dtype))
    row = torch.zeros_like(patches[:, :1])
    if cls is not None:
        row[:, 0, :backbone.width] = cls
    return torch.cat([patches, row], 1)[:, None].half().cpu()


def make(video, backbone, strength, device):
    """Write the features that a video lacks. Errors: UserError, OSError."""
    for version in video.lacks:
        seed = zlib.crc32(f'{video.name} {version}'.encode())
        prepare = partial(data.augment, seed=seed, **strength) if version else data.center
        with whole_file(video.files[version]) as out:
            for frames in data.Video.parts(video, 32, video.steps[version]):
                images = prepare(frames.to(device), size=backbone.image_size)
                out.write(look(backbone, images).numpy().data)
