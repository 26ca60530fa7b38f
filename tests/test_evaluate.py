"""The metrics against slow independent forms and the authors' numbers; the embedding, the tables, the command."""
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.stats import kendalltau

import data
import evaluate
import figures
import model as models
from backbones import dino
from evaluation import embedding, focus, table
from evaluation import labels as label_files

torch.set_num_threads(1)                                # the frames are tiny
GOLDEN = Path(__file__).parent / 'golden' / 'metrics.npz'
SETTINGS = dict(dataset='folder', data=None, data_seed=0, backbone='tiny', weights='random', layers=[2, 4], pool='lstp',
                entities=2, entity_width=8, disjoint=False, readout='cls', frames=8, fc_width=16, embedding=12,
                dropout=.1, loss='scl', train_backbone=[], image_size=24, workers=0, seed=0)


def golden(split):
    with np.load(GOLDEN) as numbers:
        cuts = np.cumsum(numbers[f'baseball_pitch/{split}/lens'])[:-1]
        return [np.split(numbers[f'baseball_pitch/{split}/{what}'], cuts) for what in ('embs', 'labels')]


def videos(count, seed=0, width=6, classes=3, shortest=3, longest=20):
    """Random unit embeddings of random lengths; labels rise over time, some frames have none."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest, count)
    x = [rng.normal(size=(n, width)) for n in lengths]
    x = [(one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float32) for one in x]
    labels = [np.arange(n) * classes // n for n in lengths]
    for one in labels:
        one[rng.random(len(one)) < .15] = -1
    return x, labels


# ------------------------------------------------------------------------------------------------------------- metrics

def test_the_authors_numbers():
    (train, labels), (val, val_labels) = golden('train'), golden('val')
    with np.load(GOLDEN) as numbers:
        expected = {name: float(numbers[f'baseball_pitch/{name}']) for name in table.METRICS}
    both = train, labels, val, val_labels
    assert evaluate.classification(*both) == pytest.approx(expected['classification'], abs=1e-6)
    assert evaluate.progression(*both) == pytest.approx(expected['progression'], abs=1e-6)
    assert evaluate.kendalls_tau(val, 2) == pytest.approx(expected['tau'], abs=1e-6)
    assert evaluate.retrieval(val, val_labels, 5, 2) == pytest.approx(expected['ap5'], abs=1e-6)


def test_rank_correlation_is_scipys():
    rows = np.random.default_rng(0).integers(0, 6, (40, 15))
    expected = [kendalltau(np.arange(15), row).statistic for row in rows]
    np.testing.assert_allclose(evaluate.rank_correlation(rows), expected, atol=1e-12)
    assert np.isnan(evaluate.rank_correlation(np.full((1, 5), 3))).all()
    assert np.isnan(evaluate.rank_correlation(np.zeros((2, 1), int))).all()


@pytest.mark.parametrize('stride', [1, 2, 5])
@pytest.mark.parametrize('block', [1, 2 ** 24])
def test_tau_against_scipy_loops(monkeypatch, stride, block):
    monkeypatch.setattr(evaluate, 'BLOCK', block)
    x, _ = videos(7, shortest=1, longest=24)
    x[2] = x[2][:1]                                       # one frame: no order to compare, and ties as a target
    taus = []
    for i, query in enumerate(x):
        for j, other in enumerate(x):
            if i != j and len(query[::stride]) > 1:
                nearest = cdist(query[::stride].astype(float), other[::stride].astype(float), 'sqeuclidean').argmin(1)
                taus.append(kendalltau(np.arange(len(nearest)), nearest).statistic)
    assert np.isnan(taus).any()
    assert evaluate.kendalls_tau(x, stride) == pytest.approx(np.nanmean(taus), abs=1e-9)


def test_tau_of_aligned_and_reversed_videos():
    one = evaluate.clock(30)
    assert evaluate.kendalls_tau([one, one[::2]]) > .97
    assert evaluate.kendalls_tau([one, one[::-1]]) == pytest.approx(-1)
    assert math.isnan(evaluate.kendalls_tau([one]))
    assert math.isnan(evaluate.kendalls_tau([one[:1], one[1:2]]))
    assert math.isnan(evaluate.kendalls_tau([]))


@pytest.mark.parametrize('k', [1, 5, 15])
@pytest.mark.parametrize('block', [1, 2 ** 24])
def test_retrieval_against_loops(monkeypatch, k, block):
    monkeypatch.setattr(evaluate, 'BLOCK', block)
    x, labels = videos(6, seed=1)
    known = [(a[y >= 0][::2].astype(float), y[y >= 0][::2]) for a, y in zip(x, labels)]
    scores = []
    for i, (queries, answers) in enumerate(known):
        right = []
        for query, answer in zip(queries, answers):
            others = sorted((((frame - query) ** 2).sum(), y) for j, (frames, ys) in enumerate(known) if j != i
                            for frame, y in zip(frames, ys))
            right.append(np.mean([y == answer for _, y in others[:k]]))
        scores.append(np.mean(right))
    assert evaluate.retrieval(x, labels, k, 2) == pytest.approx(np.mean(scores), abs=1e-9)
    found = evaluate.same_label(x, labels, 20, 2)         # one search, and the best k of it
    assert evaluate.precision(found, k) == pytest.approx(np.mean(scores), abs=1e-9)


def test_retrieval_never_looks_into_the_query_video():
    x = [np.tile([1., 0.], (4, 1)), np.tile([0., 1.], (4, 1))]
    assert evaluate.retrieval(x, [np.zeros(4, int), np.ones(4, int)], 3) == 0
    assert evaluate.retrieval(x, [np.zeros(4, int), np.zeros(4, int)], 50) == 1    # all there are
    assert math.isnan(evaluate.retrieval(x[:1], [np.zeros(4, int)]))
    assert math.isnan(evaluate.retrieval(x, [np.zeros(4, int), np.full(4, -1)]))


def test_progression_against_loops():
    (x, labels), (val, val_labels) = videos(9, seed=2, classes=4), videos(5, seed=3, classes=4)
    labels[0][labels[0] == 1] = 2                         # class 1 never occurs here: left out of its regression only
    val_labels[1][val_labels[1] == 0] = 1
    scores = []
    for k in range(3):
        rows = {'train': ([], []), 'val': ([], [])}
        for split, xs, ys in (('train', x, labels), ('val', val, val_labels)):
            for frames, y in zip(xs, ys):
                frames, y = frames[y >= 0], y[y >= 0].tolist()
                if k in y:
                    last = max(t for t in range(len(y)) if y[t] == k)
                    rows[split][0].extend([*frame, 1.] for frame in frames.astype(float))
                    rows[split][1].extend((t - last) / len(y) for t in range(len(y)))
        weights = np.linalg.lstsq(*map(np.array, rows['train']), rcond=None)[0]
        inputs, truth = map(np.array, rows['val'])
        scores.append(1 - ((inputs @ weights - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())
    assert evaluate.progression(x, labels, val, val_labels) == pytest.approx(np.mean(scores), abs=1e-9)


def test_progression_knows_the_end_of_a_phase():
    targets = evaluate.progression_targets(np.array([0, 0, 2, 2]), np.array([0, 1, 2]))
    np.testing.assert_allclose(targets[:, 0], [-.25, 0, .25, .5])
    assert np.isnan(targets[:, 1]).all()                  # class 1 does not occur


@pytest.mark.parametrize('classes', [2, 3])
def test_classification_is_softmax_regression_at_its_optimum(classes):
    """Sum of cross-entropies + half the squared norm of all weights, also for two classes, by another optimiser."""
    rng = np.random.default_rng(4)
    y = np.tile(np.arange(classes), 40)
    x = rng.normal(size=(len(y), 3)) + y[:, None] * [.9, -.4, 0]

    def loss(theta):
        weights, bias = theta[:-classes].reshape(3, classes), theta[-classes:]
        logits = x @ weights + bias
        return (np.logaddexp.reduce(logits, 1) - logits[np.arange(len(y)), y]).sum() + (weights ** 2).sum() / 2
    best = minimize(loss, np.zeros(4 * classes), tol=1e-10).x
    logits = x @ best[:-classes].reshape(3, classes) + best[-classes:]
    expected = np.exp(logits - np.logaddexp.reduce(logits, 1)[:, None])
    np.testing.assert_allclose(evaluate.fit_classifier(x, y).predict_proba(x), expected, atol=2e-4)
    assert evaluate.classification([x], [y], [x], [y]) == (expected.argmax(1) == y).mean()


def optimum(x, y):
    """Softmax regression by Newton's method in float64, its Hessian written down -> weights (D+1, K)."""
    x = np.c_[x, np.ones(len(x))].astype(float)
    D, K = x.shape[1], y.max() + 1
    penalty = np.ones((D, 1))
    penalty[-1] = 0                                       # not the intercept
    w = np.zeros((D, K))
    for _ in range(30):
        p = np.exp(x @ w - (x @ w).max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        gradient = x.T @ (p - np.eye(K)[y]) + penalty * w
        if np.abs(gradient).max() < 1e-9:
            return w
        hessian = np.zeros((D, K, D, K))
        for k in range(K):
            hessian[:, k, :, k] += np.diag(penalty[:, 0])
            for j in range(K):
                weight = p[:, k] * ((k == j) - p[:, j])
                hessian[:, k, :, j] += x.T @ (x * weight[:, None])
        step = np.linalg.lstsq(hessian.reshape(D * K, D * K), gradient.ravel())[0]
        w = w - step.reshape(D, K)
    raise AssertionError('Newton has not converged')


def made(seed, classes, count=40, width=16):
    """Embeddings of videos that pass through the phases, each at its own pace, under more or less noise."""
    rng, curves = np.random.default_rng(seed), np.random.default_rng(99).normal(size=(5, width))
    x, y = [], []
    for n in rng.integers(15, 40, count):
        time = np.linspace(0, 1, n) ** rng.uniform(.5, 2)
        one = np.cos(np.outer(time, np.arange(5) * np.pi)) @ curves + (.2 + seed % 4) * rng.normal(size=(n, width))
        x.append((one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float32))
        y.append(np.minimum((np.linspace(0, 1, n) * classes).astype(int), classes - 1))
    return x, y


@pytest.mark.parametrize('number', range(11))
def test_every_prediction_is_that_of_the_converged_optimum(number):
    (x, y), (val, _) = (golden('train'), golden('val')) if number == 10 else (
        made(number, 2 + number % 5), made(number + 100, 2 + number % 5))
    x, y, val = np.concatenate(x), np.concatenate(y), np.concatenate(val)
    best = np.c_[val, np.ones(len(val))] @ optimum(x, y)
    assert (evaluate.predict_phases(x, y, val) == best.argmax(1)).all()


def test_classification_where_there_is_little_to_classify():
    x, labels = videos(4)
    zeros = [np.zeros(len(y), int) for y in labels]
    half = [np.arange(len(y)) % 2 for y in labels]
    share = np.mean(np.concatenate(half) == 0)
    assert evaluate.classification(x, zeros, x, half) == pytest.approx(share)             # one class: always the answer
    none = [np.full(len(y), -1) for y in labels]
    for train_labels, val_labels in ((none, labels), (labels, none)):
        assert math.isnan(evaluate.classification(x, train_labels, x, val_labels))
        assert math.isnan(evaluate.progression(x, train_labels, x, val_labels))
        assert math.isnan(evaluate.linear_classifier(x, train_labels, x, val_labels))
    assert math.isnan(evaluate.progression(x, zeros, x, zeros))                           # one class: nothing ends
    assert math.isnan(evaluate.classification([], [], [], []))


def test_linear_classifier_against_a_loop():
    (x, labels), (val, val_labels) = videos(7, seed=5), videos(6, seed=6)
    labels[3][:] = -1                                     # no labelled frame: not a video of any batch
    kept = [i for i in range(7) if i != 3]
    epochs, size, lr = 6, 4, 5.
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 3)
    weights = np.concatenate([layer.weight.detach().numpy(), layer.bias.detach().numpy()[:, None]], 1).astype(float)
    speed, generator = 0, torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        order = [kept[i] for i in torch.randperm(6, generator=generator)]
        rows = [(np.append(f, 1.), c) for i in order[:size] for f, c in zip(x[i], labels[i]) if c >= 0]  # 2 dropped
        gradient = 1e-6 * weights
        for f, c in rows:
            p = np.exp(weights @ f - np.logaddexp.reduce(weights @ f)) - np.eye(3)[c]
            gradient = gradient + np.outer(p, f) / len(rows)
        speed = .9 * speed + gradient
        weights = weights - lr * (1 + math.cos(math.pi * epoch / epochs)) / 2 * speed
    right = [np.argmax(weights @ np.append(f, 1.)) == c
             for v, y in zip(val, val_labels) for f, c in zip(v, y) if c >= 0]
    state = torch.get_rng_state()
    score = evaluate.linear_classifier(x, labels, val, val_labels, epochs=epochs, batch=size, lr=lr)
    assert score == pytest.approx(np.mean(right), abs=1e-12)
    assert torch.equal(state, torch.get_rng_state())      # nobody else's random numbers change


