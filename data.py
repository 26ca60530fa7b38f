"""Videos in, clips out, by the protocol of CARL ([9]), which the paper follows (section 4).

A `Video` decodes the frames asked for, uint8 (n, 3, H, W). `Clips` draws two views of T frames of
each, and the random numbers of their augmentation; `augment` applies them on the device that
trains, (T, 3, H, W) -> (T, 3, S, S). Evaluation calls `center` instead. A wrong file makes a
`UserError`. `python data.py NAME --data DIR` tells what of a data set is there.
"""
import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from datasets import doctor, finegym, folder, garden, k400, penn, pouring, synthetic
from datasets.images import frame_folder  # noqa: F401, for users of this file
from datasets.labels import check_labels, count_phases
from datasets.layout import read_dataset, say_remarks
from datasets.video import Video, video_file  # noqa: F401, for users of this file
from running.errors import UserError

MEAN = (0.485, 0.456, 0.406)    # of ImageNet's red, green and blue, from 0 to 1
STD = (0.229, 0.224, 0.225)


# --------------------------------------------------------------------------------------------------
# Data sets by name

DATASETS = {
    'synthetic': synthetic.ROW,
    'garden': garden.ROW,
    'penn': penn.ROW,
    'pouring': pouring.ROW,
    'finegym99': finegym.FINEGYM99,
    'finegym288': finegym.FINEGYM288,
    'k400': k400.ROW,
    'folder': folder.ROW,
}


def load(dataset, data=None, *, image_size=224, seed=0, label_unit=None):
    """A data set by name -> {'train': [Video], 'val': [Video]}; UserError if it cannot be used.

    data: the folder as downloaded. image_size: Penn, Pouring and folder are squashed to it. seed:
    of sets made in memory. label_unit: 'seconds' or 'frames', of labels that are segments.
    """
    if dataset not in DATASETS:
        raise UserError(f'{dataset}: no such data set. There are {", ".join(DATASETS)}')
    row = DATASETS[dataset]
    if not row.on_disk:
        return row.read(seed)
    videos, remarks = read_dataset(dataset, row, data, image_size, label_unit)
    say_remarks(dataset, data, remarks)
    if row.counted:
        videos, remarks = check_labels(videos)
        say_remarks(dataset, data, remarks, 'with labels that do not fit, used without')
    return videos


# --------------------------------------------------------------------------------------------------
# Two views of a video, as CARL draws them

def two_views(rng, length, frames, *, block='length', shift=0.8):
    """Time stamps of two views of a video -> int64 (2, T), rising; those >= length are padding.

    block: as in `draw_view`. shift: view b's block starts at most so many clip lengths from view
    a's first drawn frame; of use only with block='clip', for a 'length' block starts at frame 0.
    """
    view_a = draw_view(rng, length, frames, block)
    reach = int(shift * min(length, frames))
    view_b = draw_view(rng, length, frames, block, near=view_a[0], reach=reach)
    return np.stack([view_a, view_b])


def draw_view(rng, length, frames, block, near=None, reach=0):
    """One view: a block of the video, and in it T frames at random, in order -> int64 (T,).

    The block is 1 to 1.5 times as long as the video ('length': it starts at frame 0 and may run
    past the end, CARL: too) or as the clip ('clip': it starts within `reach` frames of `near`).

        video  |0 . . . . . . . . . . . . . . . length-1|
        block  |------------------------------------------------------|
        view     x    x x     x        x    x      x        o    o  o      x: a frame    o: padding
    """
    n = min(length, frames)
    while True:
        size = math.ceil(rng.uniform(1, 1.5) * (length if block == 'length' else n))
        last = length - size                # where the last block starts that fits; < 0: none does
        low, high = 0, last                 # high is exclusive; upper bounds as in CARL's code
        if near is not None:
            low = max(0, min(last, near - reach))
            high = min(last + 1, near + reach + 1)
        start = rng.integers(low, max(1, high))
        view = np.full(frames, length)
        view[:n] = start + np.sort(rng.choice(size, n, replace=False))
        if view[0] < length:                # of a very short video, all may be padding: again
            return view


def interleave(rng, anchors, length):
    """Time-contrastive pairs: anchors (A,) -> (2A,), each with a positive, 1-5 frames before."""
    positives = np.maximum(anchors - rng.integers(1, 6, len(anchors)), 0)
    positives = np.where(anchors < length, positives, length)
    return np.stack([anchors, positives], 1).ravel()


