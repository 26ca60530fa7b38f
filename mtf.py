"""Multi-entity Temporal Fusion (paper, section 3.4): all entities of all frames in one transformer.

    entities (B, T, N, d), valid (B, T) -> one embedding a frame (B, T, D), not normalised

B views, T frames, N entities of width d. Before any frame is reduced to one vector, each entity of each frame is a
token that can look at every entity of every other frame; a one-hot id tells the entities apart, a time code the frames.
"""
import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017), computed by PyTorch's fused kernel."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def split_heads(self, x):
        """x (B, S, C) -> queries, keys, values, each (B, heads, S, C/heads)."""
        return rearrange(self.qkv(x), 'b s (three h c) -> three b h s c', three=3, h=self.heads)

    def forward(self, x, key_mask=None):
        """x (B, S, C); key_mask bool (B, S), False where nobody may look."""
        query, key, value = self.split_heads(x)
        if key_mask is not None:
            key_mask = rearrange(key_mask, 'b s -> b 1 1 s')
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask)
        return self.proj(rearrange(out, 'b h s c -> b s (h c)'))

    def attention_map(self, x):
        """The attention (B, heads, S, S), for pictures: the fused kernel never writes it down."""
        query, key, _ = self.split_heads(x)
        return (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)


class Mlp(nn.Module):
    def __init__(self, width, hidden, activation):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.activation = activation

    def forward(self, x):
        return self.fc2(self.activation(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block: of the ViT over the patches of a frame (GELU, eps 1e-6, no
    dropout) and of the MTF over the entities of all frames (ReLU, eps 1e-5, dropout)."""

    def __init__(self, width, heads, hidden, *, activation=F.gelu, eps=1e-6, dropout=0.):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, hidden, activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, key_mask=None):
        x = x + self.dropout(self.attn(self.norm1(x), key_mask))
        return x + self.dropout(self.mlp(self.norm2(x)))


class SumOverProcesses(torch.autograd.Function):
    """The sum of every process's x, to each of them; the gradient is the sum of what each of them wants."""

    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        dist.all_reduce(x)
        return x

    backward = forward


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm1d whose statistics are those of the rows of all processes, so that one GPU and four train the same
    model. PyTorch's SyncBatchNorm does this on CUDA only; here the CPU does the same."""

    def forward(self, x):
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        rows = x.float()
        total = SumOverProcesses.apply(torch.cat([rows.sum(0), rows.new_full((1,), len(rows))]))
        count = total[-1]
        mean = total[:-1] / count
        var = SumOverProcesses.apply((rows - mean).square().sum(0)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        return ((rows - mean) * (var + self.eps).rsqrt() * self.weight + self.bias).to(x.dtype)


def time_code(frames, trained_frames, width, device=None):
    """Sine code (frames, width) of the position in time; channel c uses its own index in the exponent.

    A video of any length is stretched over the positions 0 .. trained_frames-1 that the model knows.
    """
    position = torch.linspace(0, trained_frames - 1, frames, device=device)[:, None]      # (S, 1)
    channel = torch.arange(width, device=device)
    angle = position / 10000 ** (channel / width)                                         # (S, H)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())


class MTF(nn.Module):
    """Entities of all frames -> one embedding a frame.

    channels: width d of the entities; entities: N; frames: T of the training clips; ids: append the one-hot id;
    fc_width, width, hidden: of the two FC layers, the transformer and its MLPs; embedding: D; readout: 'cls' (entity
    0's token stands for the frame) or 'avg' (the mean over the entities).
    """

    def __init__(self, channels, entities, *, frames, ids=True, fc_width=512, width=256, depth=3, heads=8, hidden=1024,
                 embedding=128, readout='cls', dropout=0.1):
        super().__init__()
        self.frames, self.width, self.readout = frames, width, readout
        self.register_buffer('ids', torch.eye(entities) if ids else None, persistent=False)
        channels += entities if ids else 0
        self.fc = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(channels, fc_width), BatchNorm(fc_width), nn.ReLU(),
            nn.Dropout(dropout), nn.Linear(fc_width, fc_width), BatchNorm(fc_width), nn.ReLU(),
            nn.Linear(fc_width, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, activation=F.relu, eps=1e-5, dropout=dropout)
                                    for _ in range(depth))
        self.out = nn.Linear(width, embedding)
        for block in self.blocks:
            for weight in (*block.attn.qkv.weight.chunk(3), block.attn.proj.weight, block.mlp.fc1.weight,
                           block.mlp.fc2.weight):
                nn.init.xavier_uniform_(weight)

    def forward(self, entities, valid=None):
        """entities (B, T, N, d), valid bool (B, T), False where a clip is padded -> (B, T, D)."""
        b, t, n, _ = entities.shape
        if self.ids is not None:
            entities = torch.cat([entities, self.ids.to(entities).expand(b, t, n, n)], -1)    # (B, T, N, d+N)
        x = self.fc(rearrange(entities, 'b t n d -> (b t n) d'))                          # one batch of B*T*N rows
        x = rearrange(x, '(b t n) h -> b t n h', b=b, t=t)
        x = self.dropout(x + time_code(t, self.frames, self.width, x.device)[:, None])
        x = rearrange(x, 'b t n h -> b (t n) h')                                          # one sequence a view
        keys = None if valid is None else repeat(valid, 'b t -> b (t n)', n=n)
        for block in self.blocks:
            x = block(x, keys)
        x = rearrange(x, 'b (t n) h -> b t n h', n=n)
        return self.out(x[:, :, 0] if self.readout == 'cls' else x.mean(2))               # (B, T, D)
