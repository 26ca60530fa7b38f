"""Videos in, clips out, by the protocol of CARL ([9]), which the paper follows (section 4).

A `Video` (datasets/video.py) has `frames` (how many), `action` and `labels` (a phase each, or None)
and decodes the frames asked for, uint8 (n, 3, H, W). `Clips` draws two views of T frames of each;
`views` augments them on the device that trains, (B, 2, T, 3, S, S). Evaluation calls `center`
instead. `python data.py NAME --data DIR` tells what of a data set is there.
"""
import math
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from datasets import doctor, finegym, folder, garden, k400, penn, pouring, synthetic
from datasets.doctor import read_dataset, say_remarks
from datasets.images import frame_folder  # noqa: F401, for users of this file
from datasets.labels import number_phases
from datasets.video import Video, video_file  # noqa: F401, for users of this file
from running.errors import UserError

MEAN = (0.485, 0.456, 0.406)    # of ImageNet's red, green and blue, from 0 to 1
STD = (0.229, 0.224, 0.225)


# --------------------------------------------------------------------------------------------------
# Data sets by name, each a row datasets.layout.DataSet

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

    data: its folder. image_size: Penn, Pouring and folder are squashed to it. seed: of sets made in
    memory. label_unit: 'seconds' or 'frames', of labels that are segments.
    """
    if dataset not in DATASETS:
        raise UserError(f'{dataset}: no such data set. There are {", ".join(DATASETS)}')
    row = DATASETS[dataset]
    if not row.on_disk:
        if data:
            raise UserError(f'--data {data}: {dataset} is made in memory; for videos of your own '
                            f'give --dataset folder too')
        return row.read(seed)
    videos, notes, faults = read_dataset(dataset, row, data, image_size, label_unit)
    say_remarks(dataset, data, notes, faults)
    return videos


# --------------------------------------------------------------------------------------------------
# Two views of a video, as CARL draws them

def two_views(rng, length, frames, *, block='length', shift=0.8):
    """Time stamps of two views of a video -> int64 (2, T), rising; at the end, >= length, padding.

    block: as in `draw_view`. shift, of use with 'clip' alone: how far from view a's first frame
    view b's stretch starts at most, in clips.
    """
    view_a = draw_view(rng, length, frames, block)
    reach = int(shift * min(length, frames))
    view_b = draw_view(rng, length, frames, block, near=view_a[0], reach=reach)
    return np.stack([view_a, view_b])


def draw_view(rng, length, frames, block, near=None, reach=0):
    """One view: min(T, length) places at random, in order, in a stretch of the video; then padding
    -> int64 (T,).

    The stretch is 1 to 1.5 times as long as the video (block 'length', CARL: it starts at frame 0
    and may run past the end, with a fifth of its places, on average); or as the clip ('clip'), and
    then starts within `reach` frames of `near`, view a's first; view a itself starts anywhere.

        video    |0 . . . . . . . . . . . . . . . length-1|
        stretch  |------------------------------------------------------|
        view       x    x x     x        x    x      x        o    o  o    x: a frame    o: padding
    """
    n = min(length, frames)
    while True:
        size = math.ceil(rng.uniform(1, 1.5) * (length if block == 'length' else n))
        last = length - size                # the last start that fits; < 0: none
        low, high = 0, last                 # low .. high-1; CARL: view b may start at `last`, too
        if near is not None:
            low = max(0, min(last, near - reach))
            high = min(last + 1, near + reach + 1)
        start = rng.integers(low, max(1, high))
        time = np.full(frames, length)
        time[:n] = start + np.sort(rng.choice(size, n, replace=False))
        if time[0] < length:                # ours: else all is padding (one frame, T = 2): again
            return time


class Clips(Dataset):
    """Two views of T frames of every video; item (epoch, index) -> dict. All that is random comes
    from (seed, epoch, index): the number of workers, their order, what ran before change nothing.

    names     [name], of a pair of videos two
    clips     [uint8 (T, 3, H, W)] * 2, one a view; padding repeats the last frame that counts
    time      int64 (2, T), each frame's number in its video, in units of k frames, see `longest`
    length    int64 (2,), how many frames the video has, in the same units
    valid     bool (2, T), False = padding
    labels    int64 (2, T), see datasets/labels.py; -1 = unlabelled, padding, or with_labels=False
    seeds     int64 (2,), from which each view's augmentation is drawn
    skipped   {name: reason} of broken videos that were drawn before; another took their place

    sample: draws the time stamps; sampling: its options. longest (ours): of a video of more frames
    only every k-th counts, k = `thinning`; else k = 1.
    """

    def __init__(self, videos, *, frames, seed=0, with_labels=False, sample=two_views, longest=0,
                 **sampling):
        self.videos = videos
        self.T = frames
        self.seed = seed
        self.longest = longest
        self.sample = partial(sample, frames=frames, **sampling)
        # {action: the number of its phase 0}, so that no two actions share a class
        self.first_class, self.classes = number_phases(videos) if with_labels else ({}, 0)

    def __len__(self):
        return len(self.videos)

    def rng(self, epoch, index):
        return np.random.default_rng([self.seed, epoch, index])

    def __getitem__(self, key):
        epoch, index = key
        rng = self.rng(epoch, index)
        skipped = {}
        for _ in range(100):
            try:
                item = self.draw(rng, index)
            except UserError as error:
                reason, name = error.args                                 # raised below, in `read`
                skipped[name] = reason
                index = int(rng.integers(len(self.videos)))
                continue
            item['seeds'] = torch.from_numpy(rng.integers(2 ** 62, size=2))
            item['skipped'] = skipped
            return item
        raise UserError(f'100 videos in a row cannot be read; the last: {reason}')

    def draw(self, rng, index):
        """Both views of one video; VideoPairs (datasets/pairs.py): one view of each of two."""
        return self.read(rng, self.videos[index], count=2)

    def read(self, rng, video, count):
        """So many views of a video -> an item, less seeds and skipped. Errors: UserError(why it
        cannot be read, its name)."""
        try:
            time, length, step = self.times(rng, video)
            time = time[:count]                                           # (count, T)
            valid = time < length
            time = np.minimum(time, length - 1)
            # rng: with --versions, to draw which (running/features.py)
            frames = video.read_views(rng, time * step)                   # (count * T, 3, H, W)
            labels = np.full(time.shape, -1)
            if video.action in self.first_class and video.labels is not None:
                phases = video.labels[time * step]
                numbers = self.first_class[video.action] + phases
                labels = np.where(valid & (phases >= 0), numbers, -1)
        except UserError as error:
            raise UserError(str(error), video.name) from None
        return {
            'names': [video.name],
            'clips': list(frames.split(self.T)),
            'time': torch.from_numpy(time),
            'length': torch.full((count,), length),
            'valid': torch.from_numpy(valid),
            'labels': torch.from_numpy(labels),
        }

    def times(self, rng, video):
        """-> time stamps int64 (2, T) and length in units of `step` frames, and step."""
        step = thinning(video.frames, self.longest)
        length = math.ceil(video.frames / step)
        return self.sample(rng, length), length, step


def thinning(frames, longest):
    """The least k so that every k-th of the frames are at most `longest`; 1 if that is 0 or inf."""
    return max(1, math.ceil(frames / longest)) if longest else 1


def collate(items):
    """Items -> a batch: tensors stacked (B, ...), others as lists, `skipped` merged into one."""
    batch = {}
    for key, value in items[0].items():
        batch[key] = [item[key] for item in items]
        if torch.is_tensor(value):
            batch[key] = torch.stack(batch[key])
    batch['skipped'] = {}
    for item in items:
        batch['skipped'] |= item['skipped']
    return batch


# --------------------------------------------------------------------------------------------------
# CARL's augmentation

@cache
def augmentation(size, crop, jitter, hue):
    """torchvision's transforms of uint8 (T, 3, H, W) -> (T, 3, S, S) in [0, 1]; one call on a clip
    is one draw for all its frames. crop: None leaves frames whole, squashed."""
    from torchvision.transforms import v2    # here: imports as slowly as PyTorch
    if crop is None:
        cut = v2.Resize((size, size), antialias=False)
    else:
        cut = v2.RandomResizedCrop(size, scale=(crop, 1), antialias=False)  # aspect 3/4 to 4/3
    return v2.Compose([
        cut,
        v2.ToDtype(torch.float32, scale=True),
        v2.RandomHorizontalFlip(0.5),
        v2.RandomApply([v2.ColorJitter(jitter, jitter, jitter, hue)], 0.8),
        v2.RandomApply([v2.GaussianBlur((5, 9), sigma=(0.1, 2))], 0.4),     # width x height
        v2.RandomGrayscale(0.2)])


def augment(frames, seed, size, *, crop=0.8, jitter=0.8, hue=0.2):
    """A view augmented: uint8 (T, 3, H, W) on any device -> normalised (T, 3, S, S).

    crop: smallest share of the area that is kept; jitter, hue: strengths. Drawn from the seed on
    the CPU, so that no GPU is waited for, and the global generators stay as they are.
    """
    if frames.dtype == torch.float16:      # features of --versions: nothing to augment
        return frames.float()
    height, width = frames.shape[2:]
    if min(1, 4 / 3 * height / width, 4 / 3 * width / height) < crop:
        # of FineGym's 640 x 360 a crop of aspect 4/3 has at most 4/3 * 360/640 = 0.75. CARL: then
        # the whole frame, squashed; torchvision would cut out the middle
        crop = None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        return normalise(augmentation(size, crop, jitter, hue)(frames))


def views(batch, size, device='cpu', **strength):
    """A batch of `collate` -> its augmented clips (B, 2, T, 3, S, S) on the device. Packed features
    pass as they are, (B, 2, T, 1, P + 1, L*C)."""
    augmented = []
    for clips, seeds in zip(batch['clips'], batch['seeds'].tolist()):
        for clip, seed in zip(clips, seeds):
            clip = clip.to(device, non_blocking=torch.device(device).type == 'cuda')
            augmented.append(augment(clip, seed, size, **strength))
    return torch.stack(augmented).unflatten(0, (-1, 2))


def center(frames, size):
    """CARL: at evaluation the central S x S pixels -> normalised (n, 3, S, S). ours: a shorter side
    is taken whole."""
    if frames.dtype == torch.float16:
        return frames.float()
    height, width = frames.shape[2:]
    top = max(0, math.ceil((height - size) / 2))
    left = max(0, math.ceil((width - size) / 2))
    frames = frames[:, :, top:top + min(size, height), left:left + min(size, width)]
    return normalise(F.interpolate(frames.float() / 255, (size, size), mode='bilinear'))


@cache
def statistics(device):
    """Mean and standard deviation (2, 3, 1, 1), kept, for a copy to a GPU would be waited for."""
    return torch.tensor([MEAN, STD], device=device)[:, :, None, None]


def normalise(frames):
    """Colours in [0, 1], (..., 3, H, W) -> as the backbones were trained on them."""
    mean, std = statistics(frames.device)
    return (frames - mean) / std


def main():
    doctor.main(DATASETS)


if __name__ == '__main__':
    main()
