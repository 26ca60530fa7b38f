"""The softmax regression on few frames: at its optimum, and without a word."""
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

import evaluate


def few_frames(number):
    """Unit embeddings (n, D) float32 of 2 to 4 classes, a few frames each; some frames are alike."""
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


def test_few_frames_are_fitted_without_a_warning():
    """In float32 Newton's line search fails on some of these sets, by rounding: then in float64."""
    for number in range(240):
        x, y = few_frames(number)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            classifier = evaluate.fit_classifier(x, y)
        for part in gradient(classifier, x, y):
            assert np.abs(part).max() < 2e-6 * len(x), number


def tight_clusters(number):
    """(n, 16) float32 of 3 to 6 classes that lie close together and far from one another."""
    rng = np.random.default_rng(number)
    classes = 3 + number % 4
    y = np.arange(600) % classes
    centres = rng.normal(size=(classes, 16))
    x = centres[y] + 0.003 * rng.normal(size=(600, 16))
    return (30 * x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), y


def test_tight_clusters_are_fitted_without_a_warning():
    for number in range(12):
        x, y = tight_clusters(number)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            classifier = evaluate.fit_classifier(x, y)
        for part in gradient(classifier, x, y):
            assert np.abs(part).max() < 1e-5 * len(x), number
        assert (classifier.predict(x) == y).all()


def test_where_float32_warns_the_fit_is_in_float64(monkeypatch):
    fit = LogisticRegression.fit

    def warn_in_float32(self, x, y):
        if x.dtype == np.float32:
            warnings.warn('Line Search failed', ConvergenceWarning)
        return fit(self, x, y)

    x, y = few_frames(9)
    assert evaluate.fit_classifier(x, y).coef_.dtype == np.float32
    monkeypatch.setattr(LogisticRegression, 'fit', warn_in_float32)
    assert evaluate.fit_classifier(x, y).coef_.dtype == np.float64
