"""The section: a differentiable map between two neighbouring node layers, and what can be summed.

A section maps activations forward, can be seen in other coordinates at either end, and adds up two
things over a batch: its Jacobian Gram (what a basis is made from) and its interactions (what edges
are made from), the squares of its effects. Automatic differentiation does both for any map; a
class with a closed form (`ClosedForm`) says what its Gram and its effects are. Rows are
activations: y = x @ W.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import reduce

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from libgraph.sections import autodiff
from libgraph.sections.carrying import Reader
from libgraph.sections.chunks import chunks
from libgraph.sections.estimate import Estimate
from libgraph.sections.holding import attends, patterns_held
from libgraph.sections.kept_inputs import KeptInputs, sort_masks
from libgraph.sections.quadrature import Quadrature

LinearMap = Callable[[Tensor], Tensor]


Seen = tuple[Tensor, ...]
"""Constant factors of a section as features see them, each of shape `(k, …)`."""


Effects = Callable[[Tensor, Seen], Tensor]
"""Features `(n, s, k)`, and the factors that they see, to their effects `(n, k, t, d_out)`."""


Watcher = Callable[["Section", str, Tensor, Tensor], Tensor]
"""Told of a section, the name of a weight, what was multiplied and what came out; what it returns
goes on in place of that."""


Reach = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""Positions `(m)` and steps of the activation there `(m, d_in)` to what each does to all outputs
`(m, t, d_out)`, and to the part of that which moves attention patterns; None where nothing attends.
"""


