"""The metrics against slow independent forms, other libraries, and the authors' numbers."""
import itertools
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import kendalltau

import evaluate
from evaluation import table
from noise import random_videos, with_ones

torch.set_num_threads(1)                                  # the arrays are small
GOLDEN = Path(__file__).parent / 'golden' / 'metrics.npz'


def golden(split):
    """The authors' embeddings and labels of one action, cut into videos."""
    with np.load(GOLDEN) as numbers:
        prefix = f'baseball_pitch/{split}'
        cuts = np.cumsum(numbers[f'{prefix}/lens'])[:-1]
        embeddings = np.split(numbers[f'{prefix}/embs'], cuts)
        return embeddings, np.split(numbers[f'{prefix}/labels'], cuts)


def test_the_authors_numbers():
    train, labels = golden('train')
    val, val_labels = golden('val')
    with np.load(GOLDEN) as numbers:
        expected = {name: float(numbers[f'baseball_pitch/{name}']) for name in table.METRICS}
    lists = train, labels, val, val_labels
    found = {
        'classification': evaluate.classification(*lists),
        'progression': evaluate.progression(*lists),
        'tau': evaluate.kendalls_tau(val, 2),
        'ap5': evaluate.retrieval(val, val_labels, 5, 2),
    }
    assert found == pytest.approx(expected, abs=1e-6)


# ------------------------------------------------------------------------------------------------
# Kendall's tau

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
    x, _ = random_videos(7, shortest=1, longest=24)
    x[2] = x[2][:1]                       # one frame: no order to compare, and ties as a target
    taus = []
    for query, other in itertools.permutations(x, 2):
        query = query[::stride].astype(float)
        other = other[::stride].astype(float)
        if len(query) > 1:
            nearest = cdist(query, other, 'sqeuclidean').argmin(1)
            taus.append(kendalltau(np.arange(len(nearest)), nearest).statistic)
    assert np.isnan(taus).any()
    assert evaluate.kendalls_tau(x, stride) == pytest.approx(np.nanmean(taus), abs=1e-9)


# ------------------------------------------------------------------------------------------------
# Retrieval

def share_of_right(query, answer, others, k):
    """Of the k frames nearest to a query, by sorting all frames of the other videos."""
    ranked = []
    for frames, labels in others:
        distances = ((frames - query) ** 2).sum(1)
        ranked += zip(distances, labels)
    ranked.sort()
    return np.mean([label == answer for _, label in ranked[:k]])


@pytest.mark.parametrize('k', [1, 5, 15])
@pytest.mark.parametrize('block', [1, 2 ** 24])
def test_retrieval_against_loops(monkeypatch, k, block):
    monkeypatch.setattr(evaluate, 'BLOCK', block)
    x, labels = random_videos(6, seed=1)
    known = []
    for frames, y in zip(x, labels):
        known.append((frames[y >= 0][::2].astype(float), y[y >= 0][::2]))
    scores = []
    for i, (queries, answers) in enumerate(known):
        others = known[:i] + known[i + 1:]
        right = [share_of_right(*one, others, k) for one in zip(queries, answers)]
        scores.append(np.mean(right))
    assert evaluate.retrieval(x, labels, k, 2) == pytest.approx(np.mean(scores), abs=1e-9)


def test_near_ties_are_ranked_in_float64():
    """A frame a hair's breadth nearer is found first, though float32's products do not tell."""
    away = 1e-4 * np.array([3, 1, 4, 2], np.float32)
    other = np.stack([np.ones(4, np.float32), away], 1)
    query = np.array([[1, 0]], np.float32)
    labels = [np.array([0]), np.array([1, 0, 1, 0])]
    assert evaluate.retrieval([query, other], labels, 2) == (1 + 0.5) / 2


# ------------------------------------------------------------------------------------------------
# Phase progression

def rows_of_class(x, labels, k):
    """Inputs and targets of the regression on class k, frame by frame."""
    inputs = []
    targets = []
    for frames, y in zip(x, labels):
        frames = frames[y >= 0]
        y = y[y >= 0].tolist()
        if k not in y:
            continue
        last = max(t for t in range(len(y)) if y[t] == k)
        inputs.append(with_ones(frames))
        targets += [(t - last) / len(y) for t in range(len(y))]
    return np.concatenate(inputs), np.array(targets)


def test_progression_against_loops():
    x, labels = random_videos(9, seed=2, classes=4)
    val, val_labels = random_videos(5, seed=3, classes=4)
    labels[0][labels[0] == 1] = 2         # class 1 never occurs: left out of its regression only
    val_labels[1][val_labels[1] == 0] = 1
    scores = []
    for k in range(3):
        weights = np.linalg.lstsq(*rows_of_class(x, labels, k), rcond=None)[0]
        inputs, truth = rows_of_class(val, val_labels, k)
        residue = ((inputs @ weights - truth) ** 2).sum()
        scores.append(1 - residue / ((truth - truth.mean()) ** 2).sum())
    found = evaluate.progression(x, labels, val, val_labels)
    assert found == pytest.approx(np.mean(scores), abs=1e-9)


