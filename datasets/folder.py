"""One's own videos: a folder of video files and of folders of images.

    DIR/train/squat/a.mp4    DIR/train/squat/a.txt     the folder a video lies in names its action;
    DIR/val/squat/b/1.jpg    DIR/val/squat/b.npy       labels lie beside it, see labels.py
Without train/ and val/ every fifth video by name is val; of fewer than ten, all are both.
"""
import filecmp
from collections import defaultdict
from functools import partial

from datasets.classes import CLASS_FILES, class_names
from datasets.images import read_images
from datasets.labels import read_labels
from datasets.layout import NOTE, DataSet, say, shortened
from datasets.search import Search
from datasets.segments import frame_times
from datasets.video import Video, video_file
from running.errors import UserError


def folder(data, size, unit=None):
    """-> videos, [notes]. size: pixels a side. unit: 'seconds' or 'frames', of segments."""
    search = Search(data)
    found = split(data, search)
    listed = list(dict.fromkeys(found['train'] + found['val']))
    names, source = class_names(data, [video.labels for video in listed if video.labels])
    if names:
        numbers = ', '.join(f'{i} {name}' for i, name in enumerate(names) if name)
        say(f'classes, numbered by {source}: {numbers}', warning=False)
    made = {video: as_video(video, size, names, unit) for video in listed}
    videos = {half: [made[video] for video in found[half]] for half in found}
    return videos, search.notes() + in_both(found)


def split(data, search):
    """-> {'train': [Found], 'val': [Found]}"""
    halves = [half for half in ('train', 'val') if (data / half).is_dir()]
    if len(halves) == 1:
        raise UserError(f'folder: {data} has {halves[0]}/ but not the other of train/ and val/')
    if halves:
        val = search.below(data / 'val')  # first: a folder linked into both is not trained on
        train = search.below(data / 'train')
        for path in sorted(data.iterdir()):
            if path.name not in ('train', 'val', *CLASS_FILES):
                search.pass_over(path, 'outside train/ and val/')
        return {'train': train, 'val': val}
    found = search.below(data)
    if not found:
        return {'train': [], 'val': []}
    if len(found) < 10:                   # tau wants two val videos
        say(f'{data}: all of its videos ({len(found)}) are both train and val, '
            'too few to set any aside')
        return {'train': found, 'val': found}
    say(f'{data}: no train/ and val/ in it, so every fifth video by name is val')
    val = found[4::5]
    return {'train': [video for video in found if video not in val], 'val': val}


def as_video(found, size, names, unit):
    known = dict(action=found.action, classes=names)
    if found.labels:
        times = None if found.frames else partial(frame_times, found.path)
        known['annotate'] = partial(read_labels, found.labels, names=names, unit=unit, times=times)
    if not found.frames:
        return video_file(found.name, found.path, size, **known)
    count = partial(len, found.frames)
    decode = partial(read_images, found.frames, size=size)
    return Video(found.name, count, decode, **known)


def in_both(found):
    """A note of each video that is in train and in val, whatever its name; none if all are."""
    if found['train'] == found['val']:
        return []
    by_size = defaultdict(list)
    for video in found['train']:
        by_size[sizes(video)].append(video)
    notes = []
    for video in found['val']:
        twins = [other.name for other in by_size[sizes(video)] if same(video, other)]
        if twins:
            notes.append(f'{NOTE}{video.name} of val is in train too, as {shortened(twins)}')
    return notes


def sizes(video):
    """Bytes of each of a video's files."""
    return tuple(file.stat().st_size for file in video.files)


def same(one, other):
    return all(map(partial(filecmp.cmp, shallow=False), one.files, other.files))


ROW = DataSet(folder, 'Any folder of video files or of folders of images', segments=True,
              whole=True)
