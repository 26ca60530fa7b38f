"""A run's loss, learning rate and metrics over time, from the log.jsonl that train.py writes."""
import json
from pathlib import Path

import numpy as np

from pictures.canvas import BLUE, RED, WIDTH, figure, plain, save

METRICS = {'classification': 'classification', 'progression': 'progression', 'tau': 'tau',
           'ap5': 'AP@5'}


def smooth(values, width):
    return np.convolve(values, np.ones(width) / width, 'valid')


def draw_training(log, path):
    """Loss and learning rate over steps, metrics over epochs if there are several evaluations."""
    try:
        lines = [json.loads(line) for line in Path(log).read_text().splitlines()]
    except (OSError, ValueError) as error:
        return f'no training.png: no log beside the checkpoint ({error})'
    steps = [line for line in lines if 'loss' in line]
    evaluations = [line for line in lines if 'tau' in line]
    if not steps:
        return f'no training.png: {log} has no training step'
    panels = 3 if len(evaluations) > 1 else 2
    fig = figure(WIDTH, 2.8, layout='constrained')
    loss, rate, *metrics = fig.subplots(1, panels)
    step = [line['step'] for line in steps]
    values = [line['loss'] for line in steps]
    width = 1 + len(steps) // 50
    loss.plot(step, values, color='#BBBBBB', linewidth=0.8, label='a step')
    loss.plot(step[width - 1:], smooth(values, width), color=BLUE, label=f'mean of {width}')
    loss.set(title='loss', xlabel='step')
    loss.legend(fontsize=8)
    rate.plot(step, [line['lr'] for line in steps], color=BLUE)
    rate.set(title='learning rate', xlabel='step')
    for axes in metrics:
        for colour, (metric, title) in zip((BLUE, RED, '#009E73', '#CC79A7'), METRICS.items()):
            known = [line for line in evaluations if line.get(metric) is not None]
            epochs = [line['epoch'] for line in known]
            axes.plot(epochs, [line[metric] for line in known], 'o-', color=colour, label=title)
        axes.set(title='metrics on val', xlabel='epoch')
        axes.legend(fontsize=8)
    for axes in fig.axes:
        plain(axes)
    save(fig, path)
