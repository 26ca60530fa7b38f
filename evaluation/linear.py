"""FineGym's classification (paper, section 4): one linear layer, trained by SGD.

    labelled frames of 80 videos (F, D)  --Linear-->  logits (F, K)  --cross-entropy-->  a step
"""
import math

import numpy as np
import torch
import torch.nn.functional as F

from evaluation.labels import labelled_only


def linear_classifier(train, train_labels, val, val_labels, *, epochs=100, lr=50., batch=80,
                      device='cpu'):
    """Accuracy (0..1) on val frames; arguments as those of evaluate.classification.

    Momentum 0.9, weight decay 1e-6, cosine by epoch. A step sees the labelled frames of `batch`
    videos (10 on each of the paper's 8 GPUs; all where there are fewer); an incomplete batch is
    dropped.
    """
    x, y = labelled_only(train, train_labels)
    val_x, val_y = labelled_only(val, val_labels)
    if not x or not val_x:
        return math.nan
    classes = 1 + int(np.concatenate(y + val_y).max())
    batch = min(batch, len(x))
    order = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = torch.nn.Linear(x[0].shape[1], classes).to(device)
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr, momentum=.9, weight_decay=1e-6)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=order).unfold(0, batch, batch):
            frames = torch.from_numpy(np.concatenate([x[i] for i in chosen]))
            truth = torch.from_numpy(np.concatenate([y[i] for i in chosen]))
            loss = F.cross_entropy(layer(frames.to(device)), truth.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        logits = layer(torch.from_numpy(np.concatenate(val_x)).to(device))    # (M, K)
    return float(np.mean(logits.argmax(1).cpu().numpy() == np.concatenate(val_y)))
