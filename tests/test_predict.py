"""Labels carried over from labelled videos to others."""
import numpy as np
import pytest
from PIL import Image

from evaluate import fit_classifier
from made import embedded, grey, table_of
from pictures import canvas, predict
from running.errors import UserError


def labelled_set(count, labels):
    """What `teachers` takes: videos of phases 0 and 1, which the embeddings tell apart."""
    rng = np.random.default_rng(0)
    videos = []
    embeddings = []
    for i in range(count):
        videos.append(embedded(grey(f'squat/{i}', 12, action='squat'), labels))
        embeddings.append(np.eye(2)[labels] + rng.normal(0, 0.05, (12, 2)))
    return videos, embeddings


def test_phases_are_carried_over(tmp_path):
    phases = [0] * 5 + [1] * 7
    path = tmp_path / 'deep' / 'new'
    found = predict.teachers(*labelled_set(3, 6 * [0, 1]))    # of which a clock tells nothing
    notes = predict.predict(found, [grey('new', 12, rate=24)], [np.eye(2)[phases]], [path])
    assert notes == ['squat: from 3 labelled videos: held out in turn, 100% of their frames come '
                     'out right, by the clock alone 42%']
    rows = table_of(f'{path}.csv')
    assert [int(row['phase']) for row in rows] == phases
    seconds = [float(row['seconds']) for row in rows]
    np.testing.assert_allclose(seconds, np.arange(12) / 24, atol=1e-3)
    for row in rows:
        assert 0.5 < float(row['probability']) <= 1
    assert Image.open(f'{path}.png').width == canvas.WIDTH * canvas.DPI


@pytest.mark.parametrize('count', [2, 7, 25])
def test_held_out_accuracy_has_not_seen_what_it_predicts(count):
    """Each video has a direction of its own and phases at random: a classifier that has seen the
    video is right everywhere, any other one by chance."""
    rng = np.random.default_rng(count)
    labels = []
    embeddings = []
    for i in range(count):
        labels.append(rng.integers(0, 2, 40))
        embeddings.append(np.outer(2 * labels[i] - 1, np.eye(count)[i]))
    x = np.concatenate(embeddings)
    y = np.concatenate(labels)
    assert (fit_classifier(x, y).predict(x) == y).mean() == 1
    assert 0.3 < predict.held_out_accuracy(embeddings, labels) < 0.7


def test_the_clock_stands_beside_the_model(tmp_path):
    """And names are taken as they are, times as they may be."""
    videos = [grey('new $$', 12), grey('new ' + 'x' * 200, 12)]
    z = 2 * [np.eye(2)[[0] * 5 + [1] * 7]]
    found = predict.teachers(*labelled_set(3, np.repeat([0, 1], 6)))
    notes = predict.predict(found, videos, z, [tmp_path / '0', tmp_path / '1'])
    assert 'taken as 25 frames a second' in notes[0]
    assert notes[-1].endswith('by the clock alone 100% (hardly more than the clock)')
    assert len(list(tmp_path.glob('*.png'))) == 2


@pytest.mark.parametrize('label, says', [
    (-1, 'no labelled video'), (0, 'squat: one phase only, 0')])
def test_labels_that_teach_nothing_are_refused(label, says):
    with pytest.raises(UserError, match=says):
        predict.teachers(*labelled_set(2, np.full(12, label)))