class Section(nn.Module, ABC):
    """A map x ↦ y from `(n, s, d_in)` to `(n, t, d_out)`, the same for every sample n.

    A subclass *must* implement `forward`. It *may* implement closed forms: `transform`,
    `linearize`, `jacobian_gram` and `interactions`, which have to agree with automatic
    differentiation (`libgraph.testing.check_section` sees to that). The rest is *for speed*.

    Rows of zeros in a weight are left out of products. Whoever changes weights between two calls
    does it in place, `with torch.no_grad(): section.matrix[…] = …`; of changes through `.data`
    nothing tells, and they are seen from the next analysis, or subject of questions, on.

    Attributes:
        d_in: coordinates of an activation that comes in, the constant one included.
        d_out: coordinates of an activation that goes out.
        positionwise: set it where output position t depends on input position t alone, and in
            the same way for every t: positions then count as samples, and J_ts = 0 for t ≠ s is
            never computed.
        readers: names of the weights that the section's input is multiplied by.
        writers: names of those whose products are added to its output. Weights are the factors
            that `forward` multiplies by through `product`, so that they can be watched: all but
            the skip and what is fixed. Sections inside of this one name their own.
        watcher: sees every such product, if there is one.
    """

    positionwise = False
    readers: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()
    watcher: Watcher | None = None
    _like: Tensor

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.d_in = d_in
        self.d_out = d_out
        # Follows the section's dtype and device, also where it has no tensor of its own.
        self.register_buffer("_like", torch.empty(0), persistent=False)
        self._products: dict[str, Reader] = {}

    # Must

    @abstractmethod
    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_out"]:
        """Map activations to the next node layer."""

    # May: closed forms, where a section knows better than automatic differentiation

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

    def linearize(self, x: Float[Tensor, "n s d_in"]) -> LinearMap:
        """The derivative at `x`: tangents `(n, k, s, d_in)` to `(n, k, t, d_out)`.

        Tangents may have 1 in place of n where all samples share them, and in place of s where
        all positions do and the section is positionwise.
        """
        return autodiff.linearize(self, x)

    def linearize_between(
        self,
        start: Float[Tensor, "n s d_in"],
        x: Float[Tensor, "n s d_in"],
        quadrature: Quadrature,
    ) -> LinearMap:
        """The derivative averaged along the straight path from `start` to `x`; see `linearize`.

        Tangents x − start come out as the change of the output, as far as the rule is exact.
        """
        path = [
            (weight, self.linearize(start + point * (x - start)))
            for point, weight in zip(quadrature.points, quadrature.weights, strict=True)
        ]
        return lambda tangents: reduce(torch.add, (w * linear(tangents) for w, linear in path))

    def linearize_along(self, x: Float[Tensor, "n s d_in"], quadrature: Quadrature) -> LinearMap:
        """The derivative averaged by a rule along the path from zero, as interactions take it."""
        path = [
            (weight, self.linearize(point * x))
            for point, weight in zip(quadrature.points, quadrature.weights, strict=True)
        ]
        return lambda tangents: reduce(torch.add, (w * linear(tangents) for w, linear in path))

    def reach(
        self,
        start: Float[Tensor, "1 s d_in"],
        x: Float[Tensor, "1 s d_in"],
        quadrature: Quadrature,
    ) -> Reach:
        """What steps at single positions do, to first order along the path to `x`; see `Reach`.

        The first part is of everything but patterns, so that both add up to the derivative.
        """
        linear = self.linearize_between(start, x, quadrature)
        attending = attends(self)

        def reach(positions: Tensor, steps: Tensor) -> tuple[Tensor, Tensor | None]:
            tangents = x.new_zeros(1, len(steps), *x.shape[1:])
            tangents[0, torch.arange(len(steps), device=x.device), positions] = steps
            effect = linear(tangents)[0]
            if not attending:
                return effect, None
            with patterns_held(self):
                through = linear(tangents)[0]
            return through, effect - through

        return reach

    def jacobian_gram(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "d_in d_in"]:
        """Sum over the batch of Σ_ts J_ts J_tsᵀ, J_ts = ∂y_t/∂x_s as a `(d_in, d_out)` matrix.

        In float64, whatever the dtype of x. With the next layer's basis C' it is the Gram of
        `rebase(encoder=C')`. Source: docs/math.md §2, step 3.
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

        In float64. The Jacobian is taken at `x` itself, so that features may be fewer, or more,
        than coordinates. Source: docs/math.md §3.
        """
        return autodiff.interactions(self, x, features, decoder, quadrature)

    # For speed: effects, from which interactions and their estimates are summed

    def seen(self, decoder: Float[Tensor, "k d_in"]) -> Seen:
        """What `effects` needs of the constant factors, multiplied out once for all data."""
        return (decoder,)

    def effects(self, x: Float[Tensor, "n s d_in"], quadrature: Quadrature) -> Effects:
        """What features do to outputs: Σ_s f_sj ∫dα (decoder J_ts(αx))_ji as `[n, j, t, i]`.

        Everything that depends on `x` alone is computed once, by this call.
        """
        linear = self.linearize_along(x, quadrature)

        def effects(features: Tensor, seen: Seen) -> Tensor:
            f = features.transpose(1, 2).unsqueeze(-1)
            along = seen[0][None, :, None]
            return f * linear(along) if self.positionwise else linear(f * along)

        return effects

    def signed_effects(
        self,
        x: Float[Tensor, "n s d_in"],
        quadrature: Quadrature,
        signs: Float[Tensor, "r n t"],
    ) -> Effects:
        """Effects summed over output positions under signs, Σ_t φ_rt R_t, as `[n, j, r, i]`."""
        effects = self.effects(x, quadrature)
        by_sample = signs.transpose(0, 1).unsqueeze(1)
        return lambda features, seen: by_sample @ effects(features, seen)

    def elements_per_effect(self, positions: int) -> int:
        """Numbers in the largest intermediate result of `effects`, for one sample and feature.

        Batches are cut by it into chunks that fit the processor's memory.
        """
        return positions * max(self.d_in, self.d_out)

    def elements_per_signed_effect(self, positions: int, draws: int) -> int:
        """The same of `signed_effects`, with so many draws of signs."""
        return self.elements_per_effect(positions)

    def estimate(
        self,
        x: Float[Tensor, "n s d_in"],
        features: Float[Tensor, "n s k"],
        decoder: Float[Tensor, "k d_in"],
        quadrature: Quadrature,
        signs: Float[Tensor, "r n t"],
    ) -> Estimate:
        """`interactions` from r ≥ 2 draws of a sign for every output position; or exactly.

        Exactly where automatic differentiation gets them in no more passes than the estimate: one
        a feature, however many positions there are. Source: docs/math.md §3.
        """
        if self.positionwise or len(decoder) <= len(signs) * self.d_out:
            return Estimate.exact(self.interactions(x, features, decoder, quadrature))
        return autodiff.estimate(self, x, features, decoder, quadrature, signs)

    # For speed: in parallel with others, and with edges left out

    def diagonal_product(
        self,
        x: Float[Tensor, "n t d_in"],
        weights: Float[Tensor, "n t a"],
        vectors: Float[Tensor, "a d_out"],
    ) -> Float[Tensor, "d_in a"]:
        """Σ_x Σ_t J_tt v_a weights_ta for every a: what a positionwise section in parallel meets.

        In float64. Only for positionwise sections, unless a subclass knows better.
        """
        rows = torch.eye(self.d_in).to(x)[None, :, None]
        x, weights = x.reshape(-1, 1, self.d_in), weights.flatten(0, 1)
        total = x.new_zeros(self.d_in, len(vectors), dtype=torch.float64)
        for samples in chunks(len(x), self.d_in * max(self.d_out, len(vectors)), x):
            products = self.linearize(x[samples])(rows).squeeze(2) @ vectors.T
            total += torch.einsum("mia,ma->ia", products, weights[samples]).double()
        return total

    def masked(
        self, x: Float[Tensor, "n s d_in"], keep: Bool[Tensor, "d_in d_out"]
    ) -> Float[Tensor, "n t d_out"]:
        """Map forward with output i seeing only the inputs that `keep[:, i]` names, others zero.

        Outputs that keep the same inputs share one pass, over those inputs alone, and many such
        passes are made at once.

        Raises:
            ValueError: if `keep` does not fit the section.
        """
        planes = torch.cat([x.permute(2, 1, 0), x.new_zeros(1, *x.shape[1::-1])])
        outputs: Tensor | None = None
        for masks in sort_masks(keep):
            elements = self.elements_per_mask(x.shape[1], masks.rows.shape[1])
            for piece, samples in masks.pieces(elements, x):
                kept = KeptInputs(
                    planes[piece.rows, :, samples].transpose(1, 3),
                    piece.rows.clamp(max=self.d_in - 1),
                    piece.columns,
                )
                y = self.from_kept(kept).movedim(-1, 1)
                if outputs is None:
                    outputs = y.new_empty(self.d_out, len(x), y.shape[3])
                outputs[piece.columns[piece.counted], samples] = y[piece.counted]
        if outputs is None:
            raise ValueError("A mask of no outputs asks for nothing.")
        return outputs.permute(1, 2, 0)

    def from_kept(self, kept: KeptInputs) -> Float[Tensor, "p n t m"]:
        """Map forward under several masks: some of the outputs from some of the inputs each."""
        return torch.stack(
            [
                self.transform(_rows(rows), _columns(columns))(x)
                for x, rows, columns in zip(*kept, strict=True)
            ]
        )

    def elements_per_mask(self, positions: int, inputs: int) -> int:
        """Numbers in the largest intermediate result of `from_kept`, for one sample and mask."""
        return positions * max(inputs, self.d_out)

    def nested(
        self, x: Float[Tensor, "n s d_in"], sizes: Sequence[int]
    ) -> Iterator[Float[Tensor, "n t d_out"]]:
        """Map forward with the first k inputs alone, others zero, for every k of rising sizes.

        What comes out lasts until the next is asked for.
        """
        for size in sizes:
            if size:
                yield self.transform(_rows(slice(size)), lambda factor: factor)(x[..., :size])
            else:
                yield self(torch.zeros_like(x))

    # What every section has

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

    def factor(self, name: str) -> Float[Tensor, "d_read d_written"]:
        """The weight of that name, as a matrix that rows are multiplied by."""
        matrix: Tensor = getattr(self, name)
        return matrix

    def product(self, x: Float[Tensor, "*n d_read"], name: str) -> Float[Tensor, "*n d_written"]:
        """x times a weight; a watcher sees it, and may change what comes out."""
        factor = self.factor(name)
        # Some sections make the matrix from what they hold: a new one each time.
        own = name in self._buffers and self._buffers[name] is factor
        z = self._products.setdefault(name, Reader())(x, factor) if own else x @ factor
        return z if self.watcher is None else self.watcher(self, name, x, z)


