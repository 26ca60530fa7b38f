"""From embeddings to tables: scores of each action, what is said of them, the focus."""
import math

import numpy as np
import pytest
import torch

import data
import evaluate
from pictures import figures
from evaluation import focus, table
from noise import (SETTINGS, Film, embedded_of, films, random_videos)

torch.set_num_threads(1)                                  # the frames are tiny


# ------------------------------------------------------------------------------------------------
# Scores

def test_scores_are_per_action_then_the_plain_mean():
    embedded = {'train': [], 'val': []}
    embeddings = {'train': [], 'val': []}
    parts = {}
    for action, seed in (('jump', 0), ('run', 1)):
        for split, count in (('train', 6), ('val', 3 + seed)):
            x, labels = random_videos(count, seed=10 * seed + count)
            labels = [np.abs(y) for y in labels]
            parts[action, split] = x, labels
            embedded[split] += embedded_of(labels, action)
            embeddings[split] += x
    rows = evaluate.score('penn', embedded, embeddings)
    assert list(rows) == ['jump', 'run', 'mean']
    for action in ('jump', 'run'):
        row = rows[action]
        val, val_labels = parts[action, 'val']
        lists = *parts[action, 'train'], val, val_labels
        assert row['classification'] == evaluate.classification(*lists)
        assert row['tau'] == evaluate.kendalls_tau(val, 2)    # Penn: every second frame
        assert row['ap5'] == evaluate.retrieval(val, val_labels, 5, 2)
    both = rows['jump']['ap5'] + rows['run']['ap5']
    assert rows['mean']['ap5'] == pytest.approx(both / 2)
    rows = evaluate.score('finegym99', embedded, embeddings)
    assert list(rows) == ['mean']                             # one whole, one metric
    assert list(rows['mean']) == ['classification']


def test_labels_of_one_split_alone_tell_nothing(network, capsys):
    videos = {'train': [Film('a', 6, [0] * 3 + [1] * 3)], 'val': [Film('b', 7), Film('c', 5)]}
    evaluate.evaluate(network, videos, SETTINGS)
    assert 'Without labels nothing can be told' in capsys.readouterr().out


def test_without_labels_there_is_tau_only(network, capsys):
    split = [Film('a', 6), Film('b', 7)]
    scores = evaluate.evaluate(network, {'train': split, 'val': split}, SETTINGS)
    assert list(scores) == ['tau']
    out = capsys.readouterr().out
    assert 'Without labels nothing can be told' in out
    assert 'AP@5' not in out
    assert 'clock' in out


def test_kinetics_has_nothing_to_measure(network, capsys):
    many = [Film(str(i), 5) for i in range(20)]
    videos = {'train': many, 'val': many}
    result = evaluate.assess({'': network}, videos, SETTINGS | {'dataset': 'k400'})
    assert result['rows'] == {}
    assert len(result['embedded']['val']) == 8
    table.print_result(result, {'mean': ['']})
    assert 'nothing to measure' in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------
# What is said of them

def test_remarks_name_what_is_missing():
    rows = {'jump': dict(tau=0.5, ap5=0.5), 'run': dict(tau=math.nan, ap5=math.nan)}
    line, = table.remarks(rows, dict(train=[], val=[]))
    assert line == 'run: no tau, AP@5; it takes two val videos, labels in both splits'


def test_scores_of_the_videos_trained_on_are_said():
    """The very same videos, not others of the same names."""
    labels = [np.array([0, 1, 2]), np.array([0, 2, 2])]
    records = embedded_of(labels, 'jump')
    for val, told in [(records, True), (embedded_of(labels, 'jump'), False)]:
        lines = table.remarks({}, dict(train=records, val=val))
        assert any('videos trained on' in line for line in lines) == told


def test_several_checkpoints_print_mean_and_two_population_deviations(capsys):
    values = np.array([0.90, 0.92, 0.97])
    rows = {}
    for name, value in zip('abc', values):
        rows[name] = {'mean': {'classification': value, 'tau': math.nan}}
    mean, deviation = table.spread(rows, list(rows))['mean']['classification']
    assert mean == pytest.approx(0.93)
    assert deviation == pytest.approx(2 * np.sqrt(np.mean((values - 0.93) ** 2)))
    result = dict(dataset='penn', embedded={'train': [1, 2, 3], 'val': [4]}, rows=rows, remarks=[],
                  paper=data.DATASETS['penn'].paper)
    table.print_result(result, {'mean': list(rows)})
    out = capsys.readouterr().out
    for text in ('3 train, 1 val videos', '0.9300 ± 0.0589', '0.9421 ± 0.0004', ' -'):
        assert text in out


SEVERAL = 'Above every control by more than the spread of the 2 checkpoints: '
SINGLE = 'Above every control by more than 0.03 (a fixed margin: one run has no spread): '


