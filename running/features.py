"""ours: the frozen backbone sees each video once; training reads from disk what it said.

    python train.py --dataset folder --data DIR --versions 4

Before the first step the backbone sees each video as it is, and each training video in K augmented
versions too, of one draw each. Training takes its two views of a video, at time stamps drawn as
ever, from two of the versions; evaluation takes the video as it is. A step then needs no pixels;
but a video has K looks for ever, not new ones each time.

    FOLDER/key.json      what the features are of: weights, layers, pixels, augmentation, videos
    FOLDER/NAME.0.npy    a video as it is, float16 (n, 1, P*L + 1, C): of each frame the features
                         of P patches in L layers, in rows of C, then CLS (zeros where it has none)
    FOLDER/NAME.k.npy    its k-th version

To all other files such a packed frame is a picture of one channel, and `Unpack` a backbone.
"""
import copy
import json
import os
import shutil
import time
import zlib
from dataclasses import dataclass, fields
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
from running.processes import all_gather, print_rank0
from running.record import lock_folder

PART = 32    # frames that the backbone sees at once


class Unpack(nn.Module):
    """Stands where the backbone stood: packed frames (F, 1, P*L + 1, C) -> Features; pictures of
    three channels go through the backbone."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        for name in ('channels', 'width', 'image_size', 'grid', 'attention_map'):
            if hasattr(backbone, name):
                setattr(self, name, getattr(backbone, name))

    def forward(self, frames):
        if frames.shape[1] == 3:
            return self.backbone(frames)
        rows = frames[:, 0]                                       # (F, P*L + 1, C)
        layers = self.channels // self.width
        patches = rearrange(rows[:, :-1], 'f (p l) c -> f p (l c)', l=layers)
        return Features(patches, rows[:, -1])


@dataclass(eq=False, kw_only=True)
class SeenVideo(data.Video):
    """A video that the backbone has seen; `read` still gives its pixels, for pictures of it.
    files: of its features as it is, then of each version."""
    files: list

    def features(self, version, indices):
        """Packed frames, float16 (n, 1, P*L + 1, C). Errors: UserError."""
        if not self.files[version].exists():
            raise UserError(f'{self.name}: could not be read to its end')
        rows = np.load(self.files[version], mmap_mode='r')
        return torch.from_numpy(rows[self.positions(indices)])

    def views(self, rng, time):
        """time (views, T) -> packed frames (views * T, ...), each view from another version."""
        order = 1 + rng.permutation(len(self.files) - 1)
        return torch.cat([self.features(k, view) for k, view in zip(np.resize(order, 2), time)])

    def parts(self, size=64, step=1):
        for start in range(0, self.frames, size * step):
            yield self.features(0, range(start, min(start + size * step, self.frames), step))


def see(model, videos, folder, versions, strength, *, device='cpu', rank=0, world=1):
    """{'train': [Video], 'val': [Video]} -> the same of SeenVideo. Puts `Unpack` into the model.

    Each process takes its share; what the folder has already is not made again. strength: options
    of data.augment. Errors: UserError.
    """
    if any(weight.requires_grad for weight in model.backbone.parameters()):
        raise UserError('--versions: the backbone is trained, so its features change; give 0')
    folder = Path(folder)
    backbone = model.backbone
    if torch.device(device).type == 'cpu' and torch.cpu._is_avx512_bf16_supported():
        backbone = copy.deepcopy(backbone).bfloat16()             # twice as fast where it has units
    distinct = list(dict.fromkeys(videos['train'] + videos['val']))
    identities = [identity(video) for video in distinct]
    open_folder(folder, rank, dict(
        weights=fingerprint(model.backbone), layers=getattr(backbone, 'layers', None),
        pixels=backbone.image_size, precision=str(next(backbone.parameters()).dtype),
        augmentation=strength, videos=identities))
    seen, jobs, frames = {}, [], 0
    for video, name, (_, length, _) in zip(distinct, file_names(distinct), identities):
        count = 1 + versions if video in videos['train'] else 1
        files = [folder / f'{name}.{k}.npy' for k in range(count)]
        known = {each.name: getattr(video, each.name) for each in fields(data.Video)}
        seen[video] = SeenVideo(**known, files=files)
        missing = [(video, k, file) for k, file in enumerate(files) if not file.exists()]
        jobs += missing
        frames += len(missing) * length
    if any(all_gather(len(jobs))):                                # once all have looked
        lock = lock_folder(folder) if rank == 0 else None         # held until all are made
        announce(backbone, frames, folder, device, world)
        for job in tqdm(jobs[rank::world], 'backbone', unit='video', disable=None, leave=False):
            make(backbone, *job, strength, device)
        all_gather(lock is None)
    model.backbone = Unpack(model.backbone)
    return {split: [seen[video] for video in videos[split]] for split in videos}


def identity(video):
    """What tells a video from others: its name, number of frames, a checksum of three of them."""
    try:
        n = video.frames
        return [video.name, n, zlib.crc32(video.read([0, n // 2, n - 1]).numpy())]
    except UserError:
        return [video.name, 0, 0]


def open_folder(folder, rank, key):
    """Make the folder, or refuse one whose features are of something else. Errors: UserError."""
    path = folder / 'key.json'
    try:
        if rank == 0 and not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.with_suffix('.new').write_text(json.dumps(key))
            path.with_suffix('.new').replace(path)
        all_gather(None)
        old = json.loads(path.read_text())
        other = [name for name in key if old.get(name) != json.loads(json.dumps(key[name]))]
    except OSError as error:
        raise UserError(f'{folder}: cannot hold features ({error.strerror})') from None
    except (ValueError, AttributeError):
        other = ['a kind unknown: its key.json is damaged']
    if other:
        raise UserError(f'{folder}: holds features of other {", ".join(other)}; give another '
                        f'--features, or delete it')


@torch.inference_mode()
def look(backbone, images):
    """Normalised images (F, 3, S, S) -> packed frames, float16 on the CPU."""
    patches, cls = backbone(images.to(next(backbone.parameters()).dtype))
    rows = rearrange(patches, 'f p (l c) -> f (p l) c', c=backbone.width)
    cls = torch.zeros_like(rows[:, 0]) if cls is None else cls
    return torch.cat([rows, cls[:, None]], 1)[:, None].half().cpu()


def announce(backbone, frames, folder, device, world):
    """Say how much there is to do; refuse what the disk cannot hold. Errors: UserError."""
    images = torch.zeros(PART, 3, backbone.image_size, backbone.image_size, device=device)
    look(backbone, images)                                        # the first call prepares
    begin = time.perf_counter()
    size = frames * look(backbone, images)[0].nbytes / 1e9
    minutes = (time.perf_counter() - begin) / PART * frames / world / 60
    print_rank0(f'{folder}: the backbone sees {frames:,} frames once, {minutes:.1f} minutes or '
                f'more; {size:.2f} GB of features', flush=True)
    free = shutil.disk_usage(folder).free / 1e9
    if size > free:
        raise UserError(f'{folder}: has {free:.1f} GB free; give fewer --versions or --layers, or '
                        f'another --features')


def make(backbone, video, version, file, strength, device):
    """Features of one version, written beside, then renamed. Errors: UserError."""
    seed = zlib.crc32(f'{video.name} {version}'.encode())
    beside = file.with_suffix('.new')
    try:
        with open(beside, 'wb') as out:
            for frames in video.parts(PART):
                if version == 0:
                    images = data.center(frames.to(device), backbone.image_size)
                else:
                    images = data.augment(frames.to(device), seed, backbone.image_size, **strength)
                rows = look(backbone, images)
                if out.tell() == 0:
                    shape = (video.frames, *rows.shape[1:])
                    np.lib.format.write_array_header_1_0(
                        out, dict(descr='<f2', fortran_order=False, shape=shape))
                out.write(rows.numpy().data)
            os.fsync(out.fileno())
        os.replace(beside, file)
    except UserError as error:                                    # training and evaluation skip it
        beside.unlink(missing_ok=True)
        tqdm.write(f'no features: {error}')
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UserError(f'{file}: cannot be written ({error.strerror}); the others are kept, and '
                        f'the same command goes on') from None
