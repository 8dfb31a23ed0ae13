"""The embedded model as a torch module, built for training on a CPU with bfloat16 matrix units.

Llama architecture: RMSNorm before each block, rotary positions (dimension i turns with i + head_dim / 2), grouped-query
attention, SwiGLU, output head tied to the embedding. Weights are float32, activations bfloat16 or float32 as asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class NetConfig:
    """Sizes of the net, counted in tokens, channels and heads; ``norm_eps`` is added to the mean square."""

    vocab: int
    dim: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    ffn: int = 704
    context: int = 2048
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5


def _matrix(rows: int, columns: int, gain: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns) * 0.02 * gain)


class Block(nn.Module):
    """One layer; parameters are named after the tensors of a GGUF file."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        c, last_gain = config, (2 * config.layers) ** -0.5
        self.attn_norm = nn.Parameter(torch.ones(c.dim))
        self.ffn_norm = nn.Parameter(torch.ones(c.dim))
        self.attn_q = _matrix(c.heads * c.head_dim, c.dim)
        self.attn_k = _matrix(c.kv_heads * c.head_dim, c.dim)
        self.attn_v = _matrix(c.kv_heads * c.head_dim, c.dim)
        self.attn_output = _matrix(c.dim, c.heads * c.head_dim, last_gain)
        self.ffn_gate = _matrix(c.ffn, c.dim)
        self.ffn_up = _matrix(c.ffn, c.dim)
        self.ffn_down = _matrix(c.dim, c.ffn, last_gain)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, dropout: float) -> Tensor:
        """New ``x`` ``[batch, seq, dim]``; ``cos``, ``sin`` ``[seq, 1, head_dim]``, mask ``[1, group * seq, seq]``."""
        eps, dtype = self.config.norm_eps, x.dtype
        x = x + functional.dropout(self._attend(rms_norm(x, self.attn_norm, eps), cos, sin, mask), dropout)
        h = rms_norm(x, self.ffn_norm, eps)
        gate, up = functional.linear(h, torch.cat((self.ffn_gate, self.ffn_up)).to(dtype)).chunk(2, -1)
        return x + functional.dropout(functional.linear(functional.silu(gate) * up, self.ffn_down.to(dtype)), dropout)

    def _attend(self, h: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        c, (batch, seq, _) = self.config, h.shape
        group = c.heads // c.kv_heads
        weight = torch.cat((self.attn_q, self.attn_k, self.attn_v)).to(h.dtype)
        heads = functional.linear(h, weight).view(batch, seq, c.heads + 2 * c.kv_heads, c.head_dim)
        turned = heads[:, :, : c.heads + c.kv_heads]
        turned = turned * cos + torch.roll(turned, c.head_dim // 2, -1) * sin
        q = turned[:, :, : c.heads].transpose(1, 2).reshape(batch * c.kv_heads, group * seq, c.head_dim)
        k = turned[:, :, c.heads :].transpose(1, 2).reshape(batch * c.kv_heads, seq, c.head_dim)
        v = heads[:, :, c.heads + c.kv_heads :].transpose(1, 2).reshape(batch * c.kv_heads, seq, c.head_dim)
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=c.head_dim**-0.5)
        mixed = torch.bmm(torch.softmax(scores, -1), v).view(batch, c.heads, seq, c.head_dim)
        return functional.linear(mixed.transpose(1, 2).reshape(batch, seq, -1), self.attn_output.to(h.dtype))


class Net(nn.Module):
    """Tokens ``[batch, seq]`` (int64) to logits ``[batch, seq, vocab]`` in ``dtype``."""

    def __init__(self, config: NetConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype
        self.token_embd = _matrix(config.vocab, config.dim)
        self.blk = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.output_norm = nn.Parameter(torch.ones(config.dim))

    def forward(self, tokens: Tensor, dropout: float = 0.0) -> Tensor:
        cos, sin, mask = self._tables(tokens.shape[1])
        x = functional.dropout(functional.embedding(tokens, self.token_embd).to(self.dtype), dropout)
        for block in self.blk:
            x = block(x, cos, sin, mask, dropout)
        return functional.linear(rms_norm(x, self.output_norm, self.config.norm_eps), self.token_embd.to(self.dtype))

    def _tables(self, seq: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cosine, signed sine (both halves of a head) and the causal mask, repeated for the queries of a group."""
        c = self.config
        exponent = torch.arange(0, c.head_dim, 2, dtype=torch.float64) / c.head_dim
        angle = torch.arange(seq, dtype=torch.float64)[:, None] * c.rope_theta ** -exponent[None, :]
        cos = torch.cat((angle.cos(), angle.cos()), -1)[:, None].to(self.dtype)
        sin = torch.cat((-angle.sin(), angle.sin()), -1)[:, None].to(self.dtype)
        mask = torch.full((seq, seq), float("-inf"), dtype=self.dtype).triu(1)
        return cos, sin, mask.repeat(c.heads // c.kv_heads, 1)[None]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x`` over the root of its mean square, times ``weight``; computed in float32, returned in the type of ``x``."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)
