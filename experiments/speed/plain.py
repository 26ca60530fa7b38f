"""The plain and the earlier forms that the bench compares the code with; nothing else uses them."""
import numpy as np
import torch
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.special import logsumexp, softmax
from scipy.stats import kendalltau
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import r2_score

PAIRS = ((0, 1), (1, 0))    # a view and the other one


def scl(z, time, length, valid):
    """SCL, one pair of views after the other; arguments as in loss.py."""
    total = 0
    for b in range(len(z)):
        for v, w in PAIRS:
            total = total + scl_of_pair(z[b, v], z[b, w], time[b, v], time[b, w],
                                        valid[b, v], valid[b, w]) / valid[b].sum()
    return total / len(z)


def scl_of_pair(z, other, time, other_time, valid, other_valid):
    """The sum over the frames of one view, (T, D), compared with another of the same video."""
    gap = (time[:, None] - other_time).float()                      # (T, T)
    target = torch.exp(-gap ** 2 / 20) * other_valid
    target = target / target.sum(1, keepdim=True).clamp(min=1e-37)
    logits = (z @ other.T / 0.1).masked_fill(~other_valid, -1e9)
    p = logits.softmax(1)
    divergence = torch.xlogy(target, target) - target * torch.log(p + 1e-6)
    return divergence[valid].sum()


# --------------------------------------------------------------------------------------------------
# Metrics: lists of embeddings (n_i, D) and labels (n_i,)

def kendalls_tau(videos):
    taus = []
    for i, queries in enumerate(videos):
        for others in videos[:i] + videos[i + 1:]:
            nearest = cdist(queries, others, 'sqeuclidean').argmin(1)
            taus.append(kendalltau(np.arange(len(nearest)), nearest).statistic)
    return np.nanmean(taus)


def retrieval(videos, labels, k=5):
    scores = []
    for i, queries in enumerate(videos):
        others = np.concatenate(videos[:i] + videos[i + 1:])
        their_labels = np.concatenate(labels[:i] + labels[i + 1:])
        shares = []
        for query, label in zip(queries, labels[i]):
            nearest = cdist(query[None], others, 'sqeuclidean')[0].argsort()[:k]
            shares.append(np.mean(their_labels[nearest] == label))
        scores.append(np.mean(shares))
    return np.mean(scores)


def with_ones(videos):
    """(n, D + 1): the ones are for the intercept."""
    x = np.concatenate(videos).astype(np.float64)
    return np.hstack([x, np.ones((len(x), 1))])


def classification(train, train_labels, val, val_labels):
    """Softmax regression of two phases, its loss written down and given to SciPy."""
    x = with_ones(train)
    truth = np.eye(2)[np.concatenate(train_labels)]                 # (n, 2)

    def loss(flat):
        weights = flat.reshape(-1, 2)
        penalised = weights.copy()
        penalised[-1] = 0                                           # not the intercept
        logits = x @ weights
        value = logsumexp(logits, 1).sum() - (logits * truth).sum() + (penalised ** 2).sum() / 2
        slope = x.T @ (softmax(logits, 1) - truth) + penalised
        return value, slope.ravel()

    start = np.zeros(2 * x.shape[1])
    found = minimize(loss, start, jac=True, method='L-BFGS-B', options=dict(ftol=1e-15))
    predicted = (with_ones(val) @ found.x.reshape(-1, 2)).argmax(1)
    return np.mean(predicted == np.concatenate(val_labels))


def progression_targets(labels):
    """(t - the last frame of phase 0) / n, of all videos in one array."""
    targets = []
    for one in labels:
        end = np.flatnonzero(one == 0)[-1]
        for t in range(len(one)):
            targets.append((t - end) / len(one))
    return np.array(targets)


def progression(train, train_labels, val, val_labels):
    """Least squares of two phases: one target."""
    targets = progression_targets(train_labels)
    weights = np.linalg.lstsq(with_ones(train), targets, rcond=None)[0]
    truth = progression_targets(val_labels)
    error = (with_ones(val) @ weights - truth) ** 2
    return 1 - error.mean() / np.var(truth)


# --------------------------------------------------------------------------------------------------
# The earlier calls of scikit-learn, which are the field's

def fit_by_lbfgs(x, y, tol=1e-4):
    """At the default tolerance, the reference implementation's call; 1e-8: until nothing changes.

    Two classes are fitted by one logistic function.
    """
    C = 2 if len(np.unique(y)) == 2 else 1
    return LogisticRegression(C=C, tol=tol, max_iter=100_000).fit(x.astype(np.float64), y)


def progression_by_columns(x, targets, val, truth):
    """R^2 of one regression a column of targets (n, K-1), mean."""
    scores = []
    for column in range(targets.shape[1]):
        line = LinearRegression().fit(x, targets[:, column])
        scores.append(r2_score(truth[:, column], line.predict(val)))
    return np.mean(scores)
