"""Embed every frame of whole videos: once through the frozen backbone, for any number of models.

    frames uint8 (F, 3, H, W), in parts  --backbone, LSTP-->  entities (F, N, d)
    entities of a whole video (n, N, d)  --MTF----------->  embeddings (n, D), unit length
"""
import csv
import math
import re
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

import data
from running.errors import UserError
from running.processes import cpu_group
from running.workers import DIED, start_worker, watched


class EmbeddedVideo(NamedTuple):
    """A video whose embeddings are known."""
    video: data.Video
    frames: int         # how many it has
    kept: np.ndarray    # int (n,), the frames with embeddings: the labelled ones, all if none is
    labels: np.ndarray  # int (n,), their labels; -1 if the video has none


class Frames(IterableDataset):
    """Decodes whole videos in parts, each video in one worker.

    Yields (position, frames of the video, labels, uint8 (F, 3, H, W)), or where a video cannot be
    read (position, None, why, None). most: a video of more frames is thinned out, see data.stride.
    """
    part = 64

    def __init__(self, videos, positions, most=math.inf):
        self.videos = videos
        self.positions = positions
        self.most = most

    def __iter__(self):
        worker = get_worker_info()
        own = self.positions[worker.id::worker.num_workers] if worker else self.positions
        for position in own:
            video = self.videos[position]
            try:
                n = video.frames
                labels = video.labels
                for part in video.parts(self.part, data.stride(n, self.most)):
                    yield position, n, labels, part
            except UserError as error:
                yield position, None, str(error), None


class Frozen(nn.Module):
    """The control `frozen`: of each frame one vector of the backbone's last layer, as it is, in the
    place of an MVFormer. It stands beside one, and is given the features of that."""

    def __init__(self, backbone, *, cls):
        super().__init__()
        self.backbone = backbone
        self.cls = cls    # the CLS token; else the mean of the patches

    def train(self, mode=True):
        return self       # the backbone is not its own

    def pool(self, patches, cls):
        """(F, P, L*C), (F, C) -> (F, 1, C), None"""
        if self.cls:
            return cls[:, None], None
        return patches[..., -self.backbone.width:].mean(1, keepdim=True), None

    def mtf(self, tokens):
        """(1, n, 1, C) -> (1, n, C)"""
        return tokens[:, :, 0]


def entities_of(networks, frames):
    """uint8 (F, 3, H, W) -> entities (F, N, d) of each network; a shared backbone runs once."""
    images = data.center(frames, networks[0].backbone.image_size)
    features = {}
    entities = []
    for network in networks:
        key = id(network.backbone)
        if key not in features:
            features[key] = network.features(images)    # float32, whatever it computes in
        entities.append(network.pool(*features[key])[0])
    return entities


def embed_entities(network, entities, frames, limit):
    """Entities (n, N, d) of a video of so many frames -> unit-length embeddings (frames, D).

    One sequence up to `limit` frames. A longer video is ceil(n / limit) equal ones, each with its
    own time code: the field's protocol. Where n < frames, it has been thinned out instead: it is
    one sequence with one time code, and what lies between two of its frames is interpolated.
    """
    parts = entities.tensor_split(math.ceil(len(entities) / limit))
    z = torch.cat([network.mtf(part[None])[0] for part in parts])  # (n, D)
    if len(z) < frames:
        z = interpolate(z, frames, math.ceil(frames / len(z)))
    if not z.isfinite().all():
        raise UserError('the embeddings are not finite: this model has diverged; '
                        'train again with a lower --lr')
    return F.normalize(z.float(), dim=-1).cpu().numpy()


def interpolate(z, frames, step):
    """Embeddings (n, D) of every step-th frame -> of all (frames, D), linearly between them; those
    after the last are like it."""
    place = torch.arange(frames, device=z.device) / step          # (frames,), in units of z's rows
    before = place.long()
    after = (before + 1).clamp(max=len(z) - 1)
    return torch.lerp(z[before], z[after], (place - before)[:, None])


@torch.no_grad()
def embed(networks, videos, positions, *, limit=1000, whole=False, device='cpu', workers=0):
    """Yields (position, labels or None, [(n, D) of each network]), or where a video cannot be read
    (position, why, None). Of a video only the entities are held, never its patches.

    limit: frames of the longest sequence. whole: a longer video is thinned out, not cut.
    """
    most = limit if whole else math.inf
    loader = DataLoader(
        Frames(videos, positions, most), batch_size=None, collate_fn=tuple, num_workers=workers,
        worker_init_fn=start_worker,
        generator=torch.Generator().manual_seed(0))  # not the global one, which training needs
    begun = {}  # parts of several workers' videos come mixed: {position: [[(F, N, d)] a network]}
    for part in watched(loader):
        if part is None:
            raise UserError(DIED)
        position, n, labels, frames = part
        if n is None:
            begun.pop(position, None)
            yield position, labels, None
            continue
        entities = begun.setdefault(position, [[] for _ in networks])
        for parts, part in zip(entities, entities_of(networks, frames.to(device))):
            parts.append(part)
        if sum(len(part) for part in entities[0]) == len(range(0, n, data.stride(n, most))):
            del begun[position]
            arrays = []
            for network, parts in zip(networks, entities):
                arrays.append(embed_entities(network, torch.cat(parts), n, limit))
            yield position, labels, arrays


