"""Labels carried over: the phases of unlabelled videos, from a few labelled ones of their action.

The softmax regression of the classification metric is fitted on an action's labelled frames. Each
video then gets a table, NAME.csv, and a picture, NAME.png: frames, phases, probability. To say how
sure they are, the labelled videos are held out in turn, and their right frames counted.
"""
import csv
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pictures.align import by_clock, known_times, read_at
from pictures.canvas import (BLUE, WIDTH, class_name, draw_bars, figure, plain, save, show,
                             shortened)
from running.errors import UserError

FOLDS = 10            # parts held out in turn; single videos, if there are no more than that
FRAMES = 10           # of the filmstrip


class Teacher(NamedTuple):
    """What the labelled videos of one action teach."""
    classifier: Any      # frames (M, D) -> phase, with its probability
    videos: int          # how many they are
    names: list | None   # of the phases, by number
    accuracy: float      # share of right frames in held-out ones, nan if it cannot be told
    clock: float = math.nan  # the same of the control that sees no pixel


def held_out_accuracy(embeddings, labels, fit):
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
        classifier = fit(np.concatenate([embeddings[i] for i in rest]), y)
        for i in range(fold, n, FOLDS):
            right.append((classifier.predict(embeddings[i]) == labels[i]).mean())
    return float(np.mean(right)) if right else math.nan


def learn(embeddings, labels, names, fit):
    """Teacher of one action, from the embeddings (n_i, D) and labels (n_i,) of its videos."""
    classifier = fit(np.concatenate(embeddings), np.concatenate(labels))
    accuracy = held_out_accuracy(embeddings, labels, fit)
    return Teacher(classifier, len(embeddings), names, accuracy)


def apply(teacher, embeddings):
    """Teacher, (n, D) -> the phase of each frame and its probability, (n,) each."""
    probability = teacher.classifier.predict_proba(embeddings)               # (n, K)
    return teacher.classifier.classes_[probability.argmax(1)], probability.max(1)


def teachers(embedded, embeddings, clocks, fit):
    """{action: Teacher} from EmbeddedVideos, of which those without labels teach nothing; their
    embeddings [(m, D)], and the clock's; fit(x, y) -> a classifier. Errors: UserError."""
    groups = {}
    for one, x, clock in zip(embedded, embeddings, clocks):
        if one.labels[0] >= 0:                            # then all are: other frames are not kept
            groups.setdefault(one.video.action, []).append((one, x, clock))
    found = {}
    for action, group in groups.items():
        ones, xs, clocks = zip(*group)
        ys = [one.labels for one in ones]
        names = ones[0].video.classes
        phases = np.unique(np.concatenate(ys))
        if len(phases) < 2:
            raise UserError(f'{action or "labels"}: one phase only, '
                            f'{class_name(names, phases[0])}; label another one too')
        by_clock = held_out_accuracy(clocks, ys, fit)
        found[action] = learn(xs, ys, names, fit)._replace(clock=by_clock)
    if not found:
        raise UserError('no labelled video to carry phases over from')
    return found


def teacher_of(video, found):
    """The teacher of its action; the only one there is where the video's action is not known."""
    if video.action in found:
        return found[video.action]
    if len(found) == 1:
        return next(iter(found.values()))
    actions = ', '.join(str(action) for action in found)
    raise UserError(f'{video.name}: of which action? put it into a folder of that name: {actions}')


def predict(found, videos, embeddings, paths, times):
    """Phases of unlabelled videos -> notes, one line an action or video.

    found: {action: Teacher}; videos: [data.Video]; embeddings: [(n, D)] of all of their frames;
    times: [(n,) seconds or None]; paths: of the files for each, less .csv and .png. Errors:
    UserError, OSError.
    """
    times, notes = known_times(videos, times)
    own = [teacher_of(video, found) for video in videos]    # all, before the first is written
    notes += [f'{action or "phases"}: {how_sure(found[action])}' for action in found]
    for video, teacher, z, seconds, path in zip(videos, own, embeddings, times, paths):
        phase, probability = apply(teacher, z)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_table(f'{path}.csv', phase, probability, seconds, teacher.names)
        draw_prediction(video, phase, probability, teacher, seconds, f'{path}.png')
    return notes


def how_sure(teacher):
    """In words."""
    count = f'from {teacher.videos} labelled video' + ('s' if teacher.videos > 1 else '')
    if math.isnan(teacher.accuracy):
        return f'{count}: too few to tell how sure the phases are'
    sentence = f'{count}: held out in turn, {teacher.accuracy:.0%} of their frames come out right'
    sentence += f', by the clock alone {teacher.clock:.0%}'
    if teacher.accuracy < teacher.clock:
        return sentence + ': worse than the clock, do not use these phases'
    if teacher.accuracy < teacher.clock + 0.03:
        sentence += ' (hardly more than the clock)'
    return sentence


def write_table(path, phases, probabilities, seconds, names):
    with open(path, 'w', newline='', encoding='utf-8') as file:
        table = csv.writer(file)
        table.writerow(['frame', 'seconds', 'phase', 'probability'])
        for frame, (second, phase) in enumerate(zip(seconds, phases)):
            name = class_name(names, phase)
            table.writerow([frame, f'{second:.3f}', name, f'{probabilities[frame]:.3f}'])


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
    plain(curve)
    save(fig, path, f'Phases carried over {how_sure(teacher)}.')
