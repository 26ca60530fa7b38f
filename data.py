"""Videos in, clips out (paper, sections 3.1 and 4.1): data sets as they lie on disk, two views of a video.

A `Video` decodes the frames asked for, uint8 (n, 3, H, W). `Clips` draws two views of T frames from each, and
how to augment them; `augment` does so on the device that trains, (T, 3, H, W) -> (T, 3, S, S); `center` is
what evaluation does instead. Whatever a file can have wrong with it becomes a `DataError` of one line.
`python data.py NAME --data DIR` tells what of a data set is there.
"""
import argparse
import math
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from torch.utils.data import Dataset
from tqdm import tqdm

from datasets import finegym, folder, k400, penn, pouring, synthetic
from datasets.layout import say
from datasets.images import frame_folder
from datasets.video import DataError, Video, one_line, video_file

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# ---------------------------------------------------------------------------------------------------------------------
# Data sets by name

DATASETS = {'synthetic': synthetic.ROW, 'penn': penn.ROW, 'pouring': pouring.ROW, 'finegym99': finegym.FINEGYM99,
            'finegym288': finegym.FINEGYM288, 'k400': k400.ROW, 'folder': folder.ROW}



def find(dataset, data, size, **options):
    """-> {'train': [Video], 'val': [Video]}, [what is missing, in words]; DataError if a split is empty."""
    if dataset not in DATASETS:
        raise DataError(f'{dataset}: no such data set. There are {", ".join(DATASETS)}')
    row = DATASETS[dataset]
    if not data or not Path(data).is_dir():
        raise DataError(f'{dataset}: {f"{data} is no folder" if data else "no folder given"} (--data). '
                        f'{row.source}')
    try:
        videos, missing = row.read(Path(data), size, **options)
    except DataError as error:
        raise DataError(f'{dataset}: {error}') from None
    for split in videos:
        if not videos[split] and (row.metrics, split) != ('none', 'val'):
            gone = f' ({len(missing)} missing: {missing[0]} ...)' if missing else ''
            raise DataError(f'{dataset}: no {split} video in {data}{gone}. {row.source}')
    return videos, missing


def load(dataset, data=None, *, image_size=224, seed=0):
    """A data set by name -> {'train': [Video], 'val': [Video]}; DataError if it cannot be used.

    data: the folder as downloaded. image_size: frames of Penn, Pouring and folder are squashed to it, others
    keep their size. seed: the synthetic set's. What is missing is said in one line; the doctor names it all.
    """
    if dataset in DATASETS and not DATASETS[dataset].on_disk:
        return DATASETS[dataset].read(seed)
    videos, missing = find(dataset, data, image_size)
    if missing:
        say(f'{dataset}: {len(missing)} missing, among them {", ".join(missing[:3])}; '
            f'python data.py {dataset} --data {data} names them all')
    return videos


# ------------------------------------------------------------------------------------------------------------
# Two views of a video (paper, section 3.1)

def two_views(rng, length, frames, *, block='length', shift=0.8):
    """Time stamps of two views, each from a new block of the video -> int64 (2, T), rising.

    The block is 1 to 1.5 times as long as the video ('length': it overhangs the end) or as the clip ('clip');
    view b begins at most `shift` clip lengths before or after view a. Time stamps >= length are padding.
    """
    n, views = min(length, frames), np.full((2, frames), length)
    for v in range(2):
        while (views[v] >= length).all():  # nothing but padding, as very short clips may give, is drawn again
            size = math.ceil(rng.uniform(1, 1.5) * (length if block == 'length' else n))
            last, low, high = length - size, 0, length - size
            if v == 1:
                first, reach = views[0, 0], int(shift * n)
                low, high = max(0, min(last, first - reach)), min(last + 1, first + reach + 1)
            views[v, :n] = rng.integers(low, max(1, high)) + np.sort(rng.choice(size, n, replace=False))
    return views


def interleave(rng, anchors, length):
    """Time-contrastive pairs: anchors (A,) -> (2A,), each followed by its positive, 1 to 5 frames earlier."""
    positives = np.maximum(anchors - rng.integers(1, 6, len(anchors)), 0)
    return np.stack([anchors, np.where(anchors < length, positives, length)], 1).ravel()


def draw_augmentation(rng, height, width, *, scale=(0.8, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5, jitter=0.8,
                      brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.4, grey=0.2):
    """One draw for a whole clip, as plain numbers, so that the GPU never has to be asked.

    scale, ratio: the crop's area, width/height; flip, jitter, blur, grey: probabilities; the rest: strengths.
    """
    crop = 0, 0, height, width  # where no crop of that ratio fits: the whole frame, squashed
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*np.log(ratio)))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            crop = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
            break
    drawn = {'crop': crop, 'flip': bool(rng.random() < flip), 'colour': [], 'blur': None}
    if rng.random() < jitter:
        strength = {'brightness': brightness, 'contrast': contrast, 'saturation': saturation}
        factors = {name: rng.uniform(max(0, 1 - s), 1 + s) for name, s in strength.items()}
        factors['hue'] = rng.uniform(-hue, hue)
        drawn['colour'] = [(name, float(factors[name])) for name in rng.permutation(list(factors)).tolist()]
    if rng.random() < blur:
        drawn['blur'] = float(rng.uniform(0.1, 2.0))
    drawn['grey'] = bool(rng.random() < grey)
    return drawn