def test_linear_classifier_separates_what_can_be_separated():
    x = [np.eye(4, dtype=np.float32)[np.arange(12) % 4] for _ in range(3)]
    labels = [np.arange(12) % 4 for _ in range(3)]
    assert evaluate.linear_classifier(x, labels, x, labels) == 1    # fewer than 80 videos


def test_clock_is_four_cosines():
    t = evaluate.clock(10)
    assert t.shape == (10, 4) and t.dtype == np.float32
    assert t[3, 1] == pytest.approx(math.cos(math.pi * 2 * 3 / 10)) and (t[0] == 1).all()


# ----------------------------------------------------------------------------------------------------------- embedding

class Film:
    """A video of noise, with a square actor."""
    action = None
    classes = None

    def __init__(self, name, frames, labels=None, broken=False, size=24):
        self.name, self.frames, self.broken, self.size = name, frames, broken, size
        self.labels = None if labels is None else np.asarray(labels)

    def read(self, indices):
        if self.broken:
            raise data.DataError(f'{self.name}: does not decode')
        rngs = [np.random.default_rng([len(self.name), i]) for i in indices]
        pixels = [rng.integers(0, 256, (3, self.size, self.size), np.uint8) for rng in rngs]
        return torch.from_numpy(np.stack(pixels))

    def parts(self, size=64):
        return (self.read(range(start, min(start + size, self.frames))) for start in range(0, self.frames, size))

    def actor(self, indices):
        mask = torch.zeros(len(indices), self.size, self.size, dtype=torch.bool)
        mask[:, :9, :6] = True
        return mask


