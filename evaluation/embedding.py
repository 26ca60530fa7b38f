"""Embed every frame of whole videos: once through the frozen backbone, for any number of models.

    frames uint8 (F, 3, H, W), in parts  --backbone, LSTP-->  entities (F, N, d)
    entities of a whole video (n, N, d)  --MTF----------->  embeddings (n, D), unit length
"""
import csv
import itertools
import math
import re
from collections import defaultdict
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

import data
from datasets.folder import video_at
from evaluation.table import name_some
from lstp import POOLERS
from model import MVFormer
from running.command import DIED, start_worker, watched
from running.errors import UserError
from running.processes import gather, is_rank0
from running.record import attempt


class EmbeddedVideo(NamedTuple):
    """A video whose embeddings are known."""
    video: data.Video
    frames: int         # how many it has
    kept: np.ndarray    # int (m,), the frames with embeddings: the labelled ones, all if none is
    labels: np.ndarray  # int (m,), their labels; -1 if the video has none


@dataclass
class Frames(IterableDataset):
    """Whole videos in parts, each video by one worker: (its number, uint8 (F, 3, H, W)), and at its
    end (number, (frames, kept, labels)) as above, or where it cannot be read (number, why). A video
    of more than `most` frames is thinned out."""

    videos: list
    most: float

    def __iter__(self):
        worker = get_worker_info()
        first, every = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(first, len(self.videos), every):
            video = self.videos[number]
            try:
                # annotate is None: it has no labels
                labels = video.labels if video.annotate else np.full(video.frames, -1)
                known = np.flatnonzero(labels >= 0)
                kept = known if len(known) else np.arange(video.frames)
                for part in video.parts(step=data.thinning(video.frames, self.most)):
                    yield number, part
                yield number, (video.frames, kept, labels[kept])
            except UserError as error:
                yield number, str(error)


def frozen(backbone, pool):
    """The control `frozen`: of each frame one vector, as the pooler 'cls' or 'avg' makes it of the
    backbone's features; of several layers the last one's."""
    def last_layer(tokens):
        return tokens[:, :, 0, -backbone.width:]    # (1, n, 1, L*C) -> (1, n, C)
    pooler = POOLERS[pool](backbone.channels, backbone.width)
    return MVFormer(backbone, pooler, mtf=last_layer).eval()


def entities_of(networks, frames):
    """uint8 (F, 3, H, W) -> entities (F, N, d) of each network; a shared backbone runs once."""
    frames = frames.to(next(networks[0].mtf.parameters()).device)
    images = data.center(frames, networks[0].backbone.image_size)
    first = {network.backbone: network for network in networks}
    features = {backbone: network.features(images) for backbone, network in first.items()}
    return [network.pool(*features[network.backbone])[0] for network in networks]


def embed_entities(network, entities, frames, limit):
    """Entities (n, N, d) of a video of so many frames -> unit-length embeddings (frames, D).

    More than `limit` are cut into equal sequences, each with its own position code: the field's
    protocol. Where n < frames, the video has been thinned out and is one sequence; what lies
    between two of its frames is interpolated.
    """
    parts = entities.tensor_split(math.ceil(len(entities) / limit))
    z = torch.cat([network.mtf(part[None])[0] for part in parts])         # (n, D)
    if len(z) < frames:
        k = math.ceil(frames / len(z))                                    # data.thinning's
        place = torch.arange(frames, device=z.device) / k
        before = place.long()
        after = (before + 1).clamp(max=len(z) - 1)                        # after the last, like it
        z = torch.lerp(z[before], z[after], (place - before)[:, None])    # (frames, D)
    if not z.isfinite().all():
        raise UserError('the embeddings are not finite: this model has diverged; '
                        'train again with a lower --lr')
    return F.normalize(z.float(), dim=-1).cpu().numpy()


@torch.no_grad()
def embed(networks, videos, *, limit=1000, thin=False, workers=0):
    """Yields (number of the video, (frames, kept, labels), [(frames, D) of each network]), or where
    it cannot be read (number, why, []). limit: frames of the longest sequence; thin: a longer video
    is thinned out, not cut. Of a video only the entities are held, never its patches."""
    loader = DataLoader(
        Frames(videos, limit if thin else math.inf), batch_size=None, collate_fn=tuple,
        num_workers=workers, worker_init_fn=start_worker,
        generator=torch.Generator().manual_seed(0))  # not the global one, which training needs
    begun = defaultdict(list)  # parts of several workers' videos come mixed
    for item in watched(loader):
        if item is None:
            raise UserError(DIED)
        number, part = item
        if torch.is_tensor(part):
            begun[number].append(entities_of(networks, part))
            continue
        parts = begun.pop(number, [])         # [[(F, N, d) of each network]]
        if isinstance(part, str):
            parts = []
        arrays = []
        for network, entities in zip(networks, zip(*parts)):
            arrays.append(embed_entities(network, torch.cat(entities), part[0], limit))
        yield number, part, arrays


