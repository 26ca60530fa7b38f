"""Labels carried over: the phases of unlabelled videos, from a few labelled ones of their action.

The softmax regression of the classification metric is fitted on an action's labelled frames. Each
video then gets a table, NAME.csv, and a picture, NAME.png: frames, phases, probability. To say how
sure they are, the labelled videos are held out in turn, and their right frames counted.
"""
import csv
import math
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datasets.folder import Search
from datasets.layout import say
from evaluate import clock, fit_classifier
from evaluation.embedding import embed_splits
from evaluation.table import name_some
from pictures.align import as_filmed, by_clock, known_times, read_at
from pictures.canvas import BLUE, WIDTH, class_name, draw_bars, figure, save, shortened, show
from running.errors import UserError
from running.processes import is_rank0

FOLDS = 10            # parts held out in turn; single videos, if there are no more than that
FRAMES = 10           # of the filmstrip


class Teacher(NamedTuple):
    """What the labelled videos of one action teach."""
    classifier: Any      # frames (M, D) -> phase, with its probability
    names: list | None   # of the phases, by number
    sure: str            # how sure its phases are, in words


def held_out_accuracy(embeddings, labels):
    """Share of right frames in videos that the classifier has not seen, mean over them; or nan."""
    n = len(embeddings)
    if n < 2:
        return math.nan
    right = []
    for fold in range(min(n, FOLDS)):
        rest = [i for i in range(n) if i % FOLDS != fold]
        y = np.concatenate([labels[i] for i in rest])
        if len(np.unique(y)) < 2:
            continue
        classifier = fit_classifier(np.concatenate([embeddings[i] for i in rest]), y)
        for i in range(fold, n, FOLDS):
            right.append((classifier.predict(embeddings[i]) == labels[i]).mean())
    return float(np.mean(right)) if right else math.nan


def teachers(embedded, embeddings):
    """{action: Teacher} from EmbeddedVideos, of which those without labels teach nothing, and their
    embeddings [(m, D)]. Errors: UserError."""
    groups = {}
    for one, x in zip(embedded, embeddings):
        if one.labels[0] >= 0:                            # then all are: other frames are not kept
            time = clock(one.frames)[one.kept]
            groups.setdefault(one.video.action, []).append((one.video, x, time, one.labels))
    found = {}
    for action, group in groups.items():
        videos, xs, times, ys = zip(*group)
        names = videos[0].classes
        x = np.concatenate(xs)
        y = np.concatenate(ys)
        if (y == y[0]).all():
            raise UserError(f'{action or "labels"}: one phase only, {class_name(names, y[0])}; '
                            f'label another one too')
        sure = how_sure(len(xs), held_out_accuracy(xs, ys), held_out_accuracy(times, ys))
        found[action] = Teacher(fit_classifier(x, y), names, sure)
    if not found:
        raise UserError('no labelled video to carry phases over from')
    return found


def how_sure(count, accuracy, clock):
    """In words: from so many videos, the right frames of those held out, of model and clock."""
    sentence = f'from {count} labelled video' + ('s' if count > 1 else '')
    if math.isnan(accuracy):
        return f'{sentence}: too few to tell how sure the phases are'
    sentence += f': held out in turn, {accuracy:.0%} of their frames come out right'
    sentence += f', by the clock alone {clock:.0%}'
    if accuracy < clock:
        return sentence + ': worse than the clock, do not use these phases'
    if accuracy < clock + 0.03:
        sentence += ' (hardly more than the clock)'
    return sentence


def teacher_of(video, found):
    """The teacher of its action; the only one there is where the video's action is not known."""
    if video.action in found:
        return found[video.action]
    if len(found) == 1:
        return next(iter(found.values()))
    actions = ', '.join(str(action) for action in found)
    raise UserError(f'{video.name}: of which action? put it into a folder of that name: {actions}')


