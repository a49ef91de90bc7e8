"""Models as people write them, in plain PyTorch."""

import math

import torch
import torch.nn as nn
from torch.nn import functional


class MLP(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Linear(6, 10),
            nn.LayerNorm(10),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(10, 8),
            nn.ReLU(),
            nn.Linear(8, 3),
        )


class Block(nn.Module):
    def __init__(self, i, o, st=1):
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, st, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(o)
        self.relu = nn.ReLU(inplace=True)
        self.down = (
            nn.Sequential(nn.Conv2d(i, o, 1, st, bias=False), nn.BatchNorm2d(o))
            if st > 1 or i != o
            else None
        )

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (self.down(x) if self.down else x))


class ResNet(nn.Module):
    def __init__(self, w=4, n=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, w, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(w)
        L = []
        i = w
        for k in range(4):
            o = w * 2**k
            L.append(nn.Sequential(Block(i, o, 1 if k == 0 else 2), Block(o, o)))
            i = o
        self.layer1, self.layer2, self.layer3, self.layer4 = L
        self.fc = nn.Linear(i, n)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(torch.flatten(self.pool(x), 1))


def with_statistics(m):
    g = torch.Generator().manual_seed(0)
    for p in m.modules():
        if isinstance(p, (nn.BatchNorm2d, nn.BatchNorm1d)):
            p.running_mean.copy_(torch.randn(p.running_mean.shape, generator=g) * 0.2)
            p.running_var.copy_(torch.rand(p.running_var.shape, generator=g) + 0.5)
            nn.init.normal_(p.weight, 1, 0.2)
            nn.init.normal_(p.bias, 0, 0.2)
    return m


class OwnAttention(nn.Module):
    def __init__(self, d, h, rope=False):
        super().__init__()
        self.qkv = nn.Linear(d, 3 * d)
        self.o = nn.Linear(d, d)
        self.h = h
        self.rope = rope

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(x).split(C, dim=2)
        q, k, v = (t.view(B, T, self.h, C // self.h).transpose(1, 2) for t in (q, k, v))
        if self.rope:
            e = C // self.h
            f = 1 / (100 ** (torch.arange(0, e, 2) / e))
            a = torch.outer(torch.arange(T).float(), f)
            a = torch.cat([a, a], -1)
            c, sn = a.cos(), a.sin()

            def rot(t):
                return torch.cat([-t[..., e // 2 :], t[..., : e // 2]], -1)

            q = q * c + rot(q) * sn
            k = k * c + rot(k) * sn
        att = (q @ k.transpose(-2, -1)) * (1 / math.sqrt(k.size(-1)))
        att = att.masked_fill(torch.tril(torch.ones(T, T))[None, None] == 0, float("-inf"))
        att = functional.softmax(att, -1)
        return self.o((att @ v).transpose(1, 2).contiguous().view(B, T, C))


class RootMeanSquare(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.w = nn.Parameter(torch.randn(d) * 0.1 + 1)

    def forward(self, x):
        v = x.float()
        return (v * torch.rsqrt(v.pow(2).mean(-1, keepdim=True) + 1e-6)).type_as(x) * self.w


class SwiGLU(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.a = nn.Linear(d, 2 * d, bias=False)
        self.b = nn.Linear(d, 2 * d, bias=False)
        self.c = nn.Linear(2 * d, d, bias=False)

    def forward(self, x):
        return self.c(functional.silu(self.a(x)) * self.b(x))


class TransformerBlock(nn.Module):
    def __init__(self, d, h, llama):
        super().__init__()
        self.ln1 = RootMeanSquare(d) if llama else nn.LayerNorm(d)
        self.attn = OwnAttention(d, h, llama)
        self.ln2 = RootMeanSquare(d) if llama else nn.LayerNorm(d)
        self.mlp = (
            SwiGLU(d)
            if llama
            else nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        )

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    def __init__(self, d=16, h=2, V=20, T=7, L=2, llama=False):
        super().__init__()
        self.tok = nn.Embedding(V, d)
        self.pos = None if llama else nn.Embedding(T, d)
        self.blocks = nn.ModuleList(TransformerBlock(d, h, llama) for _ in range(L))
        self.ln = RootMeanSquare(d) if llama else nn.LayerNorm(d)
        self.head = nn.Linear(d, V, bias=False)

    def forward(self, i):
        x = self.tok(i)
        if self.pos is not None:
            x = x + self.pos(torch.arange(i.shape[1]))
        for b in self.blocks:
            x = b(x)
        return self.head(self.ln(x))


class ViT(nn.Module):
    def __init__(self, d=12, h=3):
        super().__init__()
        self.patch = nn.Conv2d(3, d, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, d))
        self.pos = nn.Parameter(torch.randn(1, 5, d) * 0.1)
        self.enc = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(
                d, h, 24, batch_first=True, norm_first=True, activation="gelu"
            ),
            2,
            enable_nested_tensor=False,
        )
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        return self.head(self.norm(self.enc(x))[:, 0])


class RNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.RNNCell(3, 5)
        self.out = nn.Linear(5, 2)

    def forward(self, x):
        h = x.new_zeros(len(x), 5)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.out(h)


class GroupNormNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 8, 3, padding=1)
        self.n = nn.GroupNorm(2, 8)
        self.dw = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pw = nn.Conv2d(8, 8, 1)
        self.g = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2)
        self.f = nn.Linear(8, 5)

    def forward(self, x):
        x = functional.silu(self.n(self.c(x)))
        x = x + self.pw(self.dw(x))
        x = functional.avg_pool2d(functional.relu(self.g(x)), 2)
        return self.f(x.flatten(1))


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(4, 4)

    def forward(self, x):
        x = self.l(x)
        if x.sum() > 0:
            x = x * 2
        return x


class ConvNeXt(nn.Module):
    def __init__(self, d=6):
        super().__init__()
        self.stem = nn.Conv2d(3, d, 2, 2)
        self.dw = nn.Conv2d(d, d, 7, padding=3, groups=d)
        self.n = nn.LayerNorm(d)
        self.a = nn.Linear(d, 4 * d)
        self.b = nn.Linear(4 * d, d)
        self.g = nn.Parameter(torch.rand(d))
        self.h = nn.Linear(d, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.dw(x).permute(0, 2, 3, 1)
        y = self.b(functional.gelu(self.a(self.n(y)))) * self.g
        x = x + y.permute(0, 3, 1, 2)
        return self.h(x.mean([-2, -1]))


class MobileNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.e = nn.Sequential(
            nn.Conv2d(4, 12, 1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU6(),
            nn.Conv2d(12, 12, 3, 1, 1, groups=12, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU6(),
            nn.Conv2d(12, 4, 1),
            nn.BatchNorm2d(4),
        )
        self.c = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, 3))

    def forward(self, x):
        x = functional.hardswish(self.stem(x))
        return self.c(x + self.e(x))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 6, 3, padding=1)
        self.a = nn.Conv2d(6, 2, 1)
        self.b = nn.Conv2d(2, 6, 1)
        self.f = nn.Linear(6, 3)

    def forward(self, x):
        x = functional.relu(self.c(x))
        w = torch.sigmoid(self.b(functional.relu(self.a(functional.adaptive_avg_pool2d(x, 1)))))
        x = x * w
        return self.f(x.mean((2, 3)))


class MaxPooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 4, 7, 2, 3)
        self.p = nn.MaxPool2d(3, 2, 1)
        self.b = Block(4, 4)
        self.f = nn.Linear(4, 3)

    def forward(self, x):
        return self.f(self.b(self.p(functional.relu(self.c(x)))).mean((2, 3)))


class PreActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 4, 3, padding=1)
        self.n1 = nn.BatchNorm2d(4)
        self.n2 = nn.BatchNorm2d(4)
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.f = nn.Linear(4 * 16, 3)

    def forward(self, x):
        x = self.c(x)
        x = x + self.b(functional.relu(self.n2(self.a(functional.relu(self.n1(x))))))
        return self.f(functional.max_pool2d(x, 2).flatten(1))


class GRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.GRUCell(3, 4)
        self.o = nn.Linear(4, 2)

    def forward(self, x):
        h = torch.zeros(x.shape[0], 4)
        for t in range(3):
            h = self.c(x[:, t], h)
        return self.o(h)


class LSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.LSTM(3, 4, batch_first=True)
        self.o = nn.Linear(4, 2)

    def forward(self, x):
        return self.o(self.c(x)[0][:, -1])


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Linear(5, 6)
        self.n = nn.LayerNorm(6)
        self.t = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
        self.o = nn.Linear(6, 2)

    def forward(self, x):
        x = self.e(x)
        x = x + self.t(self.n(x).transpose(1, 2)).transpose(1, 2)
        return self.o(x.mean(1))


class QueryNorm(nn.Module):
    def __init__(self, d=8, h=2):
        super().__init__()
        self.q = nn.Linear(d, d)
        self.k = nn.Linear(d, d // 2)
        self.v = nn.Linear(d, d // 2)
        self.o = nn.Linear(d, d)
        self.qn = nn.RMSNorm(4)
        self.kn = nn.LayerNorm(4)
        self.n = nn.LayerNorm(d)

    def forward(self, x):
        y = self.n(x)
        b, t, d = y.shape
        q = self.qn(self.q(y).view(b, t, 2, 4)).transpose(1, 2)
        k = self.kn(self.k(y).view(b, t, 1, 4)).transpose(1, 2)
        v = self.v(y).view(b, t, 1, 4).transpose(1, 2)
        return x + self.o(
            functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            .transpose(1, 2)
            .reshape(b, t, d)
        )


class EinsumAttention(nn.Module):
    def __init__(self, d=8, h=2):
        super().__init__()
        self.q = nn.Parameter(torch.randn(h, d, 4) * 0.3)
        self.k = nn.Parameter(torch.randn(h, d, 4) * 0.3)
        self.v = nn.Parameter(torch.randn(h, d, 4) * 0.3)
        self.o = nn.Parameter(torch.randn(h, 4, d) * 0.3)
        self.m = nn.Linear(d, 16)
        self.w = nn.Linear(16, d)

    def forward(self, x):
        q, k, v = (torch.einsum("bsd,hde->bshe", x, w) for w in (self.q, self.k, self.v))
        a = torch.einsum("bqhe,bkhe->bhqk", q, k) / 2.0
        a = torch.where(
            torch.tril(torch.ones(5, 5, dtype=torch.bool)), a, torch.tensor(-1e9)
        ).softmax(-1)
        z = torch.einsum("bhqk,bkhe->bqhe", a, v)
        return x + torch.einsum("bqhe,hed->bqd", z, self.o) + self.w(torch.tanh(self.m(x)))


class Alibi(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.a(x).view(len(x), 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
        b = (
            -(torch.arange(5)[:, None] - torch.arange(5)).abs()[None]
            * torch.tensor([0.5, 0.25])[:, None, None]
        )
        return x + functional.scaled_dot_product_attention(q, k, v, attn_mask=b.float()).transpose(
            1, 2
        ).flatten(2)


class AutoEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, 2, 1)
        self.p = nn.PReLU(4)
        self.b = nn.ConvTranspose2d(4, 1, 2, 2)

    def forward(self, x):
        return torch.sigmoid(self.b(self.p(self.a(x))))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.d = nn.Conv2d(4, 6, 3, 2, 1)
        self.u = nn.ConvTranspose2d(6, 4, 2, 2)
        self.o = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x):
        h = functional.relu(self.a(x))
        y = functional.relu(self.u(functional.relu(self.d(h))))
        return self.o(torch.cat([h, y], 1))


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(7, 4, 3, padding=1)
        self.f = nn.Linear(11, 2)

    def forward(self, x):
        x = torch.cat([x, functional.elu(self.a(x))], 1)
        x = torch.cat([x, functional.elu(self.b(x))], 1)
        return self.f(functional.adaptive_avg_pool2d(x, (1, 1)).flatten(1))


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 8)
        self.b = nn.Linear(8, 4)
        self.g = nn.Linear(4, 4)

    def forward(self, x):
        h = self.a(x)
        h = h * torch.sigmoid(1.7 * h)
        y = self.b(h)
        y = y / y.norm(dim=-1, keepdim=True)
        z = functional.softplus(y) * torch.tanh(self.g(x))
        return torch.softmax(z + x, -1)


class TokenConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(9, 4)
        self.c = nn.Conv1d(4, 6, 3, padding="same")
        self.f = nn.Linear(6, 2)

    def forward(self, x):
        return self.f(functional.relu(self.c(self.e(x).transpose(1, 2))).mean(-1))


class Waves(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(2, 8)
        self.b = nn.Linear(8, 8)
        self.c = nn.Linear(8, 1)
        self.register_buffer("w", torch.rand(8) + 1)

    def forward(self, x):
        h = torch.sin(self.w * self.a(x))
        h = functional.gelu(self.b(h), approximate="tanh") + h
        return self.c(h).squeeze(-1)


class InstanceNormNet(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3),
            nn.InstanceNorm2d(4, affine=True),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            nn.Linear(4 * 9, 2),
        )


class Chance(nn.Module):
    def forward(self, x):
        return functional.dropout(x, 0.5, training=True)


def in_double(model):
    """A copy in evaluation that computes in double precision, casts and all."""
    from libgraph.cutting.capture import doubled, in_double

    copied = doubled(model)

    def call(x):
        with in_double():
            return copied(x)

    return call