# --------------------------------------------------------------------------------------------------
# Many videos, of which each process embeds its share

def gather(own):
    """Every process's dict merged into one, in rank 0; {} in the others."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return own
    shares = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(own, shares, group=cpu_group())
    merged = {}
    for share in shares or []:
        merged |= share
    return merged


@contextmanager
def evaluating(networks):
    """In eval mode, full float32 precision and uncompiled, however the models are trained; then as
    before."""
    modes = [network.training for network in networks]
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('highest')
    as_written = nullcontext()
    if torch.cuda.is_available():    # frames come in parts of other sizes than those of training
        as_written = torch.compiler.set_stance('force_eager')
    for network in networks:
        network.eval()
    try:
        with as_written, torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for network, mode in zip(networks, modes):
            network.train(mode)


def embed_all(networks, videos, *, folders=None, what='', **options):
    """Embed videos, each process its share -> all in rank 0, empty in the others:

    [EmbeddedVideo], {model: [(n_i, D)]}, {video: why it cannot be read}

    networks: {name: model}; folders: {name: where one float32 (n, D) .npy a video is saved};
    options: of `embed`. All is held in memory: FineGym99's 1.22 million labelled frames, of 256
    float32 numbers each, are 1.25 GB a model.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    positions = list(range(rank, len(videos), world))
    results = embed(list(networks.values()), videos, positions, **options)
    results = tqdm(results, what, len(positions), unit='video', disable=None, leave=False)
    files = file_names(videos) if folders else []
    found, skipped = {}, {}
    unsaved = []
    shares = {name: {} for name in networks}
    for position, labels, arrays in results:
        if arrays is None:
            skipped[position] = labels
            continue
        if folders:
            unsaved += save(folders, files[position], dict(zip(networks, arrays)))
        if labels is None:
            kept = np.arange(len(arrays[0]))
            labels = np.full(len(kept), -1)
        else:
            kept = np.flatnonzero(labels >= 0)
            labels = labels[kept]
        found[position] = len(arrays[0]), kept, labels
        for name, array in zip(networks, arrays):
            shares[name][position] = array[kept]
    if unsaved:
        print(f'note: {len(unsaved)} embeddings were not saved, the first: {unsaved[0]}')

    found, skipped = gather(found), gather(skipped)
    embedded = []
    embeddings = {}
    for position in sorted(found):  # the order of the videos, not of decoding
        embedded.append(EmbeddedVideo(videos[position], *found[position]))
    for name, share in shares.items():
        arrays = gather(share)      # one model at a time: gathering takes memory of its own
        embeddings[name] = [arrays[position] for position in sorted(arrays)]
    return embedded, embeddings, {videos[i].name: skipped[i] for i in sorted(skipped)}


def embed_splits(networks, videos, folders, **options):
    """Embed {split: [Video]} -> {split: [EmbeddedVideo]}, {model: {split: [(n_i, D)]}} and {video:
    why it cannot be read}.

    folders: {model: where its embeddings are saved}; options: of `embed`.
    """
    embedded, skipped = {}, {}
    embeddings = {name: {} for name in networks}
    with evaluating(networks.values()):
        for split in ('train', 'val'):
            inner = {name: Path(folder, split) for name, folder in folders.items()}
            embedded[split], arrays, broken = embed_all(
                networks, videos[split], folders=inner, what=split, **options)
            if broken and not embedded[split]:
                reason = next(iter(broken.values()))
                raise UserError(f'no {split} video can be read; the first: {reason}')
            skipped |= broken
            for name in networks:
                embeddings[name][split] = arrays[name]
    return embedded, embeddings, skipped


def folders_of(models, folder):
    """{model: where its embeddings are saved}, {} if folder is None; one model needs no folder."""
    if not folder:
        return {}
    if len(models) == 1:
        return {models[0]: folder}
    return {model: folder / safe(model) for model in models}


def safe(name):
    return re.sub(r'[^\w.-]+', '_', name).strip('.')


def file_names(videos):
    """A safe file name for each video, no two alike, within what file systems hold."""
    names = {}
    for video in videos:
        name = safe(video.name)[:60] or 'video'
        names[f'{name}~{len(names)}' if name in names else name] = video
    return list(names)


def save(folders, name, arrays):
    """Save a video's embeddings by each model -> errors, which must not end the evaluation."""
    errors = []
    for model, folder in folders.items():
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            np.save(Path(folder, f'{name}.npy'), arrays[model])
        except OSError as error:
            errors.append(str(error))
    return errors


def write_index(path, videos, embedded):
    """Of each saved row a line: its file, frame, time in seconds (if the video has any), label (if
    the frame has one). {split: [Video]}, {split: [EmbeddedVideo]}."""
    with open(path, 'w', newline='', encoding='utf-8') as lines:
        table = csv.writer(lines)
        table.writerow(['file', 'frame', 'seconds', 'label'])
        for split, records in embedded.items():
            files = dict(zip(videos[split], file_names(videos[split])))
            for record in records:
                labels = dict(zip(record.kept.tolist(), record.labels.tolist()))
                seconds = record.video.seconds()
                for frame in range(record.frames):
                    time = '' if seconds is None else f'{seconds[frame]:.3f}'
                    label = labels.get(frame, -1)
                    file = f'{split}/{files[record.video]}.npy'
                    table.writerow([file, frame, time, label if label >= 0 else ''])
