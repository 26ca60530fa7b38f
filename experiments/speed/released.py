"""The training step in the form of the authors' release, rebuilt from what is known of it.

What differs from the step of train.py is speed alone: the loss is the same number in float32.
* float16 by autocast with a loss scaler; the frozen backbone's weights stay in float32 and are
  cast anew in every pass; nothing is compiled
* backbone and LSTP take the videos of a batch one after the other
* LSTP projects all P patches to keys and values
* the loss is a loop over the pairs of views
"""
import torch
from einops import rearrange

import data
from running.processes import on_device
from speed import plain
from speed.measure import DEVICE, autocast


def entities_of(model, images):
    """One video's frames of both views (2*T, 3, H, W) -> entities (2, T, N, d)."""
    with torch.no_grad():
        patches, _ = model.backbone(images)
    entities, _ = model.pool.attend_plainly(patches)
    return rearrange(entities, '(v t) n d -> v t n d', v=2)


def training_step(model, settings, optimizer, scaler, dtype, batch):
    """As the step of train.py with SCL; scaler: torch.amp.GradScaler, perhaps disabled."""
    clips = data.views(batch, settings.image_size, DEVICE)            # (B, 2, T, 3, S, S)
    time, length, valid, _ = on_device(
        [batch[name] for name in ('time', 'length', 'valid', 'labels')], DEVICE)
    with autocast(dtype):
        entities = []
        for views in clips:
            entities.append(entities_of(model, rearrange(views, 'v t c h w -> (v t) c h w')))
        z = model.mtf(torch.cat(entities), rearrange(valid, 'b v t -> (b v) t'))
        frames = z.shape[1]
        z = model.head(rearrange(z, 'b t d -> (b t) d'))
    z = torch.nn.functional.normalize(z.float(), dim=-1)
    z = rearrange(z, '(b v t) d -> b v t d', v=2, t=frames)
    loss = plain.scl(z, time, length, valid)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]['params'], 10)
    scaler.step(optimizer)
    scaler.update()
    return loss.detach()
