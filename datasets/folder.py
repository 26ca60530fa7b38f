"""One's own videos: a folder of video files and of folders of images.

    DIR/train/squat/a.mp4    DIR/train/squat/a.txt     the folder a video lies in names its action;
    DIR/val/squat/b/1.jpg    DIR/val/squat/b.npy       labels lie beside it, see labels.py
Without train/ and val/ every fifth video by name is val; of fewer than ten, all are both. A folder
that holds images and no video file is a video, its images the frames; so is a file of many images
(a TIFF stack, an animated WebP). What is passed over is named with the reason.
"""
import os
import re
from collections import Counter, defaultdict
from decimal import Decimal
from functools import partial

from datasets.images import IMAGE_FILES, STACKS, frame_folder, images_in, natural, pages_of
from datasets.labels import CLASS_FILES, LABEL_FILES, class_names, read_labels
from datasets.layout import NOTE, DataSet, readable, say, shortened
from datasets.video import VIDEO_FILES, video_file
from running.errors import UserError

HALF = re.compile(       # of a path: a folder that looks like a half of a split
    r'(?:^|[/\\])((?:train|val|valid|validation|dev|test|eval|evaluation)(?:ing)?'
    r'(?:[-_ .]?(?:set|split|data|videos|clips|\d+))?)[/\\]', re.IGNORECASE)
KNOWN = {*VIDEO_FILES, *IMAGE_FILES, *LABEL_FILES}
DATE = r'(?:19|20)\d\d[-_.]?\d\d[-_.]?\d\d'
CLOCK = r'(?:\d{6}|\d\d[-_.:h]\d\d[-_.:m]\d\d)'
TIME = rf'(?:{DATE}[-_. T]*)?{CLOCK}(?:[-_.,]\d+)?s?|{DATE}|\d+\.\d+'


def folder(data, size, unit=None):
    """-> videos, [notes]. size: pixels a side. unit: 'seconds' or 'frames', of segments."""
    search = Search(data, size)
    videos = split(data, search)
    names = class_names(data, search.labels, unit)
    for video, path in search.labels.items():
        video.classes = names
        video.annotate = partial(read_labels, path, names=names, unit=unit, times=video.times)
    return videos, search.notes()