class Clips(Dataset):
    """Two views of T frames for every video; item (epoch, index) -> dict. All that is random comes
    from (seed, epoch, index): the number of workers, their order, what ran before change nothing.

    names     [name] or, with pairs='videos', the names of two videos of one action
    frames    [uint8 (U, 3, H, W)], the distinct frames of both views; of two videos, two of these
    position  int64 (2, T), of each view's frames in `frames` (view b's in the last of them)
    time      int64 (2, T), frame index of each; padding is clamped to the last frame
    length    int64 (2,), number of frames of each view's video
    valid     bool (2, T), False = padding
    labels    int64 (2, T), the phase of each frame, numbered through all actions up to `classes`;
              -1 = unlabelled or padding, and everywhere unless with_labels=True
    augment   [dict, dict], one draw of draw_augmentation a view
    skipped   {name: reason} of broken videos that were drawn before; another took their place
    """
    def __init__(self, videos, *, frames, seed=0, block='length', shift=0.8, pairs='views',
                 interleaved=False, with_labels=False, **strength):
        self.videos = videos
        self.T = frames
        self.seed = seed
        self.sampling = {'block': block, 'shift': shift}
        self.pairs = pairs
        self.interleaved = interleaved
        self.strength = strength
        self.with_labels = with_labels
        self.videos_of_action = {}
        for video in videos:
            self.videos_of_action.setdefault(video.action, []).append(video)
        self.first_class = {}    # action -> the class of its phase 0; actions share no class
        self.classes = 0
        for action, of_action in self.videos_of_action.items():
            self.first_class[action] = self.classes
            self.classes += count_phases(of_action) if with_labels else 0

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, key):
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        skipped = {}
        for _ in range(100):
            videos = self.choose(rng, index)
            drawn = []
            for video in videos:
                try:
                    drawn.append(self.draw(rng, video, 2 // len(videos)))  # of two, a view each
                except UserError as error:
                    skipped[video.name] = str(error)
            if len(drawn) == len(videos):
                return self.join(rng, drawn) | {'skipped': skipped}
            index = int(rng.integers(len(self.videos)))
        _, reason = skipped.popitem()
        raise UserError(f'100 videos in a row cannot be read; the last: {reason}')

    def choose(self, rng, index):
        """The videos of an item: one, or with pairs='videos' another of the same action too."""
        video = self.videos[index]
        if self.pairs != 'videos':
            return [video]
        same_action = self.videos_of_action[video.action]
        others = [other for other in same_action if other is not video] or [video]
        return [video, others[rng.integers(len(others))]]

    def draw(self, rng, video, count):
        """One video's part of an item: `count` views, both or, of a pair of videos, the first."""
        length = video.frames
        time = self.sample(rng, length)[:count]                   # (count, T)
        valid = time < length
        time = np.minimum(time, length - 1)
        labels = np.full(time.shape, -1)
        if self.with_labels and video.labels is not None:
            phases = video.labels[time]
            numbers = self.first_class[video.action] + phases
            labels = np.where(valid & (phases >= 0), numbers, -1)
        distinct, position = np.unique(time, return_inverse=True)
        return {
            'name': video.name,
            'frames': video.read(distinct),                       # (U, 3, H, W)
            'position': position.reshape(time.shape),
            'time': time,
            'length': np.full(count, length),
            'valid': valid,
            'labels': labels,
        }

    def sample(self, rng, length):
        """Time stamps of two views of one video, (2, T)."""
        if not self.interleaved:
            return two_views(rng, length, self.T, **self.sampling)
        half = self.T // 2
        time = np.full((2, self.T), length)
        for view, anchors in zip(time, two_views(rng, length, half, **self.sampling)):
            view[:2 * half] = interleave(rng, anchors, length)
        return time

    def join(self, rng, drawn):
        """What was drawn of one video or of two -> an item."""
        item = {'names': [part['name'] for part in drawn]}
        item['frames'] = [part['frames'] for part in drawn]
        for key in ('position', 'time', 'length', 'valid', 'labels'):
            item[key] = torch.from_numpy(np.concatenate([part[key] for part in drawn]))
        draw_a = draw_augmentation(rng, *item['frames'][0].shape[2:], **self.strength)
        draw_b = draw_augmentation(rng, *item['frames'][-1].shape[2:], **self.strength)
        return item | {'augment': [draw_a, draw_b]}


def collate(items):
    """Items -> a dict: time, length, valid, labels stacked to (B, ...), lists of the rest."""
    batch = {}
    for key in items[0]:
        batch[key] = [item[key] for item in items]
    for key in ('time', 'length', 'valid', 'labels'):
        batch[key] = torch.stack(batch[key])
    batch['skipped'] = {}
    for item in items:
        batch['skipped'] |= item['skipped']
    return batch


# --------------------------------------------------------------------------------------------------
# CARL's augmentation: drawn by the workers, applied on the frames' device

def draw_augmentation(rng, height, width, *, scale=(0.8, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5,
                      jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2,
                      blur=0.4, grey=0.2):
    """One draw for a whole clip, as plain numbers, so applying them needs no GPU synchronisation.

    scale, ratio: the crop's area, width/height; flip, jitter, blur, grey: probabilities; the rest:
    strengths. torchvision's transforms draw from a global generator, and cut out the middle where
    no crop fits: FineGym's 640 x 360 is wider than any of ratio <= 4/3 and area >= 0.8.
    """
    drawn = {
        'crop': draw_crop(rng, height, width, scale, ratio),
        'flip': bool(rng.random() < flip),
        'colour': [],
        'blur': None,
    }
    if rng.random() < jitter:
        strengths = {'brightness': brightness, 'contrast': contrast, 'saturation': saturation}
        factors = {}
        for name, strength in strengths.items():
            factors[name] = float(rng.uniform(max(0, 1 - strength), 1 + strength))
        factors['hue'] = float(rng.uniform(-hue, hue))
        order = rng.permutation(list(factors)).tolist()
        drawn['colour'] = [(name, factors[name]) for name in order]
    if rng.random() < blur:
        drawn['blur'] = float(rng.uniform(0.1, 2.0))
    drawn['grey'] = bool(rng.random() < grey)
    return drawn


def draw_crop(rng, height, width, scale, ratio):
    """-> top, left, height, width of a crop of random area and aspect, uniform in its logarithm."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*np.log(ratio)))
        h = round(math.sqrt(area / aspect))
        w = round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    return 0, 0, height, width    # none fits: the whole frame, squashed (release: the same)


def augment(frames, drawn, size):
    """One draw of draw_augmentation for a whole clip: -> normalised (n, 3, S, S)."""
    import torchvision.transforms.v2.functional as TF    # here: imports as slowly as PyTorch
    top, left, height, width = drawn['crop']
    frames = resize(frames[:, :, top:top + height, left:left + width], size)    # (n, 3, S, S)
    if drawn['flip']:
        frames = frames.flip(-1)
    for name, factor in drawn['colour']:
        adjust = getattr(TF, f'adjust_{name}')
        frames = adjust(frames, factor)
    if drawn['blur']:
        frames = TF.gaussian_blur(frames, [5, 9], drawn['blur'])    # width x height, as in CARL
    if drawn['grey']:
        frames = TF.rgb_to_grayscale(frames, num_output_channels=3)
    return normalise(frames)


def views(batch, size, device='cpu'):
    """A batch as `collate` returns it -> augmented clips (B, 2, T, 3, S, S) on the device."""
    clips = []
    for frames, position, drawn in zip(batch['frames'], batch['position'], batch['augment']):
        frames = [each.to(device, non_blocking=True) for each in frames]
        position = position.to(device, non_blocking=True)
        view_a = augment(frames[0][position[0]], drawn[0], size)      # (T, 3, S, S)
        view_b = augment(frames[-1][position[1]], drawn[1], size)
        clips.append(torch.stack([view_a, view_b]))
    return torch.stack(clips)


def center(frames, size):
    """At evaluation: the central S x S pixels (a smaller side whole) -> normalised (n, 3, S, S)."""
    height, width = frames.shape[2:]
    top = max(0, math.ceil((height - size) / 2))
    left = max(0, math.ceil((width - size) / 2))
    frames = frames[:, :, top:top + min(size, height), left:left + min(size, width)]
    return normalise(resize(frames, size))


def resize(frames, size):
    """uint8 (n, 3, H, W) -> float in [0, 1] (n, 3, S, S): bilinear, without antialias."""
    return F.interpolate(frames.float() / 255, (size, size), mode='bilinear', align_corners=False)


@cache
def statistics(device):
    """Mean and standard deviation (3, 1, 1) on the device; sent once, since that waits for it."""
    mean = torch.tensor(MEAN, device=device)[:, None, None]
    std = torch.tensor(STD, device=device)[:, None, None]
    return mean, std


def normalise(frames):
    """Colours in [0, 1], (..., 3, H, W) -> as the backbones were trained on them."""
    mean, std = statistics(frames.device)
    return (frames - mean) / std


def denormalise(frames):
    """Undo `normalise`: -> colours in [0, 1], (..., 3, H, W)."""
    mean, std = statistics(frames.device)
    return frames * std + mean


def main():
    doctor.main(DATASETS)


if __name__ == '__main__':
    main()
