"""The section: a differentiable map between two neighbouring node layers, and what can be summed.

A section maps activations forward, can be seen in other coordinates at either end, and adds up two
things over a batch: its Jacobian Gram (what a basis is made from) and its interactions (what edges
are made from). A class with a closed form overrides those two; everything else gets them from
automatic differentiation (`libgraph.sections.autodiff`). Rows are activations: y = x @ W.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from libgraph.quadrature import Quadrature
from libgraph.sections import autodiff

LinearMap = Callable[[Tensor], Tensor]


class Section(nn.Module):
    """A map x ↦ y from `(n, s, d_in)` to `(n, t, d_out)`, the same for every sample n.

    Subclasses implement `forward` and, where they know better than automatic differentiation,
    `transform`, `jacobian_gram`, `interactions` and `masked`.

    Attributes:
        d_in: coordinates of an activation that comes in, the constant one included.
        d_out: coordinates of an activation that goes out.
        positionwise: whether output position t depends on input position t alone.
    """

    positionwise = False
    _like: Tensor

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.d_in = d_in
        self.d_out = d_out
        # Follows the section's dtype and device, also where it has no tensor of its own.
        self.register_buffer("_like", torch.empty(0), persistent=False)

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_out"]:
        """Map activations to the next node layer."""
        raise TypeError(f"{type(self).__name__} does not say how to map forward.")

    def extra_repr(self) -> str:
        """What tells this section from another of its class and tensors."""
        return ""

    def transform(self, left: LinearMap, right: LinearMap) -> Section:
        """The section with its constant factors changed at both ends.

        `left` acts on the rows of every factor that the input multiplies, `right` on the columns
        of every factor that makes the output: of a matrix A the result has `right(left(A))`.
        """
        rows, columns = (torch.eye(size).to(self._like) for size in (self.d_in, self.d_out))
        return Rebased(self, left(rows), right(columns))

    def rebase(
        self,
        decoder: Float[Tensor, "k_in d_in"] | None = None,
        encoder: Float[Tensor, "d_out k_out"] | None = None,
    ) -> Section:
        """The same map in other coordinates: f ↦ section(f @ decoder) @ encoder."""
        return self.transform(
            (lambda factor: factor) if decoder is None else (lambda factor: decoder @ factor),
            (lambda factor: factor) if encoder is None else (lambda factor: factor @ encoder),
        )

    def jacobian_gram(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "d_in d_in"]:
        """Sum over the batch of Σ_ts J_ts J_tsᵀ, J_ts = ∂y_t/∂x_s as a `(d_in, d_out)` matrix.

        With the next layer's basis C' it is the Gram of `rebase(encoder=C')`. Source: docs/math.md
        §2, step 3.
        """
        return autodiff.jacobian_gram(self, x)

    def interactions(
        self,
        x: Float[Tensor, "n s d_in"],
        features: Float[Tensor, "n s k"],
        decoder: Float[Tensor, "k d_in"],
        quadrature: Quadrature,
    ) -> Float[Tensor, "d_out k"]:
        """Sum over the batch of Σ_t (Σ_s f_sj ∫dα (decoder J_ts(αx))_ji)², as `[i, j]`.

        The Jacobian is taken at `x` itself, so that features may be fewer, or more, than
        coordinates. Source: docs/math.md §3.
        """
        return autodiff.interactions(self, x, features, decoder, quadrature)

    def masked(
        self, x: Float[Tensor, "n s d_in"], keep: Bool[Tensor, "d_in d_out"]
    ) -> Float[Tensor, "n t d_out"]:
        """Map forward with output i seeing only the inputs that `keep[:, i]` names, others zero.

        Outputs that keep the same inputs share one pass, over those inputs alone.
        """
        patterns, owner = torch.unique(keep, dim=1, return_inverse=True)
        columns, outputs = [], []
        for pattern in range(patterns.shape[1]):
            rows = patterns[:, pattern].nonzero().squeeze(1)
            chosen = (owner == pattern).nonzero().squeeze(1)
            part = self.transform(
                lambda factor, rows=rows: factor[rows],  # type: ignore[misc]
                lambda factor, chosen=chosen: factor[:, chosen],  # type: ignore[misc]
            )
            columns.append(chosen)
            outputs.append(part(x[..., rows]))
        return torch.cat(outputs, dim=-1)[..., torch.cat(columns).argsort()]


class Rebased(Section):
    """Any section seen in other coordinates: f ↦ inner(f @ decoder) @ encoder."""

    def __init__(self, inner: Section, decoder: Tensor, encoder: Tensor) -> None:
        super().__init__(decoder.shape[0], encoder.shape[1])
        self.inner = inner
        self.positionwise = inner.positionwise
        self.register_buffer("decoder", decoder)
        self.register_buffer("encoder", encoder)

    decoder: Tensor
    encoder: Tensor

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_out"]:
        """Into the inner section's coordinates, through it, and out of them."""
        y: Tensor = self.inner(x @ self.decoder)
        return y @ self.encoder

    def transform(self, left: LinearMap, right: LinearMap) -> Section:
        """Change the two matrices at the ends."""
        return Rebased(self.inner, left(self.decoder), right(self.encoder))


class Function(Section):
    """A section given as any module or function on `(n, s, d_in)` tensors; autodiff does the rest.

    Args:
        function: the map; samples must not see each other (no batch norm in training mode).
        d_in: coordinates in, the constant one included.
        d_out: coordinates out.
        positionwise: set it where the map treats positions alike and apart: it saves much work.

    Like any module it takes the dtype that `.to` gives it, float32 at first.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        d_in: int,
        d_out: int,
        positionwise: bool = False,
    ) -> None:
        super().__init__(d_in, d_out)
        self.function = function
        self.positionwise = positionwise

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_out"]:
        """Call the function."""
        return self.function(x)

    def extra_repr(self) -> str:
        """Which function it is, as far as its name tells."""
        return getattr(self.function, "__qualname__", type(self.function).__name__)
