"""One's own videos: a folder of video files and of folders of images.

    DIR/train/squat/a.mp4    DIR/train/squat/a.txt     the folder a video lies in names its action;
    DIR/val/squat/b/1.jpg    DIR/val/squat/b.npy       labels lie beside it, see labels.py
Without train/ and val/ every fifth video by name is val; of fewer than ten, all are both.
"""
from functools import partial

from datasets.images import read_images
from datasets.labels import CLASS_FILES, class_names, read_labels
from datasets.layout import DataSet, say
from datasets.packets import frame_times
from datasets.search import Search
from datasets.video import Video, video_file
from running.errors import UserError

HALVES = {'train', 'training', 'trainset', 'train_set', 'val', 'valid', 'validation', 'dev',
          'test', 'testing', 'testset', 'test_set'}    # folders that look like a split


def folder(data, size, unit=None):
    """-> videos, [notes]. size: pixels a side. unit: 'seconds' or 'frames', of segments."""
    search = Search(data)
    found = split(data, search)
    listed = list(dict.fromkeys(found['train'] + found['val']))
    made = {video: as_video(video, size, unit) for video in listed}
    names = class_names(data, {one.labels: made[one] for one in listed if one.labels}, unit)
    for video in made.values():
        video.classes = names
        if video.annotate:
            video.annotate = partial(video.annotate, names=names)
    return {half: list(map(made.get, some)) for half, some in found.items()}, search.notes()


def split(data, search):
    """-> {'train': [Found], 'val': [Found]}"""
    if (data / 'train').is_dir() and (data / 'val').is_dir():
        val = search.below(data / 'val')  # first: a folder linked into both is not trained on
        train = search.below(data / 'train')
        for path in sorted(data.iterdir()):
            if path.name not in ('train', 'val', *CLASS_FILES):
                search.pass_over(path, 'outside train/ and val/')
        return {'train': train, 'val': val}
    found = search.below(data)
    for video in found:
        *folders, _ = video.path.relative_to(data).as_posix().replace('\\', '/').split('/')
        for name in folders:
            if name.lower() in HALVES:
                raise UserError(
                    f'{video.path}: in a folder {name}/, but a split is {data}/train/ and '
                    f'{data}/val/, in small letters, both of them. Make what is missing, or '
                    f'rename the folder')
    if 0 < len(found) < 10:               # tau wants two val videos
        say(f'{data}: all of its videos ({len(found)}) are both train and val, '
            'too few to set any aside', warning=True)
        return {'train': found, 'val': found}
    if found:
        say(f'{data}: no train/ and val/ in it, so every fifth video by name is val', warning=True)
    train = [video for i, video in enumerate(found) if i % 5 != 4]
    return {'train': train, 'val': found[4::5]}


def as_video(found, size, unit=None):
    """A Found -> its Video."""
    known = dict(action=found.action)
    if found.labels:
        times = None if found.frames else partial(frame_times, found.path)
        known['annotate'] = partial(read_labels, found.labels, unit=unit, times=times)
    if not found.frames:
        return video_file(found.name, found.path, size, **known)
    decode = partial(read_images, found.frames, size=size)
    return Video(found.name, partial(len, found.frames), decode, **known)


ROW = DataSet(folder, 'Any folder of video files or of folders of images', segments=True,
              whole=True)