class Rebased(Section):
    """Any section seen in other coordinates: f ↦ inner(f @ decoder) @ encoder."""

    decoder: Tensor
    encoder: Tensor

    def __init__(self, inner: Section, decoder: Tensor, encoder: Tensor) -> None:
        super().__init__(decoder.shape[0], encoder.shape[1])
        self.inner = inner
        self.positionwise = inner.positionwise
        self.register_buffer("decoder", decoder)
        self.register_buffer("encoder", encoder)

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_out"]:
        """Into the inner section's coordinates, through it, and out of them."""
        y: Tensor = self.inner(x @ self.decoder)
        return y @ self.encoder

    def linearize(self, x: Float[Tensor, "n s d_in"]) -> LinearMap:
        """The inner derivative between the two matrices."""
        linear = self.inner.linearize(x @ self.decoder)
        return lambda tangents: linear(tangents @ self.decoder) @ self.encoder

    def transform(self, left: LinearMap, right: LinearMap) -> Section:
        """Change the two matrices at the ends."""
        return Rebased(self.inner, left(self.decoder), right(self.encoder))


def _rows(chosen: Tensor | slice) -> LinearMap:
    return lambda factor: factor[..., chosen, :]


def _columns(chosen: Tensor) -> LinearMap:
    return lambda factor: factor[..., chosen]