def embed_one(network, video, most):
    """MVFormer.embed: of a file, a folder of images or a data.Video -> (n, D)."""
    if isinstance(video, (str, Path)):
        video = video_at(str(video), Path(video), network.backbone.image_size)
    with evaluating([network]):
        (_, about, arrays), = embed([network], [video], limit=most, thin=True)
    if not arrays:
        raise UserError(about)
    return arrays[0]


# --------------------------------------------------------------------------------------------------
# Many videos, of which each process embeds its share

@contextmanager
def evaluating(networks):
    """In eval mode, convolutions in full float32 and uncompiled; then as before."""
    modes = [network.training for network in networks]
    as_written = nullcontext()
    if torch.cuda.is_available():    # frames come in parts of other sizes than those of training
        as_written = torch.compiler.set_stance('force_eager')
    try:
        with as_written, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for network in networks:
                network.eval()
            yield
    finally:
        for network, mode in zip(networks, modes):
            network.train(mode)


def embed_splits(networks, videos, settings, *, thin, folder=None):
    """Embed {split: [Video]}, each process its share -> in rank 0, {} or [] in the others:

    {split: [EmbeddedVideo]}, {model: {split: [(n_i, D)]}}, [why a video cannot be read]

    networks: {name: model}; thin: as in `embed`; folder: where those of all frames are saved, of
    the first model. What is returned is held in memory: FineGym99's 1.22 million labelled frames,
    of 256 float32 numbers each, are 1.25 GB a model. Errors: UserError, where nothing is left of a
    split.
    """
    # a limit is in the settings of CARL's checkpoints and the authors' alone
    limit = settings.get('limit') or data.DATASETS[settings['dataset']].limit
    files = {}    # of each video, one of two splits once
    for split in videos:
        for video, name in zip(videos[split], file_names(videos[split])):
            files.setdefault(video, f'{split}/{name}.npy')
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    own = list(files)[rank::world]
    found = {}    # {file: ((frames, kept, labels), {model: (n_i, D)})}; not read: (why, {})
    saving = folder
    with evaluating(networks.values()):
        results = embed(list(networks.values()), own, limit=limit, thin=thin,
                        workers=settings['workers'])
        results = tqdm(results, total=len(own), unit='video', disable=None, leave=False)
        for number, about, arrays in results:
            file = files[own[number]]
            found[file] = about, {name: z[about[1]] for name, z in zip(networks, arrays)}
            if saving and arrays:
                saving = attempt('embeddings from here on', save, folder, file, arrays[0])

    found = gather(found)
    if not is_rank0():
        return {}, {}, []
    skipped = {video: found[file][0] for video, file in files.items() if not found[file][1]}
    embedded = {}
    embeddings = {name: {} for name in networks}
    for split in videos:
        read = {video: found[files[video]] for video in videos[split] if video not in skipped}
        if videos[split] and not read:
            raise UserError(f'no {split} video can be read; the first: {skipped[videos[split][0]]}')
        embedded[split] = [EmbeddedVideo(video, *about) for video, (about, _) in read.items()]
        for name in networks:
            embeddings[name][split] = [arrays[name] for _, arrays in read.values()]
    records = {files[one.video]: one for one in itertools.chain(*embedded.values())}
    thinned = [one.video.name for one in records.values() if thin and one.frames > limit]
    long = f'more than {limit} frames: only every k-th is embedded, the others interpolated'
    for note in name_some('left out, cannot be read', skipped.values()) + name_some(long, thinned):
        print('note:', note)
    if folder:
        saved = {file: one for file, one in records.items() if (folder / file).exists()}
        attempt('index of embeddings', write_index, folder, saved)
    return embedded, embeddings, list(skipped.values())


# --------------------------------------------------------------------------------------------------
# Embeddings on disk

def file_names(videos):
    """A safe file name for each video, no two alike, within what file systems hold."""
    names = {}
    for video in videos:
        name = re.sub(r'[^\w.-]+', '_', video.name).strip('.')[:60] or 'video'
        names[f'{name}~{len(names)}' if name in names else name] = video
    return list(names)


def save(folder, file, z):
    """The embeddings of all frames of a video, (frames, D), as a whole file or none -> its path."""
    beside = folder / f'{file}.partial'
    beside.parent.mkdir(exist_ok=True)
    with open(beside, 'wb') as out:
        np.save(out, z)
    return beside.rename(folder / file)


def write_index(folder, saved):
    """index.csv, of {file: EmbeddedVideo} a line for each row: its file, frame, time in seconds (if
    the video has any), label (if the frame has one)."""
    with open(folder / 'index.csv', 'w', newline='', encoding='utf-8') as lines:
        table = csv.writer(lines)
        table.writerow(['file', 'frame', 'seconds', 'label'])
        for file, one in saved.items():
            labels = dict(zip(one.kept, one.labels))
            seconds = one.video.seconds()
            for frame in range(one.frames):
                time = '' if seconds is None else f'{seconds[frame]:.3f}'
                label = labels.get(frame, -1)
                table.writerow([file, frame, time, label if label >= 0 else ''])