def leave_signals(_worker):
    """For workers: Ctrl-C and a batch system's SIGTERM reach them too, but are for the process that trains to
    heed; give it ten seconds for that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(10))


class Clips(Dataset):
    """Two views of T frames for every video; item (epoch, index) -> dict. Everything random comes from
    (seed, epoch, index): the number of workers, their order and what ran before change nothing.

    names     [name] or, with pairs='videos', the names of two videos of one action
    frames    [uint8 (U, 3, H, W)]: the distinct frames of both views, decoded once; of two videos, two
    where     int64 (2, T): position of each view's frames in `frames` (view b's in the last of them)
    time      int64 (2, T): frame index of each; padding is clamped to the last frame
    length    int64 (2,): number of frames of each view's video
    valid     bool (2, T): False = padding
    augment   [dict, dict]: one draw of draw_augmentation a view
    skipped   {name: reason} of broken videos that were drawn before; another was taken in their place
    """
    def __init__(self, videos, *, frames, seed=0, block='length', shift=0.8, pairs='views', interleaved=False,
                 **strength):
        self.videos, self.T, self.seed = videos, frames, seed
        self.pairs, self.interleaved = pairs, interleaved
        self.sampling, self.strength = {'block': block, 'shift': shift}, strength
        self.alike = {}  # action -> indices of its videos
        for index, video in enumerate(videos):
            self.alike.setdefault(video.action, []).append(index)

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, key):
        epoch, index = key
        rng, skipped = np.random.default_rng([self.seed, epoch, index]), {}
        for _ in range(100):
            videos, lengths, frames, where = [self.videos[index]], [], [], []
            if self.pairs == 'videos':
                others = [other for other in self.alike[videos[0].action] if other != index] or [index]
                videos.append(self.videos[others[rng.integers(len(others))]])
            try:
                for video in videos:
                    lengths.append(video.frames)
                time = self.sample(rng, lengths[0])                                     # (2, T)
                if len(videos) == 2:
                    time[1] = self.sample(rng, lengths[1])[0]
                lengths = np.broadcast_to(lengths, 2)[:, None]
                clamped = np.minimum(time, lengths - 1)
                for video, wanted in zip(videos, clamped.reshape(len(videos), -1)):
                    distinct, back = np.unique(wanted, return_inverse=True)
                    frames.append(video.read(distinct))
                    where.append(back)
            except DataError as error:
                skipped[video.name] = str(error)
                index = int(rng.integers(len(self.videos)))
                continue
            drawn = [draw_augmentation(rng, *frames[i].shape[2:], **self.strength) for i in (0, -1)]
            where, valid = np.concatenate(where).reshape(time.shape), time < lengths
            return {'names': [video.name for video in videos], 'frames': frames, 'augment': drawn,
                    'where': torch.from_numpy(where), 'time': torch.from_numpy(clamped),
                    'length': torch.tensor(lengths[:, 0]), 'valid': torch.from_numpy(valid),
                    'skipped': skipped}
        raise DataError(f'100 videos in a row cannot be read; the last: {[*skipped.values()][-1]}')

    def sample(self, rng, length):
        """Time stamps of two views of one video, (2, T)."""
        if not self.interleaved:
            return two_views(rng, length, self.T, **self.sampling)
        half, time = self.T // 2, np.full((2, self.T), length)
        for view, anchors in zip(time, two_views(rng, length, half, **self.sampling)):
            view[:2 * half] = interleave(rng, anchors, length)
        return time


def collate(items):
    """Items -> one dict: time, length, valid stacked to (B, ...), `skipped` joined, lists of the rest."""
    batch = {key: [item[key] for item in items] for key in items[0]}
    batch |= {key: torch.stack(batch[key]) for key in ('time', 'length', 'valid')}
    return batch | {'skipped': {name: why for item in items for name, why in item['skipped'].items()}}


# ------------------------------------------------------------------------------------------------------------
# Augmentation, on the frames' device (paper, section 4.1)

def resize(frames, size):
    """uint8 (n, 3, H, W) -> float in [0, 1] (n, 3, S, S): bilinear, without antialias."""
    return F.interpolate(frames.float() / 255, (size, size), mode='bilinear', align_corners=False)


@cache
def statistics(device):
    """Mean and standard deviation (3, 1, 1) on the device: sent there once, since sending waits for it."""
    return tuple(torch.tensor(each, device=device)[:, None, None] for each in (MEAN, STD))


def normalise(frames):
    mean, std = statistics(frames.device)
    return (frames - mean) / std


def augment(frames, drawn, size):
    """One draw of draw_augmentation for a whole clip: uint8 (n, 3, H, W) -> normalised float (n, 3, S, S)."""
    top, left, height, width = drawn['crop']
    frames = resize(frames[:, :, top:top + height, left:left + width], size)
    if drawn['flip']:
        frames = frames.flip(-1)
    for name, factor in drawn['colour']:
        frames = getattr(TF, f'adjust_{name}')(frames, factor)
    if drawn['blur']:
        frames = TF.gaussian_blur(frames, [5, 9], [drawn['blur']] * 2)  # 5 wide, 9 high
    if drawn['grey']:
        frames = TF.rgb_to_grayscale(frames, num_output_channels=3)
    return normalise(frames)


def views(batch, size, device='cpu'):
    """A batch as `collate` returns it -> augmented clips (B, 2, T, 3, S, S) on the device."""
    clips = []
    for frames, where, drawn in zip(batch['frames'], batch['where'], batch['augment']):
        frames, where = [f.to(device, non_blocking=True) for f in frames], where.to(device, non_blocking=True)
        clips.append(torch.stack([augment(frames[v][where[v]], drawn[v], size) for v in (0, -1)]))
    return torch.stack(clips)


def center(frames, size):
    """At evaluation: the central S x S pixels (a smaller side whole), resized, normalised -> (n, 3, S, S)."""
    height, width = frames.shape[2:]
    top, left = (max(0, math.ceil((side - size) / 2)) for side in (height, width))
    return normalise(resize(frames[:, :, top:top + min(size, height), left:left + min(size, width)], size))


# ------------------------------------------------------------------------------------------------------------
# The doctor: python data.py NAME --data DIR

def inspect(video, decode):
    """-> number of frames, of labelled frames, and (what is wrong, one line that names it) or None."""
    frames, wrong = 0, 'cannot be read'
    try:
        frames = video.on_disk
        for _ in video.decode(np.arange(frames)) if decode else ():
            pass
        wrong = 'labels do not fit'
        frames, labels = video.frames, video.labels
    except DataError as error:
        return frames, 0, (wrong, str(error))
    labelled = 0 if labels is None else int((labels >= 0).sum())
    given = len(video.annotate(frames)) if video.fit else video.on_disk
    if given == video.on_disk:
        return frames, labelled, None
    return frames, labelled, ('sampled down', f'{video.name}: {video.on_disk} frames, {given} labels')


def doctor(dataset, data, decode=False):
    """Print what is found beside what was published, then what is wrong, by name; the last line sums up."""
    row = DATASETS[dataset]
    videos, missing = find(dataset, data, 224, **({} if row.counted else {'scan': True}))
    listed = videos['train'] + videos['val']
    actions = [action for action in row.published if action != 'all'] or sorted({video.action for video in listed} - {None})
    found = {(split, action): np.zeros(3, int) for split in videos for action in [*actions, 'all']}
    wrong = {'missing': missing, 'cannot be read': [], 'labels do not fit': [], 'sampled down': []}
    counted = decode or row.counted  # Kinetics' frames are counted only by reading all of its files
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for split, listed in videos.items():
            reports = [(0, 0, None)] * len(listed)
            if counted:
                reports = pool.map(partial(inspect, decode=decode), listed)
            reports = tqdm(reports, split, len(listed), disable=None)
            for video, (frames, labelled, problem) in zip(listed, reports):
                for action in {video.action, 'all'} - {None}:
                    found[split, action] += 1, frames, labelled
                if problem:
                    wrong[problem[0]].append(problem[1])

    print(f'{"":7}{"action":20}{"videos":>9}{"published":>11}{"frames":>13}{"labelled":>13}')
    fewer = 0
    for (split, action), (n, *counts) in found.items():
        published = row.published.get(action, '--')[split == 'val']
        counts = [f'{count:,}' if counted else '?' for count in counts]
        print(f'{split:7}{action:20}{n:9,}{published:>11}{counts[0]:>13}{counts[1]:>13}')
        fewer += max(0, published - n) if action == 'all' and published != '-' else 0
    for kind, lines in wrong.items():
        if lines:
            print(f'{kind}: {len(lines)}', *lines, sep='\n    ')
    total = len(videos['train'] + videos['val'])
    if len(wrong['cannot be read']) == total:
        raise DataError(f'{dataset}: none of the {total} videos in {data} can be read. {row.source}')
    lacks = [f'{len(lines)} {kind}' for kind, lines in wrong.items() if lines and kind != 'sampled down']
    lacks += [f'{fewer} videos fewer than published'] if fewer else []
    verdict = f'usable, but lacking: {", ".join(lacks)}. {row.source}' if lacks else 'complete'
    print(f'{dataset}: {verdict}')


def main():
    parser = argparse.ArgumentParser(description='what of a data set is there, and where to get the rest')
    parser.add_argument('dataset', choices=[name for name, row in DATASETS.items() if row.on_disk])
    parser.add_argument('--data', required=True, help='its folder')
    parser.add_argument('--decode', action='store_true', help='decode every frame of every video')
    args = parser.parse_args()
    try:
        doctor(args.dataset, args.data, args.decode)
    except (DataError, OSError) as error:
        print(f'data.py: error: {one_line(error)}', file=sys.stderr)
        sys.exit(2)


if __name__ == '__main__':
    main()