def films():
    phases = lambda n: np.arange(n) * 3 // n
    partly = phases(70)
    partly[:5] = -1
    return {'train': [Film('a', 70, partly), Film('b/c: d', 9, phases(9)), Film('e', 8, broken=True),
                      Film('f', 8, phases(8))],
            'val': [Film('g', 10, phases(10)), Film('h', 12, phases(12)), Film('h', 9, phases(9))]}


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return models.build_model(SETTINGS)


def alone(network, film):
    with torch.no_grad():
        images = data.center(film.read(range(film.frames)), 24)
        return network(images[None])[0].numpy()


@pytest.mark.parametrize('workers', [0, 2])
def test_every_frame_is_embedded_in_order(network, workers):
    split = films()['train']
    seen, embeddings, skipped = embedding.embed_all({'one': network}, split, workers=workers)
    assert [one.video.name for one in seen] == ['a', 'b/c: d', 'f'] and skipped == {'e': 'e: does not decode'}
    for one, array in zip(seen, embeddings['one']):
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, alone(network, one.video)[one.kept], atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(array, axis=1), 1, atol=1e-6)
    assert seen[0].kept.tolist() == list(range(5, 70)) and (seen[0].labels >= 0).all()    # the labelled frames


def test_unlabelled_videos_keep_all_frames(network):
    seen, embeddings, _ = embedding.embed_all({'one': network}, [Film('a', 5)])
    assert len(embeddings['one'][0]) == 5 and (seen[0].labels == -1).all()
    assert embedding.embed_all({'one': network}, [Film('a', 5, broken=True)])[0] == []


