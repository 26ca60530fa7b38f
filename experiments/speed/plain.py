"""What the bench compares the code with; nothing else uses it."""
import numpy as np
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import r2_score

from evaluate import time_since_end

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
# The field's calls of scikit-learn. Embeddings [(n_i, D)], labels [(n_i,)].

def fit_by_lbfgs(x, y, tol=1e-4):
    """At the default tolerance, the reference implementation's call; 1e-8: until nothing changes.

    Two classes are fitted by one logistic function.
    """
    C = 2 if len(np.unique(y)) == 2 else 1
    return LogisticRegression(C=C, tol=tol, max_iter=100_000).fit(x.astype(np.float64), y)


def progression(train, train_labels, val, val_labels, classes):
    """R^2 of one regression a phase but the last, in float64; mean."""
    x = np.concatenate(train).astype(np.float64)
    queries = np.concatenate(val).astype(np.float64)
    scores = []
    for k in range(classes - 1):
        target = np.concatenate([time_since_end(labels, k) for labels in train_labels])
        truth = np.concatenate([time_since_end(labels, k) for labels in val_labels])
        line = LinearRegression().fit(x, target)
        scores.append(r2_score(truth, line.predict(queries)))
    return np.mean(scores)
