"""ours: the frozen backbone sees each video once; training reads from disk what it said.

    python train.py --dataset folder --data DIR --versions 4

Before the first step the backbone sees each video as it is, and each training video in K augmented
versions, of one draw each. Training takes the two views of a video, at time stamps drawn as ever,
from two versions; evaluation takes the video as it is. Steps need no pixels then, but a video has K
looks for ever, not new ones each time.

    FOLDER/key.json      what the features are of: weights, layers, pixels, augmentation, videos
    FOLDER/NAME.k.npy    the video as it is, k = 0, or its k-th version: float16 (n, 1, P*L + 1, C),
                         of each frame the L features of P patches, then CLS (0 where there is none)

To all other files such a packed frame is a picture of one channel, and `Unpack` a backbone.
"""
import copy
import json
import os
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import nn
from tqdm import tqdm

import data
from backbones.weights import fingerprint
from evaluation.embedding import file_names
from model import Features
from running.errors import UserError
from running.processes import all_gather, print_rank0, rank0_first, wait_for_all
from running.record import lock_folder


class Unpack(nn.Module):
    """In the backbone's place: packed frames (F, 1, P*L + 1, C) -> Features. Pictures of three
    channels go through the backbone."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        for name in ('channels', 'width', 'image_size', 'patch_size', 'grid', 'gives_cls',
                     'attention_map'):
            if hasattr(backbone, name):
                setattr(self, name, getattr(backbone, name))

    def forward(self, frames):
        if frames.shape[1] == 3:
            return self.backbone(frames)
        layers = self.channels // self.width
        patches = rearrange(frames[:, 0, :-1], 'f (p l) c -> f p (l c)', l=layers)
        return Features(patches, frames[:, 0, -1])


class SeenVideo(data.Video):
    """A video whose features lie in `files`, of the versions every `step`-th frame's; `read` still
    gives its pixels, for pictures of it."""

    def features(self, version, indices):
        """Packed frames, float16 (n, 1, P*L + 1, C). Errors: UserError."""
        if not self.files[version].exists():
            for _ in super().parts():
                pass                                      # says what is wrong with the video
            raise UserError(f'{self.name}: its features are gone; the same command makes them')
        rows = np.load(self.files[version], mmap_mode='r')
        return torch.from_numpy(rows[np.asarray(indices) // (self.step if version else 1)])

    def views(self, rng, time):
        """time (views, T) -> packed frames (views * T, ...), each view from another version."""
        versions = 1 + rng.permutation(len(self.files) - 1)
        chosen = zip(np.resize(versions, len(time)), time)
        return torch.cat([self.features(version, view) for version, view in chosen])

    def parts(self, size=64, step=1):
        indices = range(0, self.frames, step)
        for start in range(0, len(indices), size):
            yield self.features(0, indices[start:start + size])


def see(model, videos, folder, versions, strength, *, longest=0, device='cpu', rank=0, world=1):
    """{'train': [Video], 'val': [Video]} -> the same of SeenVideo; puts `Unpack` into the model.
    Each process makes its share of what the folder lacks. strength: options of data.augment;
    longest: that of data.Clips, which reads no other frames of a version. Errors: UserError."""
    folder = Path(folder)
    backbone = model.backbone
    backbone.with_cls = True              # this model may not read it; others that share these may
    if torch.device(device).type == 'cpu' and torch.cpu._is_avx512_bf16_supported():
        backbone = copy.deepcopy(backbone).bfloat16()             # twice as fast there
    distinct = list(dict.fromkeys(videos['train'] + videos['val']))
    key = dict(weights=fingerprint(model.backbone), layers=getattr(backbone, 'layers', None),
               pixels=backbone.image_size, precision=str(next(backbone.parameters()).dtype),
               augmentation=strength, longest=longest, videos=list(map(identity, distinct)))
    with rank0_first():
        check_key(folder / 'key.json', key)
    jobs = []
    seen = {}
    frames = 0
    for video, name, (_, length, _) in zip(distinct, file_names(distinct), key['videos']):
        seen[video] = one = copy.copy(video)
        one.__class__ = SeenVideo
        one.step = data.thinning(length, longest)
        last = versions if video in videos['train'] else 0
        one.files = [folder / f'{name}.{k}.npy' for k in range(last + 1)]
        for k, file in enumerate(one.files):
            if not file.exists():
                step = one.step if k else 1
                jobs.append((video, k, step, file))
                frames += len(range(0, length, step))
    if any(all_gather(len(jobs))):                                # all have looked by now
        lock = lock_folder(folder) if rank == 0 else None
        announce(backbone, frames, folder, device, world)
        for job in tqdm(jobs[rank::world], 'backbone', unit='video', disable=None):
            make(backbone, *job, strength, device)
        wait_for_all()
        del lock
    model.backbone = Unpack(model.backbone)
    return {split: list(map(seen.get, videos[split])) for split in videos}


def identity(video):
    """What tells a video from others: name, number of frames, checksum of three of them."""
    try:
        n = video.frames
        return [video.name, n, zlib.crc32(video.read([0, n // 2, n - 1]).numpy())]
    except UserError:
        return [video.name, 0, 0]


def check_key(path, key):
    """Write the key of a new folder, or refuse features of something else. Errors: UserError."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix('.new').write_text(json.dumps(key))
            path.with_suffix('.new').replace(path)
        old = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f'{path}: no key to features ({error}); give another --features') from None
    other = [name for name in key if old.get(name) != json.loads(json.dumps(key[name]))]
    if other:
        raise UserError(f'{path.parent}: holds features of other {", ".join(other)}; '
                        f'begin anew by --fresh, or give another --features')