def test_a_long_video_is_cut_into_equal_sequences(network, monkeypatch):
    lengths = []
    monkeypatch.setattr(network.mtf, 'forward', lambda entities: lengths.append(entities.shape[1]) or
                        torch.ones(1, entities.shape[1], 12))
    entities = torch.zeros(25, 2, 8)
    for limit in (25, 24, 10):
        assert embedding.embed_entities(network, entities, limit).shape == (25, 12)
    assert lengths == [25, 13, 12, 9, 8, 8]               # one; ceil(25/24) = 2; ceil(25/10) = 3


def test_no_frame_passes_a_shared_backbone_twice(network, monkeypatch):
    passed = []
    run = dino.ViT.forward
    monkeypatch.setattr(dino.ViT, 'forward', lambda self, images: passed.append(len(images)) or run(self, images))
    frames = 70 + 9 + 8 + 10 + 12 + 9
    torch.manual_seed(1)
    second = models.build_model(SETTINGS, network.backbone)
    state = torch.get_rng_state()
    network.train()
    result = evaluate.assess({'one': network, 'two': second}, films(), SETTINGS)          # and the untrained one
    assert sum(passed) == frames and set(result['rows']) == {'one', 'two', 'untrained', 'clock'}
    assert torch.equal(state, torch.get_rng_state()) and network.mtf.training and not second.training
    network.eval()
    passed.clear()
    evaluate.assess({'one': network, 'two': models.build_model(SETTINGS)}, films(), SETTINGS)
    assert sum(passed) == 2 * frames                      # one that was fine-tuned, say, needs a pass of its own
    passed.clear()
    evaluate.evaluate(network, films(), SETTINGS, controls=False)
    assert sum(passed) == frames


def test_untrained_control_is_always_the_same_draw(network):
    torch.manual_seed(123)
    one, two = evaluate.untrained(SETTINGS, network), evaluate.untrained(SETTINGS, network)
    assert one.backbone is network.backbone
    assert all(torch.equal(a, b) for a, b in zip(one.mtf.parameters(), two.mtf.parameters()))


def test_a_diverged_model_is_named(network):
    torch.manual_seed(0)
    broken = models.build_model(SETTINGS, network.backbone)
    broken.mtf.out.bias.data.fill_(math.nan)
    with pytest.raises(models.ModelError, match='not finite'):
        embedding.embed_all({'': broken}, [Film('a', 5)])


def test_embeddings_are_saved_whole_under_safe_names(network, tmp_path):
    videos = [*films()['train'], Film('b_c_ d', 4), Film('b/c_ d', 5), Film('../x', 3)]
    embedding.embed_all({'one': network}, videos, folders={'one': tmp_path / 'deep' / 'train'})
    saved = {path.name: np.load(path) for path in (tmp_path / 'deep' / 'train').iterdir()}
    assert len(saved) == 6 and saved['a.npy'].shape == (70, 12) and saved['a.npy'].dtype == np.float32
    assert sorted(len(array) for array in saved.values()) == [3, 4, 5, 8, 9, 70]
    assert sorted(path.name for path in tmp_path.iterdir()) == ['deep']                   # nothing climbed out


def share_of_a_process(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)
    torch.manual_seed(0)
    network = models.build_model(SETTINGS)
    result = evaluate.assess({'one': network}, films(), SETTINGS, folders={'one': Path(folder, 'saved')})
    assert (result is None) == (rank > 0)
    if rank == 0:
        torch.save({'rows': result['rows'], 'skipped': result['skipped']}, f'{folder}/result')
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_same_table(network, tmp_path):
    torch.multiprocessing.start_processes(share_of_a_process, (str(tmp_path),), nprocs=2, start_method='fork')
    result, alone = torch.load(tmp_path / 'result'), evaluate.assess({'one': network}, films(), SETTINGS)
    assert result['skipped'] == alone['skipped']
    for row in ('one', 'untrained', 'clock'):
        for metric, value in alone['rows'][row]['mean'].items():
            assert result['rows'][row]['mean'][metric] == pytest.approx(value, abs=1e-3, nan_ok=True)
    assert len(list((tmp_path / 'saved').rglob('*.npy'))) == 6


# -------------------------------------------------------------------------------------------------------------- tables

def seen_of(labels, action=None):
    found = []
    for i, y in enumerate(labels):
        film = Film(f'{action}{i}', len(y), y)
        film.action = action
        kept = np.flatnonzero(y >= 0) if (y >= 0).any() else np.arange(len(y))
        found.append(embedding.EmbeddedVideo(film, len(y), kept, y[kept]))
    return found