# ------------------------------------------------------------------------------------------------
# Classification

def test_where_there_is_little_to_measure():
    x, labels = random_videos(4)
    for videos in [], x[:1], [x[0][:1], x[1][:1]]:
        assert math.isnan(evaluate.kendalls_tau(videos))
    assert math.isnan(evaluate.retrieval(x[:1], labels[:1]))
    assert evaluate.retrieval(x[:2], [np.zeros(len(one), int) for one in x[:2]], 50) == 1
    zeros = [np.zeros(len(y), int) for y in labels]
    none = [one - 1 for one in zeros]
    half = [np.arange(len(y)) % 2 for y in labels]
    share = np.mean(np.concatenate(half) == 0)            # one class: always the answer
    assert evaluate.classification(x, zeros, x, half) == pytest.approx(share)
    for train_labels, val_labels in ((none, labels), (labels, none)):
        assert math.isnan(evaluate.classification(x, train_labels, x, val_labels))
        assert math.isnan(evaluate.progression(x, train_labels, x, val_labels))
        assert math.isnan(evaluate.linear_classifier(x, train_labels, x, val_labels))
        assert math.isnan(evaluate.retrieval(x, none))
    assert math.isnan(evaluate.progression(x, zeros, x, zeros))    # one class: nothing ends
    assert math.isnan(evaluate.classification([], [], [], []))


def few_frames(number):
    """Unit embeddings (n, D) float32 of 2 to 4 classes, a few frames each; some are alike."""
    rng = np.random.default_rng(number)
    classes = 2 + number % 3
    n = classes * (1 + number % 7)
    x = rng.normal(size=(n, [1, 4, 32, 128][number % 4]))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    if number % 5 == 0:
        x[n // 2:] = x[0]
    return x.astype(np.float32), np.arange(n) % classes


def gradient(classifier, x, y):
    """Of the sum of cross-entropies + |W|^2 / 2: by the weights (D, K) and by the intercepts (K,).

    The sum is convex: where its gradient is 0, there is no better classifier.
    """
    weights = classifier.coef_.T
    if weights.shape[1] == 1:
        weights = np.concatenate([-weights, weights], 1) / 2        # of two classes, as softmax
    error = classifier.predict_proba(x) - np.eye(y.max() + 1)[y]    # (n, K)
    return x.T.astype(np.float64) @ error + weights, error.sum(0)


def test_the_classifier_is_softmax_regression_at_its_optimum():
    """Without a warning: in float32 Newton's line search fails on some of these sets, by rounding.
    """
    for number in range(0, 240, 3):
        x, y = few_frames(number)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            classifier = evaluate.fit_classifier(x, y)
        for part in gradient(classifier, x, y):
            assert np.abs(part).max() < 2e-6 * len(x), number


# ------------------------------------------------------------------------------------------------
# FineGym's linear classifier

def labelled_rows(x, labels):
    """[(input with a one (D+1,), label)] of all labelled frames."""
    rows = []
    for frames, y in zip(x, labels):
        rows += [(row, label) for row, label in zip(with_ones(frames), y) if label >= 0]
    return rows


def test_linear_classifier_against_a_loop():
    x, labels = random_videos(7, seed=5)
    val, val_labels = random_videos(6, seed=6)
    labels[3][:] = -1                     # no labelled frame: not a video of any batch
    kept = [i for i in range(7) if i != 3]
    epochs, size, lr = 6, 4, 5.
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 3)
    bias = layer.bias.detach().numpy()
    weights = np.c_[layer.weight.detach().numpy(), bias].astype(float)
    speed = 0
    generator = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        order = [kept[i] for i in torch.randperm(6, generator=generator)]
        chosen = order[:size]             # the other two are dropped
        rows = labelled_rows([x[i] for i in chosen], [labels[i] for i in chosen])
        gradient = 1e-6 * weights
        for frame, label in rows:
            logits = weights @ frame
            p = np.exp(logits - np.logaddexp.reduce(logits)) - np.eye(3)[label]
            gradient = gradient + np.outer(p, frame) / len(rows)
        speed = 0.9 * speed + gradient
        weights = weights - lr * (1 + math.cos(math.pi * epoch / epochs)) / 2 * speed
    right = [np.argmax(weights @ frame) == label for frame, label in labelled_rows(val, val_labels)]
    state = torch.get_rng_state()
    score = evaluate.linear_classifier(x, labels, val, val_labels, epochs=epochs, batch=size, lr=lr)
    assert score == pytest.approx(np.mean(right), abs=1e-12)
    assert torch.equal(state, torch.get_rng_state())      # nobody else's random numbers change


def test_clock_is_four_cosines():
    t = evaluate.clock(10)
    assert t.shape == (10, 4)
    assert t.dtype == np.float32
    assert t[3, 1] == pytest.approx(math.cos(math.pi * 2 * 3 / 10))
    assert (t[0] == 1).all()