def split(data, search):
    """-> {'train': [Video], 'val': [Video]}"""
    if (data / 'train').is_dir() and (data / 'val').is_dir():
        val = search.below(data / 'val')  # first: a folder linked into both is not trained on
        train = search.below(data / 'train')
        known = {data / name for name in ('train', 'val', *CLASS_FILES)}
        search.pass_over('outside train/ and val/', set(data.glob('[!.]*')) - known)
        return {'train': train, 'val': val}
    found = search.below(data)
    for video in found:
        half = HALF.search(video.name)
        if half:
            raise UserError(
                f'{data}/{video.name}: in a folder {half[1]}/, but a split is {data}/train/ and '
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


def video_at(name, path, size=None):
    """A video file, a file of many images or a folder of frames -> its Video, as a set has it."""
    search = Search(path, size)
    if path.is_dir():
        frames = search.one_series(images_in(path))
    else:
        frames = stacks_among([path]).get(path)
    for note in search.notes():
        say(note)
    return as_video(name, path, frames, size)


def as_video(name, path, frames, size, action=None):
    """frames: the images of a folder, or of a file of many; of a video file None."""
    if frames is None:
        return video_file(name, path, size, action=action)
    return frame_folder(name, frames, size, action=action)


# --------------------------------------------------------------------------------------------------
# What lies in the folder

class Search:
    """Looks for videos below some folders."""

    def __init__(self, top, size=None):
        self.top = top
        self.size = size
        self.labels = {}                # {Video: its label file}
        self.noted = defaultdict(list)  # what is passed over, {why: [paths]}
        self.entered = set()            # folders, without links

    def below(self, root):
        """The videos below a folder, by name. The folder in which one lies names its action."""
        frames = {}                     # of each video, by its path
        label_files = []
        pending = [root]
        while pending:
            here = pending.pop()
            if here.resolve() in self.entered:
                self.pass_over('a link to a folder that is used already', [here])
                continue
            self.entered.add(here.resolve())
            try:
                listed = [path for path in here.iterdir() if path.name[0] != '.']
            except OSError as error:
                self.pass_over(f'cannot be listed ({error.strerror})', [here])
                continue
            listed.sort(key=natural)
            # not path.is_dir() and is_file(): they fail in a folder that may not be entered
            folders = [path for path in listed if os.path.isdir(path)]
            files = [path for path in of_kind(listed, KNOWN) if os.path.isfile(path)]
            self.pass_over('neither video, image nor labels, or a link that leads nowhere',
                           set(listed) - {*folders, *files})
            label_files += of_kind(files, LABEL_FILES)
            frames |= self.videos(here, root, folders, files)
            pending += [path for path in folders if not path.is_symlink()]
            pending[:0] = [path for path in folders if path.is_symlink()]    # after all others
        beside = {file.with_suffix(''): file for file in reversed(label_files)}
        stems = {path: path if path.is_dir() else path.with_suffix('') for path in frames}
        alike = Counter(stems.values())
        twins = [path for path, stem in stems.items() if alike[stem] > 1]
        self.noted['of one name, but each used'] += twins
        videos = []
        for path, stem in stems.items():
            parent = path.parent
            action = None if parent == root else readable(parent, parent.parent)
            video = as_video(readable(path, root), path, frames[path], self.size, action)
            videos.append(video)
            if stem in beside:
                self.labels[video] = beside[stem]
        used = {*self.labels.values(), *(self.top / name for name in CLASS_FILES)}
        why = 'labels without a video or folder of images of this name, or a second file of them'
        self.pass_over(why, set(label_files) - used)
        return sorted(videos, key=natural)

    def pass_over(self, why, paths):
        self.noted[f'not used, {why}'] += paths

    def videos(self, here, root, folders, files):
        """{video in one folder: its frames}. Folders in a folder of frames are taken from
        `folders`."""
        images = of_kind(files, IMAGE_FILES)
        stacks = stacks_among(images)
        images = [file for file in images if file not in stacks]
        videos = dict.fromkeys(of_kind(files, VIDEO_FILES)) | stacks
        if images and not videos and here != root:
            self.pass_over('in a folder of frames', folders)
            folders.clear()
            frames = self.one_series(images)
            return {here: frames} if frames else {}
        self.pass_over('images that are in no folder of their own', images)
        return videos

    def one_series(self, images):
        """The frames of a video, whose names differ in the last number only, or in the time that
        they give; [] if there are several such series."""
        series = defaultdict(list)
        for image in images:
            kind, place = series_and_place(image)
            series[kind].append((place, image))
        long = [sorted(members) for members in series.values() if len(members) > 1]
        if not long:
            return images
        frames = dict(long[0])
        if len(long) > 1 or len(frames) < len(long[0]):
            self.pass_over('frames of several series in one folder; give each its own', images)
            return []
        rest = set(images) - set(frames.values())
        self.pass_over('not of the numbered series in a folder of frames', rest)
        return list(frames.values())

    def notes(self):
        """What is not used: a line for each reason, with endings and numbers."""
        lines = []
        for why, paths in self.noted.items():
            if paths:
                endings = Counter(path.suffix.lower() or 'without ending' for path in paths)
                counts = ', '.join(f'{n} {ending}' for ending, n in sorted(endings.items()))
                names = shortened(sorted(readable(path, self.top) for path in paths))
                lines.append(f'{NOTE}{why}: {counts} ({names})')
        return lines


def of_kind(files, endings):
    return [file for file in files if file.suffix.lower() in endings]


def stacks_among(images):
    """{file of many images: its pages}. If the largest of its ending is none, no other is opened: a
    folder of frames has thousands."""
    stacks = {}
    for ending in STACKS:
        alike = of_kind(images, [ending])
        if alike and pages_of(max(alike, key=os.path.getsize)):
            stacks |= {file: pages_of(file) for file in alike}
    return {file: pages for file, pages in stacks.items() if pages}


def series_and_place(image):
    """cam1_07.jpg -> 'cam1_#', (7,): what the names of a video's frames have in common, and the
    number or the time, from the largest unit down, of this one. A plain name is its own series."""
    match = re.fullmatch(rf'(.*?(?<!\d))({TIME}|\d+)(\D*)', image.stem)
    if not match:
        return image.name, ()
    before, place, after = match.groups()
    numbers = re.findall(r'\d+\.\d+|\d+', place)
    return f'{before}#{after}'.lower(), tuple(map(Decimal, numbers))


ROW = DataSet(folder, 'Any folder of video files or of folders of images', own=True)