def test_scores_are_per_action_then_the_plain_mean():
    seen, embeddings, parts = {'train': [], 'val': []}, {'train': [], 'val': []}, {}
    for action, seed in (('jump', 0), ('run', 1)):
        for split, count in (('train', 6), ('val', 3 + seed)):
            x, labels = videos(count, seed=10 * seed + count)
            labels = [np.abs(y) for y in labels]
            parts[action, split] = x, labels
            seen[split] += seen_of(labels, action)
            embeddings[split] += x
    rows = evaluate.score('penn', seen, embeddings)
    assert list(rows) == ['jump', 'run', 'mean']
    for action in ('jump', 'run'):
        (x, labels), (val, val_labels) = parts[action, 'train'], parts[action, 'val']
        assert rows[action]['classification'] == evaluate.classification(x, labels, val, val_labels)
        assert rows[action]['tau'] == evaluate.kendalls_tau(val, 2)                       # Penn: every second frame
        assert rows[action]['ap10'] == evaluate.retrieval(val, val_labels, 10, 2)
    assert rows['mean']['ap5'] == pytest.approx((rows['jump']['ap5'] + rows['run']['ap5']) / 2)
    assert list(evaluate.score('finegym99', seen, embeddings)) == ['mean']                # one whole, one metric
    assert list(evaluate.score('finegym99', seen, embeddings)['mean']) == ['classification']


def test_without_labels_there_is_tau_only(network, capsys):
    split = [Film('a', 6), Film('b', 7)]
    scores = evaluate.evaluate(network, {'train': split, 'val': split}, SETTINGS)
    assert list(scores) == ['tau']
    out = capsys.readouterr().out
    assert "note: no labels: Kendall's tau only" in out and 'AP@5' not in out and 'clock' in out


def test_remarks_name_what_is_missing():
    labels = [np.array([0, 1, 2]), np.array([0, 2, 2]), np.full(3, -1)]
    seen = {'train': seen_of(labels[:1], 'jump'), 'val': seen_of(labels[1:], 'jump') + seen_of(labels[:1], 'run')}
    lines = table.remarks(evaluate.by_action('folder', seen), seen, {'x.mp4': 'x.mp4: broken'})
    assert lines == ['left out, cannot be read (1): x.mp4: broken', "no labels, for Kendall's tau only (1): jump1",
                     'jump: without class 1, left out of its progression (1): jump0',
                     'run: one val video, which has no other to be compared with', 'run: no train video']


def test_nothing_left_is_an_error(network):
    with pytest.raises(data.DataError, match='no val video can be read; the first: x: does not decode'):
        evaluate.assess({'': network}, {'train': [Film('a', 5)], 'val': [Film('x', 5, broken=True)]}, SETTINGS)


def test_kinetics_has_nothing_to_measure(network, capsys):
    many = [Film(str(i), 5) for i in range(20)]
    result = evaluate.assess({'': network}, {'train': many, 'val': many}, SETTINGS | {'dataset': 'k400'})
    assert result['rows'] == {} and len(result['embedded']['val']) == 8
    evaluate.print_result(result, [''])
    assert 'nothing to measure' in capsys.readouterr().out


def test_several_checkpoints_print_mean_and_two_population_deviations(capsys):
    values = [.90, .92, .97]
    rows = {f'{i}': {'mean': {'classification': value, 'tau': math.nan}} for i, value in enumerate(values)}
    spread = table.spread(rows, list(rows))['mean']['classification']
    assert spread == pytest.approx((.93, 2 * np.sqrt(np.mean((np.array(values) - .93) ** 2))))
    result = dict(dataset='penn', embedded={'train': [1, 2, 3], 'val': [4]}, rows=rows, remarks=[],
                  paper=data.DATASETS['penn'].paper)
    evaluate.print_result(result, list(rows))
    out = capsys.readouterr().out
    assert '3 train, 1 val videos' in out and '0.9300 ± 0.0589' in out and '0.9421 ± 0.0004' in out and ' -' in out


def verdict(clock, untrained, *models):
    """Of classification and AP@5: each model's two values."""
    rows = {'clock': clock, 'untrained': untrained} | {str(i): model for i, model in enumerate(models)}
    rows = {name: {'mean': dict(zip(('classification', 'ap5'), values))} for name, values in rows.items()}
    columns = {metric: table.METRICS[metric] for metric in ('classification', 'ap5')}
    return table.verdict(rows, [str(i) for i in range(len(models))], columns)


def test_verdict():
    several = 'Above both controls by more than the spread of the 2 checkpoints: '
    # .81 - .02 is above .78, and .80 - .20 is not above .72
    assert verdict((.70, .72), (.78, .60), (.80, .70), (.82, .90)) == several + 'classification; not AP@5.'
    assert verdict((.70, .50), (.78, .60), (.80, .70), (.82, .90)) == several + 'classification; not AP@5.'
    assert verdict((.70, .50), (.78, .59), (.80, .70), (.82, .90)) == several + 'classification, AP@5.'
    single = 'Above both controls by more than 0.03 (a fixed margin: one run has no spread): '
    assert verdict((.5, .5), (.5, .5), (.54, .54)) == single + 'classification, AP@5.'
    assert verdict((.5, .5), (.5, .5), (.54, .52)) == single + 'classification; not AP@5.'
    nothing = single + 'nothing. '
    assert verdict((.5, .5), (.4, .4), (.52, .45)) == (
        nothing + 'This model has not learned more than the time in the video.')
    assert verdict((.5, .5), (.6, .6), (.61, .45)) == (
        nothing + 'Training has added nothing to what the network shows before it.')
    nan = math.nan
    assert verdict((.5, .5), (.5, nan), (.54, .54)) == single + 'classification.'
    assert verdict((nan, nan), (.5, .5), (.9, .9)) == 'Nothing here can be compared with both controls.'


