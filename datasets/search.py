"""What lies in a folder of one's own: video files, folders of images, labels, and what is not used.

A folder that holds images and no video file is a video, its images the frames; a file of many
images (a TIFF stack, an animated WebP) is a video too. What is passed over is kept with the reason,
so that nothing is lost in silence.
"""
import os
import re
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from datasets.images import IMAGE_FILES, STACKS, natural, pages_of
from datasets.labels import CLASS_FILES, LABEL_FILES
from datasets.layout import NOTE, readable, shortened
from datasets.video import VIDEO_FILES
from running.errors import UserError

KNOWN = {*VIDEO_FILES, *IMAGE_FILES, *LABEL_FILES}
DATE = r'(?:19|20)\d\d[-_.]?\d\d[-_.]?\d\d'
TIME = rf'(?:{DATE}[-_. T]*)?\d\d[-_.:h]?\d\d[-_.:m]?\d\d(?:[-_.,]\d+)?s?|\d+\.\d+'


class Found(NamedTuple):
    """A video: a file, or a folder of frames, and the file of its labels or None."""
    path: Path
    root: Path             # the folder below which it was found
    frames: tuple = ()     # the images of a folder, or of a file of many images
    labels: Path | None = None

    @property
    def name(self):
        return readable(self.path, self.root)

    @property
    def action(self):
        """The folder in which it lies gives its name to the action."""
        parent = self.path.parent
        return None if parent == self.root else readable(parent, parent.parent)

    @property
    def label_name(self):
        """The name of its label file, without the ending."""
        return self.path if self.path.is_dir() else self.path.with_suffix('')


class Search:
    """Looks for videos below some folders; `unused` is what it passes over: {reason: [paths]}."""

    def __init__(self, top):
        self.top = top
        self.unused = defaultdict(list)
        self.entered = set()            # folders, without links
        self.namesakes = []             # videos that have a label file in common

    def below(self, root):
        """The videos below a folder, by name."""
        label_files = []
        found = self.enter(root, root, label_files)
        return sorted(self.with_labels(found, label_files), key=natural)

    def enter(self, here, root, label_files):
        if here.resolve() in self.entered:
            self.unused['a link to a folder that is used already'].append(here)
            return []
        self.entered.add(here.resolve())
        folders, files = self.contents(here)
        label_files += of_kind(files, LABEL_FILES)
        self.unused['neither video, image nor labels'] += set(files) - set(of_kind(files, KNOWN))
        images = of_kind(files, IMAGE_FILES)
        stacks = stacks_among(images)
        images = [file for file in images if file not in stacks]
        videos = [Found(file, root) for file in of_kind(files, VIDEO_FILES)]
        videos += [Found(file, root, tuple(pages)) for file, pages in stacks.items()]
        if images and not videos and here != root:
            for folder in folders:
                self.pass_over(folder, 'in a folder inside a folder of frames')
            frames = self.one_series(images)
            return [Found(here, root, tuple(frames))] if frames else []
        why = 'images beside videos' if videos else 'images that are in no folder of their own'
        self.unused[why] += images
        for folder in folders:
            videos += self.enter(folder, root, label_files)
        return videos

    def contents(self, folder):
        """Sub-folders and files but for hidden ones, links after what they may lead to."""
        try:
            entries = sorted(os.scandir(folder), key=natural)
        except OSError as error:
            self.unused[f'cannot be listed ({error.strerror})'].append(folder)
            return [], []
        folders = []
        files = []
        for entry in sorted(entries, key=os.DirEntry.is_symlink):
            path = Path(entry.path)
            if entry.name.startswith('.'):
                continue
            if entry.is_dir():
                folders.append(path)
            elif entry.is_file():
                files.append(path)
            else:
                self.unused['not a file, or a link that leads nowhere'].append(path)
        return folders, files

    def pass_over(self, path, why):
        """Name a file, or all files below a folder."""
        below = path.rglob('*') if path.is_dir() else [path]
        self.unused[why] += [file for file in below if not file.is_dir()]

    def one_series(self, images):
        """The frames of a video, whose names differ in the last number only, or in the time that
        they give; [] if there are several such series."""
        series = defaultdict(list)
        for image in images:
            kind, place = series_and_place(image.stem)
            series[kind].append((place, image))
        long = [members for kind, members in series.items() if kind and len(members) > 1]
        if not long:
            return images
        frames = dict(sorted(long[0]))
        if len(long) > 1 or len(frames) < len(long[0]):
            self.unused['frames of several series in one folder; give each its own'] += images
            return []
        rest = set(images) - set(frames.values())
        self.unused['not of the numbered series in a folder of frames'] += rest
        return list(frames.values())

    def with_labels(self, found, label_files):
        """Give each video the label file beside it that has its name; of several the first."""
        beside = {file.with_suffix(''): file for file in sorted(label_files, reverse=True)}
        count = Counter(video.label_name for video in found)
        self.namesakes += [video for video in found if count[video.label_name] > 1]
        labelled = [video._replace(labels=beside.get(video.label_name)) for video in found]
        used = {video.labels for video in labelled}
        used |= {self.top / name for name in CLASS_FILES}
        why = 'labels without a video or folder of images of this name, or a second file of them'
        self.unused[why] += [file for file in label_files if file not in used]
        return labelled

    def notes(self):
        """What is not used: a line for each reason, with endings and numbers."""
        lines = []
        for why, paths in self.unused.items():
            if paths:
                endings = Counter(path.suffix.lower() or 'without ending' for path in paths)
                counts = ', '.join(f'{endings[ending]} {ending}' for ending in sorted(endings))
                names = shortened(sorted(readable(path, self.top) for path in paths))
                lines.append(f'{NOTE}not used, {why}: {counts} ({names})')
        if self.namesakes:
            names = sorted(readable(video.path, self.top) for video in self.namesakes)
            lines.append(f'{NOTE}of one name, but each used: {shortened(names)}')
        return lines


def of_kind(files, endings):
    return [file for file in files if file.suffix.lower() in endings]


def stacks_among(images):
    """{file of many images: its pages}. If the first of its ending is none, no other is opened: a
    folder of frames has thousands."""
    stacks = {}
    for ending in STACKS:
        for number, file in enumerate(of_kind(images, [ending])):
            try:
                pages = pages_of(file)
            except UserError:    # whoever reads it will say why
                pages = []
            if pages:
                stacks[file] = pages
            elif number == 0:
                break
    return stacks


def series_and_place(stem):
    """'cam1_07' -> ('cam1_', ''), (7,): what the names of a video's frames have in common, and the
    number or the time, from the largest unit down, of this one; None, () for a plain name."""
    match = re.fullmatch(rf'(.*?(?<!\d))({TIME}|\d+)(\D*)', stem)
    if not match:
        return None, ()
    before, place, after = match.groups()
    numbers = re.findall(r'\d+\.\d+|\d+', place)
    return (before.lower(), after.lower()), tuple(map(Decimal, numbers))