def announce(backbone, frames, folder, device, world):
    images = torch.zeros(32, 3, backbone.image_size, backbone.image_size, device=device)
    look(backbone, images)                                        # the first call prepares
    begin = time.perf_counter()
    size = frames * look(backbone, images)[0].nbytes / 1e9
    minutes = (time.perf_counter() - begin) / 32 * frames / world / 60
    print_rank0(f'{folder}: the backbone sees {frames:,} frames, once: {minutes:.1f} minutes or '
                f'more, {size:.2f} GB of features', flush=True)


@torch.inference_mode()
def look(backbone, images):
    """Normalised images (F, 3, S, S) -> packed frames, float16 on the CPU."""
    patches, cls = backbone(images.to(next(backbone.parameters()).dtype))
    rows = rearrange(patches, 'f p (l c) -> f (p l) c', c=backbone.width)
    cls = torch.zeros_like(rows[:, 0]) if cls is None else cls
    return torch.cat([rows, cls[:, None]], 1)[:, None].half().cpu()


def make(backbone, video, version, step, file, strength, device):
    """One version's features, written beside and renamed when whole. Errors: UserError."""
    seed = zlib.crc32(f'{video.name} {version}'.encode())
    beside = file.with_suffix('.new')
    try:
        with open(beside, 'wb') as out:
            for frames in video.parts(32, step):
                if version == 0:
                    images = data.center(frames.to(device), backbone.image_size)
                else:
                    images = data.augment(frames.to(device), seed, backbone.image_size, **strength)
                rows = look(backbone, images)
                if out.tell() == 0:
                    shape = len(range(0, video.frames, step)), *rows.shape[1:]
                    header = dict(descr='<f2', fortran_order=False, shape=shape)
                    np.lib.format.write_array_header_1_0(out, header)
                out.write(rows.numpy().data)
            os.fsync(out.fileno())
        beside.replace(file)
    except UserError as error:                                    # training and evaluation skip it
        if version == 0:                                          # the others fail alike
            tqdm.write(f'no features of {error}')
    except OSError as error:
        raise UserError(f'{file}: cannot be written ({error.strerror}); those before it are kept, '
                        f'and the same command goes on') from None
    finally:
        beside.unlink(missing_ok=True)
