"""A small transformer over token sequences, as a user would write it: torch alone.

Letters: N records, T tokens, V vocabulary, D width, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

TOKENS, VOCABULARY = 16, 64


class Transformer(nn.Module):
    """Embedding, blocks of attention and perceptron, the mean over tokens, one linear layer."""

    def __init__(self, classes: int = 10, width: int = 64, blocks: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.places = nn.Embedding(TOKENS, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token numbers [N, T], as floats, to outputs [N, classes]."""
        places = torch.arange(tokens.shape[1])
        hidden = self.words(tokens.long()) + self.places(places)
        outputs: Tensor = self.head(self.norm(self.blocks(hidden)).mean(dim=1))
        return outputs


class Block(nn.Module):
    """x + attention(norm(x)), then x + perceptron(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, D] to [N, T, D]."""
        x = x + self.attend(self.before_attention(x))
        perceptron: Tensor = self.down(functional.relu(self.up(self.before_perceptron(x))))
        return x + perceptron

    def attend(self, x: Tensor) -> Tensor:
        """Every token looks at every other; D is split over H heads."""
        n, t, d = x.shape
        split = (n, t, self.heads, d // self.heads)
        q, k, v = (layer(x).reshape(split).transpose(1, 2) for layer in (self.q, self.k, self.v))
        shares = torch.softmax(q @ k.transpose(2, 3) / split[3] ** 0.5, dim=-1)
        mixed: Tensor = self.o((shares @ v).transpose(1, 2).reshape(n, t, d))
        return mixed