def test_the_sentence_follows_the_table_with_both_controls_only(network, capsys):
    evaluate.evaluate(network, films(), SETTINGS)
    assert capsys.readouterr().out.count('bove both controls') == 1
    evaluate.evaluate(network, films(), SETTINGS, controls=False)
    assert 'controls' not in capsys.readouterr().out


def test_few_labels_are_those_of_the_first_videos():
    asked = []

    def classify(train, train_labels, val, val_labels):
        asked.append((train, train_labels, val, val_labels))
        return len(train) / 10 if len(train) > 1 else math.nan
    many = list('abcdefghij'), list('0123456789'), ['v'], ['w']
    assert label_files.few_labels([many, (['x'], ['y'], [], [])], .25, classify) == .2     # int(2.5); NaN left out
    assert asked == [(['a', 'b'], ['0', '1'], ['v'], ['w']), (['x'], ['y'], [], [])]
    assert math.isnan(label_files.few_labels([many], .05, classify)) and len(asked[-1][0]) == 1    # at least one


@pytest.mark.parametrize('text', ['', '0', '1.5', 'nan', '-1', 'half', '0.1;0.5'])
def test_fractions_that_are_none(text, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.main(['x.pt', '--fractions=' + text])
    assert stop.value.code == 2 and 'must be numbers above 0' in capsys.readouterr().err


def test_predictions_of_a_few_val_videos():
    seen, embeddings, results = {'train': [], 'val': []}, {'train': [], 'val': []}, {}
    for action, seed in (('jump', 0), ('run', 1), ('bare', 2)):
        for split, count in (('train', 6), ('val', 3)):
            x, y = made(seed, 4, count)
            seen[split] += seen_of([-1 - 0 * one for one in y] if action == 'bare' else y, action)
            embeddings[split] += x
            results[action, split] = np.concatenate(x), np.concatenate(y)
    result = dict(dataset='penn', embedded=seen, embeddings={'a': embeddings})
    regressions = evaluate.predict_phases, evaluate.progression_targets, evaluate.predict_progress
    found = evaluate.predictions(result, 'a', regressions)
    assert [one['video'].video.name for one in found] == ['jump0', 'run0', 'jump1']         # the actions in turn
    for one in found:
        n = len(one['video'].labels)
        assert one['predicted'].shape == (n,) and list(one['progress']) == [0, 1, 2]
        for k, (true, guess) in one['progress'].items():
            last = max(np.flatnonzero(one['video'].labels == k))
            np.testing.assert_allclose(true, (np.arange(n) - last) / n)
            assert guess.shape == (n,)
    z = embeddings['val'][0]
    x, y = results['jump', 'train']
    expected = np.c_[z, np.ones(len(z))] @ optimum(x, y)
    assert found[0]['predicted'].tolist() == expected.argmax(1).tolist()
    truth = np.concatenate([evaluate.progression_targets(one.labels, np.arange(4)) for one in seen['train'][:6]])
    weights = np.linalg.lstsq(np.c_[x, np.ones(len(x))].astype(float), truth)[0]
    np.testing.assert_allclose(found[0]['progress'][1][1], (np.c_[z, np.ones(len(z))] @ weights)[:, 1], atol=1e-9)


# ------------------------------------------------------------------------------- optional output never costs a result

def fail(*_, **__):
    raise ValueError('two\nlines')


def test_metrics_are_logged_before_a_picture_that_fails(network, tmp_path, monkeypatch, capsys):
    logged = []
    monkeypatch.setattr(figures, 'draw_entities', lambda *_: logged.append('drawn') or fail())
    scores = evaluate.evaluate(network, films(), SETTINGS, picture=tmp_path / 'a.png',
                               log=lambda **means: logged.append(means))
    assert logged == [scores, 'drawn'] and scores['tau'] > 0
    assert f'note: no {tmp_path / "a.png"}: two lines' in capsys.readouterr().out


def test_pictures_tables_and_files_that_fail_are_notes(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figures, 'draw_all', fail)
    monkeypatch.setattr(evaluate, 'focus_table', fail)
    monkeypatch.setattr(evaluate, 'write_json', fail)
    monkeypatch.setattr(evaluate, 'predictions', fail)
    monkeypatch.setattr(np, 'save', lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    evaluate.main([str(checkpoint), '--json', str(tmp_path / 'a.json'), '--figures', str(tmp_path / 'pictures'),
                   '--embeddings', str(tmp_path / 'arrays'), '--focus'])
    out = capsys.readouterr().out
    assert 'untrained model' in out
    for what in ('focus table', f'{tmp_path / "a.json"}', 'pictures', 'predictions'):
        assert f'note: no {what}: two lines' in out
    assert 'note: 3 embeddings were not saved, the first: [Errno 28] No space left on device' in out


def test_a_notebooks_backend_and_a_screen_without_letters(checkpoint, tmp_path):
    """A notebook exports MPLBACKEND for its own matplotlib, which is not here; the screen knows ASCII alone."""
    here = Path(__file__).parent
    code = ('import runpy, sys; sys.path[:0] = sys.argv[1:3]; import data, test_evaluate; '
            'data.load = lambda *a, **k: test_evaluate.films(); root = sys.argv[1]; sys.argv[1:3] = []; '
            'runpy.run_path(root + "/evaluate.py", run_name="__main__")')
    other = checkpoint.with_name('other.pt')
    other.write_bytes(checkpoint.read_bytes())
    ran = subprocess.run([sys.executable, '-c', code, here.parent, here, checkpoint, other, '--figures', tmp_path],
                         capture_output=True, text=True, env=os.environ | {
                             'MPLBACKEND': 'module://matplotlib_inline.backend_inline', 'PYTHONIOENCODING': 'ascii'})
    assert ran.returncode == 0 and not ran.stderr.count('Traceback'), ran.stderr
    assert '2 checkpoints: mean \\xb1 2 standard deviations' in ran.stdout


def test_starting_is_light():
    code = 'import sys, evaluate; print([name for name in ("sklearn", "scipy", "matplotlib") if name in sys.modules])'
    ran = subprocess.run([sys.executable, '-c', code], cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert ran.stdout == '[]\n', ran.stderr


# --------------------------------------------------------------------------------------------------------------- focus

def test_focus_by_hand():
    actor = torch.tensor([[1., 1., 0., 0.], [.5, 0., 0., 0.]])
    attention = torch.tensor([[[.5, .2, .3, 0.], [.25] * 4], [[0., 0., 0., 1.], [2., 0., 0., 0.]]])
    f = focus.focus(attention, actor)
    np.testing.assert_allclose(f['mass'], [[.7, .5], [0., .5]])                           # attention as shares: 2 -> 1
    assert f['area'].tolist() == [[.5, .5], [.125, .125]]
    assert f['peak'][:, 0].tolist() == [1, 0] and f['peak'][1, 1] == 1
    assert f['iou'][:, 0].tolist() == pytest.approx([1 / 3, 0]) and f['iou'][1, 1] == 1   # {0, 2} with {0, 1}
    assert f['entropy'][0, 1] == pytest.approx(1) and f['entropy'][1].tolist() == [0, 0]


def test_masks_pass_through_the_frames_crop(network, monkeypatch):
    """16 more pixels a side: the centre crop starts at row and column 8, and patches are 6 x 6 pixels."""
    images, entities, heads, actor = figures.look_at(network, Film('a', 4, size=40), [0, 2])
    assert images.shape == (2, 3, 24, 24) and entities.shape == (2, 2, 16) and heads.shape == (2, 3, 16)
    assert actor.shape == (2, 16) and actor.sum() == 0    # the actor's 9 x 6 pixels begin and end left of it
    expected = np.zeros((4, 4))
    expected[:2, 0] = 1, .5
    for size in (24, 28):                                 # the ViT sees 4 x 4 patches of both, not the last 4 pixels
        monkeypatch.setattr(network.backbone, 'image_size', size)
        *_, actor = figures.look_at(network, Film('a', 4, size=size), [0, 2])
        np.testing.assert_allclose(actor[0], expected.ravel(), atol=1e-6)


def test_focus_table(network, capsys):
    seen = {split: embedding.embed_all({'': network}, films()[split])[0] for split in ('train', 'val')}
    rows = evaluate.focus_table({'mine': network, 'untrained': evaluate.untrained(SETTINGS, network)}, seen, frames=3)
    assert [row['model'] for row in rows] == ['mine', 'mine', 'backbone', 'untrained', 'untrained']
    assert all(row['area'] == pytest.approx(.09375) and row['ratio'] == row['mass'] / row['area'] for row in rows)
    assert 'CLS head' in capsys.readouterr().out
    for one in seen['val']:
        one.video.actor = lambda indices: None
    assert evaluate.focus_table({'mine': network}, {'train': [], 'val': seen['val']}) == []
    assert 'no focus table' in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------- the command

@pytest.fixture
def checkpoint(network, tmp_path, monkeypatch):
    monkeypatch.setattr(data, 'load', lambda *args, **kwargs: films())
    path = tmp_path / 'run' / 'checkpoint.pt'
    path.parent.mkdir()
    torch.save(dict(settings=SETTINGS, model=network.trained_state(), epoch=1,
                    backbone=models.fingerprint(network.backbone)), path)
    log = [dict(step=i, loss=1 / i, lr=.1) for i in range(1, 60)] + [dict(step=59, tau=.9, classification=.5)]
    path.with_name('log.jsonl').write_text('\n'.join(map(json.dumps, log)))
    return path


def test_the_command(checkpoint, tmp_path, capsys):
    evaluate.main([str(checkpoint), '--json', str(tmp_path / 'new' / 'a.json'), '--figures', str(tmp_path / 'pictures'),
                   '--embeddings', str(tmp_path / 'arrays'), '--focus', '--fractions', '0.4,1'])
    out = capsys.readouterr().out
    assert 'clock' in out and 'untrained' in out and 'mass' in out
    assert 'left out, cannot be read (1): e: does not decode' in out
    assert sorted(path.stem for path in (tmp_path / 'pictures').glob('*.png')) == [
        'alignment', 'entities', 'phases', 'retrieval', 'training']
    assert len(list((tmp_path / 'arrays' / 'val').glob('*.npy'))) == 3
    numbers = json.loads((tmp_path / 'new' / 'a.json').read_text())
    assert numbers['rows'][str(checkpoint)]['mean']['tau'] == numbers['spread']['mean']['tau'][0]
    few = numbers['fractions']
    for name, row in numbers['rows'].items():             # the whole is what the other table says; 0.4: one video of 3
        assert list(few[name]['mean']) == ['0.4', '1']
        assert few[name]['mean']['1'] == row['mean']['classification']
    assert set(few) == {str(checkpoint), 'clock', 'untrained'} and out.count('bove both controls') == 2
    assert len(numbers['focus']) == 5 and numbers['skipped'] and numbers['settings']['entities'] == 2
    assert not checkpoint.with_name('entities.png').exists()


def test_the_command_with_two_checkpoints(checkpoint, tmp_path, capsys):
    other = tmp_path / 'other.pt'
    content = torch.load(checkpoint)
    content['model'] = {name: value + .1 for name, value in content['model'].items()}
    torch.save(content, other)
    evaluate.main([str(checkpoint), str(other)])
    assert '2 checkpoints: mean ± 2 standard deviations' in capsys.readouterr().out
    assert checkpoint.with_name('entities.png').stat().st_size > 1000


@pytest.mark.parametrize('pool', ['cls', 'avg'])
def test_pictures_without_entities_or_labels(network, tmp_path, pool):
    plain = models.build_model(SETTINGS | {'pool': pool})
    result = evaluate.assess({'a': plain}, {'train': [], 'val': [Film('a', 3)]}, SETTINGS | {'pool': pool})
    figures.draw_all(plain, result, 'a', tmp_path, tmp_path / 'log.jsonl')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['entities.mp4', 'entities.png']


@pytest.mark.parametrize('change, message', [
    (lambda path, tmp: [tmp / 'none.pt'], 'none.pt: no such file'),
    (lambda path, tmp: [path, '--json', path], 'checkpoint.pt: --json'),
    (lambda path, tmp: [path, '--figures', path], 'checkpoint.pt'),
    (lambda path, tmp: [path, '--weights', tmp / 'no.pth'], 'no.pth: no such file'),
    (lambda path, tmp: [path, path.with_name('log.jsonl')], 'log.jsonl'),
])
def test_errors_are_one_line(checkpoint, tmp_path, capsys, change, message):
    before = checkpoint.read_bytes()
    with pytest.raises(SystemExit) as stop:
        evaluate.main([str(part) for part in change(checkpoint, tmp_path)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.startswith('evaluate.py: error: ')
    assert error.count('\n') == 1 and 'Traceback' not in error
    assert checkpoint.read_bytes() == before


def test_checkpoints_of_different_data_are_refused(checkpoint, tmp_path, capsys):
    other = tmp_path / 'other.pt'
    content = torch.load(checkpoint)
    content['settings'] = content['settings'] | {'dataset': 'penn'}
    torch.save(content, other)
    with pytest.raises(SystemExit):
        evaluate.main([str(checkpoint), str(other)])
    assert 'other.pt: dataset is penn, of the first checkpoint folder' in capsys.readouterr().err


@pytest.mark.parametrize('arguments, unit', [
    ([], 'frames'),
    (['--label-unit', 'seconds'], 'seconds'),
    (['--dataset', 'folder'], None),                      # not that of another data set
])
def test_the_unit_of_labels_is_that_of_training(checkpoint, monkeypatch, arguments, unit):
    content = torch.load(checkpoint)
    content['settings'] = content['settings'] | {'label_unit': 'frames'}
    torch.save(content, checkpoint)
    asked = []
    monkeypatch.setattr(data, 'load', lambda *_, **options: asked.append(options['label_unit']) or films())
    evaluate.main([str(checkpoint), *arguments])
    assert asked == [unit]


def test_a_checkpoint_that_brings_its_own_backbone_and_limit(checkpoint, tmp_path, monkeypatch, capsys):
    """As those of the authors' release: no data set, no workers, the backbone among the weights."""
    own = models.build_model(SETTINGS)
    own.backbone.norm.bias.data += 1
    settings = SETTINGS | dict(dataset=None, limit=7)
    del settings['workers']
    released = dict(settings=settings, model=own.state_dict(), backbone=None, epoch=1)
    load, path = models.load_checkpoint, tmp_path / 'released.pt'
    monkeypatch.setattr(models, 'load_checkpoint', lambda each: released if each == path else load(each))
    with pytest.raises(SystemExit):
        evaluate.main([str(path)])
    assert 'released.pt: says no data set; give its name by --dataset' in capsys.readouterr().err
    for paths in ([checkpoint, path], [path, checkpoint]):
        networks, settings = evaluate.load_models(paths, torch.device('cpu'), dataset='folder')
        assert torch.equal(networks[str(path)].backbone.norm.bias, own.backbone.norm.bias)
        assert not torch.equal(networks[str(checkpoint)].backbone.norm.bias, own.backbone.norm.bias)
    limits = []
    run = embedding.embed_entities
    monkeypatch.setattr(embedding, 'embed_entities', lambda *each: limits.append(each[2]) or run(*each))
    evaluate.assess(networks, films(), settings, controls=False)
    evaluate.assess(networks, films(), SETTINGS, controls=False)
    assert set(limits[:12]) == {7} and set(limits[12:]) == {1000}     # six videos that decode, two models


def test_a_device_that_is_not_here(checkpoint, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.main([str(checkpoint), '--device', 'abacus'])
    assert stop.value.code == 2 and '--device abacus: PyTorch does not find one' in capsys.readouterr().err


def test_help_fits_a_screen(capsys):
    with pytest.raises(SystemExit):
        evaluate.main(['--help'])
    assert len(capsys.readouterr().out.splitlines()) <= 32