@pytest.mark.parametrize('clock, untrained, frozen, trained, sentence', [
    # 0.81 - 0.02 is above 0.78, and 0.80 - 0.20 is not above 0.72
    ((0.70, 0.72), (0.78, 0.60), (0.3, 0.3), [(0.80, 0.70), (0.82, 0.90)],
     SEVERAL + 'classification; not AP@5.'),
    ((0.70, 0.50), (0.78, 0.59), (0.3, 0.3), [(0.80, 0.70), (0.82, 0.90)],
     SEVERAL + 'classification, AP@5.'),
    ((0.5, 0.5), (0.5, 0.5), (0.3, 0.3), [(0.54, 0.52)], SINGLE + 'classification; not AP@5.'),
    ((0.5, 0.5), (0.4, 0.4), (0.3, 0.3), [(0.52, 0.45)],
     SINGLE + 'nothing. This model has not learned more than the time in the video.'),
    ((0.5, 0.5), (0.6, 0.6), (0.3, 0.3), [(0.61, 0.45)],
     SINGLE + 'nothing. Training has added nothing to what the network shows before it.'),
    ((0.5, 0.5), (0.4, math.nan), (0.3, 0.3), [(0.54, math.nan)], SINGLE + 'classification.'),
    ((0.5, 0.5), (0.5, 0.5), (0.6, 0.6), [(0.6, 0.6)],
     SINGLE + 'nothing. The frozen backbone alone does as well.'),
    ((0.5, 0.5), (0.5, 0.5), (0.3, 0.3), [(math.nan, math.nan)],
     'Nothing here can be compared with the controls.'),
])
def test_verdict(clock, untrained, frozen, trained, sentence):
    """Each has two values: of classification and AP@5."""
    models = {'clock': clock, 'untrained': untrained, 'frozen (CLS)': frozen}
    names = [f'model {i}' for i in range(len(trained))]
    models |= dict(zip(names, trained))
    columns = ['classification', 'ap5']
    rows = {name: {'mean': dict(zip(columns, values))} for name, values in models.items()}
    assert table.verdict(rows, names, columns) == sentence


# ------------------------------------------------------------------------------------------------
# The focus on the actor

def test_focus_by_hand():
    actor = torch.tensor([[1., 1., 0., 0.], [0.5, 0., 0., 0.]])
    attention = torch.tensor([
        [[0.5, 0.2, 0.3, 0.], [0.25, 0.25, 0.25, 0.25]],
        [[0., 0., 0., 1.], [2., 0., 0., 0.]],
    ])
    f = focus.focus(attention, actor)
    np.testing.assert_allclose(f['mass'], [[0.7, 0.5], [0., 0.5]])    # shares: 2 is 1
    assert f['area'].tolist() == [[0.5, 0.5], [0.125, 0.125]]
    assert f['iou'][:, 0].tolist() == pytest.approx([1 / 3, 0])       # {0, 2} with {0, 1}
    assert f['iou'][1, 1] == 1
    assert f['entropy'][0, 1] == pytest.approx(1)
    assert f['entropy'][1].tolist() == [0, 0]


def test_masks_pass_through_the_frames_crop(network, monkeypatch):
    """16 more pixels a side: the centre crop starts at row and column 8; patches are 6 x 6."""
    images, entities, heads, actor = figures.look_at(network, Film('a', 4, size=40), [0, 2])
    assert images.shape == (2, 3, 24, 24)
    assert entities.shape == (2, 2, 16)
    assert heads.shape == (2, 3, 16)
    assert actor.shape == (2, 16)
    assert actor.sum() == 0               # the actor's 9 x 6 pixels begin and end left of it
    expected = np.zeros((4, 4))
    expected[:2, 0] = 1, 0.5
    for size in (24, 28):                 # the ViT sees 4 x 4 patches, not the last 4 pixels
        monkeypatch.setattr(network.backbone, 'image_size', size)
        actor = figures.look_at(network, Film('a', 4, size=size), [0, 2]).actor
        np.testing.assert_allclose(actor[0], expected.ravel(), atol=1e-6)


def test_focus_of_every_entity_and_head(network, capsys):
    networks = {'mine': network, 'untrained': evaluate.untrained(SETTINGS, network)}
    videos = films()['val']
    focus.print_focus(networks, videos, frames=3)
    *_, head = rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    assert [row[0] for row in rows] == 2 * ['mine'] + 2 * ['untrained'] + 3 * ['backbone']
    mass, area, ratio, _, _ = map(float, head[-5:])
    assert area == 0.094 and ratio == pytest.approx(mass / area, rel=0.02)
    for video in videos:
        video.actor = lambda indices: None
    focus.print_focus(networks, videos)
    assert 'no focus table' in capsys.readouterr().out