def predict(found, videos, embeddings, paths):
    """Phases of unlabelled videos -> notes, one line an action or video.

    found: {action: Teacher}; videos: [data.Video]; embeddings: [(n, D)] of all of their frames;
    paths: of the files for each, less .csv and .png. Errors: UserError, OSError.
    """
    times, notes = known_times(videos)
    own = [teacher_of(video, found) for video in videos]    # all, before the first is written
    notes += [f'{action or "phases"}: {teacher.sure}' for action, teacher in found.items()]
    for video, teacher, z, seconds, path in zip(videos, own, embeddings, times, paths):
        probability = teacher.classifier.predict_proba(z)                    # (n, K)
        phase = teacher.classifier.classes_[probability.argmax(1)]
        probability = probability.max(1)                                     # (n,)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(f'{path}.csv', 'w', newline='', encoding='utf-8') as file:
            table = csv.writer(file)
            table.writerow(['frame', 'seconds', 'phase', 'probability'])
            for frame, label in enumerate(phase):
                name = class_name(teacher.names, label)
                table.writerow([frame, f'{seconds[frame]:.3f}', name, f'{probability[frame]:.3f}'])
        draw_prediction(video, phase, probability, teacher, seconds, f'{path}.png')
    return notes


def draw_prediction(video, phase, probability, teacher, seconds, path):
    """A filmstrip, the predicted phases as a bar under it, their probability under that. A frame
    stands over its own time: in the middle of an equal part of the video."""
    n = len(phase)
    at = by_clock(min(n, FRAMES), n)
    strip = []
    for frame in read_at(video, at):
        frame = Image.fromarray(frame)
        frame.thumbnail((480, 480))                       # a phone's has 8 megapixels
        strip.append(np.asarray(frame))
    height, width, _ = strip[0].shape
    tall = min(2.5, (WIDTH - 1) / len(strip) * height / width)
    fig = figure(WIDTH, tall + 2.5, layout='constrained')
    frames, bar, curve = fig.subplots(3, 1, height_ratios=[tall, 0.4, 0.8])
    show(frames, [strip], (), [f'{seconds[i]:.1f} s' for i in at])
    frames.set_aspect('auto')                             # as wide as the bar
    frames.set_title(shortened(video.name, 80), fontsize=10)
    draw_bars(bar, {'phase': phase}, teacher.names)
    bar.set_xticks([])
    curve.stairs(probability, range(n + 1), baseline=None, color=BLUE)
    curve.set(xlim=(0, n), ylim=(0, 1.05), xlabel='frame', ylabel='probability')
    save(fig, path, f'Phases carried over {teacher.sure}.')


def predict_folder(network, settings, train, folder, out):
    """What evaluate.py's --predict does, of the videos in a folder and its sub-folders. train:
    [Video], of which those with labels teach. Errors: UserError, OSError."""
    search = Search(folder, network.backbone.image_size)
    videos = search.below(folder)
    for note in search.notes():
        say(note)
    if not videos:
        raise UserError(f'{folder}: no video in it')
    taught = {video.action: video.action for video in train if video.annotate}
    if not taught:
        raise UserError('no video of the training set has labels, to carry over to others')
    actions = {}                   # which action teaches each: now, and not after hours of work
    for video in videos:
        video.action = video.action or folder.resolve().name
        actions[video] = teacher_of(video, taught)
    other = [video.name for video, action in actions.items() if action and video.action != action]
    action = next(iter(taught))    # the only one there is, where it is given to others
    for note in name_some(f'phases of {action} given to videos of other folders', other):
        say(f'note: {note}')
    train = [video for video in train if video.annotate and video.action in actions.values()]
    embedded, embeddings, _ = embed_splits(
        {'model': network}, {'train': train, 'predict': videos}, settings, thin=True)
    if not is_rank0():
        return
    known, new = embeddings['model'].values()
    videos = [one.video for one in embedded['predict']]
    paths = [out / video.name for video in videos]
    for note in predict(teachers(embedded['train'], known), as_filmed(videos), new, paths):
        say(note)
    say(f'written: {len(paths)} tables and pictures below {out}')
