"""Checks of a section's closed forms against its own Jacobians."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.backend.streams import stream
from libgraph.sections import Section
from libgraph.sections.estimate import Estimate
from libgraph.sections.quadrature import Quadrature
from libgraph.testing.comparison import relative_error, require, require_close
from libgraph.testing.jacobians import Jacobians

QUADRATURES = (Quadrature.gradient(), Quadrature.gauss_legendre(2))


def check_section(
    section: Section,
    x: Float[Tensor, "n s d_in"],
    *,
    name: str = "section",
    checks: Collection[str] | None = None,
    quadratures: Sequence[Quadrature] = QUADRATURES,
    features: int = 5,
    seed: int = 0,
    jacobians: Jacobians | None = None,
) -> None:
    """Check all that a section says of itself against Jacobians of what it maps `x` to.

    The Jacobians are taken once. Where they would be too large to hold (`DENSE_ELEMENTS`),
    automatic differentiation takes their place.

    Args:
        section: in the dtype of `x`.
        x: activations in the section's domain; in float64, rounding hides least.
        name: begins every message.
        checks: which of `CHECKS` to make; all of them if None.
        quadratures: that interactions and effects are checked with; `x` times each of their
            points has to be in the section's domain as well.
        features: number of features, random directions in the section's input.
        seed: of features, signs, masks and rotations.
        jacobians: those of the same map at the same activations, if they are known.

    Raises:
        AssertionError: saying which check failed, and how far off it was.
        ValueError: if there is no such check.
    """
    checks = tuple(CHECKS) if checks is None else checks
    unknown = sorted(set(checks) - set(CHECKS))
    if unknown:
        raise ValueError(f"There are no checks {', '.join(unknown)}: take {', '.join(CHECKS)}.")
    with torch.no_grad():
        case = Case(
            section, x, name, jacobians or Jacobians(section, x), quadratures, features, seed
        )
        for check in checks:
            CHECKS[check](case)


@dataclass(frozen=True)
class Case:
    """A section, activations and random directions to check it with.

    Args:
        section: what is checked.
        x: activations that go in.
        name: begins every message.
        jacobians: those of the section at `x`.
        quadratures: that effects are averaged with.
        features: how many there are.
        seed: of what is random.
    """

    section: Section
    x: Tensor
    name: str
    jacobians: Jacobians
    quadratures: Sequence[Quadrature]
    features: int
    seed: int

    def random(self, number: int, *shape: int) -> Tensor:
        """Normal deviates, others for every number."""
        generator = stream(self.seed, number)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.x)

    @property
    def decoder(self) -> Float[Tensor, "k d_in"]:
        """Features' directions."""
        return self.random(1, self.features, self.section.d_in)

    @property
    def feature_activations(self) -> Float[Tensor, "n s k"]:
        """Features that need not have to do with the activations."""
        return self.random(2, *self.x.shape[:2], self.features)

    def signs(self, positions: int) -> Float[Tensor, "r n t"]:
        """From 2 to 4 draws of signs."""
        shape = (2 + self.seed % 3, len(self.x), positions)
        flips = torch.randint(0, 2, shape, generator=stream(self.seed, 3))
        return (2 * flips - 1).to(self.x)

    def compare(self, result: Tensor, of: Callable[[Jacobians], Tensor], what: str) -> None:
        """Fail unless a result is what is made of the Jacobians, as far as rounding lets it."""
        require_close(
            result,
            of(self.jacobians),
            f"{self.name}: {what}",
            terms=self.jacobians.terms,
            dtype=self.x.dtype,
            condition=lambda: self.jacobians.condition(of),
        )

    def require_sums(self, sums: Tensor, what: str) -> None:
        """Fail unless sums over data are in double precision."""
        require(
            sums.dtype == torch.float64,
            f"{self.name}: {what} is summed up in {sums.dtype}, not in float64",
        )


def _forward(case: Case) -> None:
    section, x = case.section, case.x
    before = x.clone()
    y = section(x)
    require(torch.equal(x, before), f"{case.name}: changes the activations that it is given")
    sizes = (x.shape[-1], y.shape[-1]), (section.d_in, section.d_out)
    require(
        y.ndim == 3 and len(y) == len(x) and sizes[0] == sizes[1],
        f"{case.name}: maps {tuple(x.shape)} to {tuple(y.shape)}, but says that it maps "
        f"(samples, positions, {section.d_in}) to (samples, positions, {section.d_out})",
    )
    case.compare(y, Jacobians.outputs, "samples see each other, or order matters")
    if section.positionwise:
        apart = torch.stack([section(x[:, t : t + 1])[:, 0] for t in range(x.shape[1])], dim=1)
        case.compare(apart, Jacobians.outputs, "says it is positionwise and is not")


def _weights(case: Case) -> None:
    section = case.section
    products: dict[str, tuple[Tensor, Tensor]] = {}

    def watcher(watched: Section, name: str, x: Tensor, z: Tensor) -> Tensor:
        # Copies, because an activation that works in place changes them afterwards.
        products[name] = x.clone(), z.clone()
        return z

    before, section.watcher = section.watcher, watcher
    try:
        y = section(case.x)
    finally:
        section.watcher = before
    case.compare(y, Jacobians.outputs, "maps otherwise while it is watched")
    named = {*section.readers, *section.writers}
    require(
        products.keys() == named,
        f"{case.name}: readers and writers are {sorted(named)}, but forward multiplies by "
        f"{sorted(products)} through product",
    )
    for name, (x, z) in products.items():
        require_close(
            z,
            x @ section.factor(name),
            f"{case.name}: product is not what the factor '{name}' makes of its input",
            terms=case.jacobians.terms,
            dtype=case.x.dtype,
        )


def _linearize(case: Case) -> None:
    n, s, d_in = case.x.shape
    linear = case.section.linearize(case.x)
    shapes = {"": (n, 2, s, d_in), " shared by all samples": (1, 2, s, d_in)}
    if case.section.positionwise:
        shapes[" shared by all positions"] = (n, 2, 1, d_in)
    for which, shape in shapes.items():
        tangents = case.random(4, *shape)

        def expected(jacobians: Jacobians, tangents: Tensor = tangents) -> Tensor:
            return jacobians.derivative(tangents.expand(n, 2, s, d_in))

        what = f"linearize differs from automatic differentiation on tangents{which}"
        case.compare(linear(tangents), expected, what)


def _jacobian_gram(case: Case) -> None:
    gram = case.section.jacobian_gram(case.x)
    case.require_sums(gram, "jacobian_gram")
    case.compare(gram, Jacobians.gram, "jacobian_gram differs from automatic differentiation")


def _interactions(case: Case) -> None:
    features, decoder = case.feature_activations, case.decoder
    for quadrature in case.quadratures:
        edges = case.section.interactions(case.x, features, decoder, quadrature)
        case.require_sums(edges, "interactions")

        def expected(jacobians: Jacobians, quadrature: Quadrature = quadrature) -> Tensor:
            return jacobians.effects(features, decoder, quadrature).square().sum((0, 2)).T

        what = f"interactions ({quadrature.name}) differ from automatic differentiation"
        case.compare(edges, expected, what)


def _effects(case: Case) -> None:
    features, decoder, section = case.feature_activations, case.decoder, case.section
    seen = section.seen(decoder)
    require(
        all(len(factor) == len(decoder) for factor in seen),
        f"{case.name}: seen gives factors of shapes {[tuple(factor.shape) for factor in seen]}, "
        f"not of {len(decoder)} features first",
    )
    signs = case.signs(section(case.x[:1]).shape[1])
    for quadrature in case.quadratures:

        def expected(jacobians: Jacobians, quadrature: Quadrature = quadrature) -> Tensor:
            return jacobians.effects(features, decoder, quadrature)

        def signed(jacobians: Jacobians, expected: Callable[..., Tensor] = expected) -> Tensor:
            effects = expected(jacobians)
            return torch.einsum("rnt,nkte->nkre", signs.to(effects), effects)

        how = f"({quadrature.name}) differ from automatic differentiation"
        case.compare(
            section.effects(case.x, quadrature)(features, seen), expected, f"effects {how}"
        )
        under_signs = section.signed_effects(case.x, quadrature, signs)(features, seen)
        case.compare(under_signs, signed, f"signed_effects {how}")


def _estimate(case: Case) -> None:
    """Of the draws, or exact: both keep the contract."""
    features, decoder, section = case.feature_activations, case.decoder, case.section
    signs = case.signs(section(case.x[:1]).shape[1])
    for quadrature in case.quadratures:
        estimate = section.estimate(case.x, features, decoder, quadrature, signs)
        for sums in estimate:
            case.require_sums(sums, "estimate")

        def drawn(jacobians: Jacobians, quadrature: Quadrature = quadrature) -> Tensor:
            effects = jacobians.effects(features, decoder, quadrature)
            under_signs = torch.einsum("rnt,nkte->nkre", signs.to(effects), effects)
            return _total_and_spread(Estimate.from_draws(under_signs))

        def exact(jacobians: Jacobians, quadrature: Quadrature = quadrature) -> Tensor:
            effects = jacobians.effects(features, decoder, quadrature)
            return _total_and_spread(Estimate.exact(effects.square().sum((0, 2)).T.double()))

        pair = _total_and_spread(estimate)
        nearest = min((exact, drawn), key=lambda of: relative_error(pair, of(case.jacobians)))
        what = f"estimate ({quadrature.name}) is neither exact nor that of the draws of signs"
        case.compare(pair, nearest, what)


def _total_and_spread(estimate: Estimate) -> Float[Tensor, "2 d_out k"]:
    """The total and, in its units, how far it is from certain.

    Equal draws have a variance of rounding errors, of which a root would make much: so √(T² + V).
    """
    return torch.stack([estimate.total, (estimate.total.square() + estimate.variance).sqrt()])


def _diagonal_product(case: Case) -> None:
    """Where a section says that it can, and there is a diagonal."""
    section, x = case.section, case.x
    able = section.positionwise or type(section).diagonal_product is not Section.diagonal_product
    if not (able and case.jacobians.dense and section(x[:1]).shape[1] == x.shape[1]):
        return
    weights, vectors = case.random(5, *x.shape[:2], 3), case.random(6, 3, section.d_out)
    products = section.diagonal_product(x, weights, vectors)
    case.require_sums(products, "diagonal_product")
    case.compare(
        products,
        lambda jacobians: jacobians.diagonal_product(weights, vectors),
        "diagonal_product differs from automatic differentiation",
    )


def _masked(case: Case) -> None:
    """With few distinct masks, so that outputs share passes, and with one for every output."""
    section = case.section
    masks, owner = case.random(7, section.d_in, 3) > 0, stream(case.seed, 8)
    shared = masks[:, torch.randint(0, 3, (section.d_out,), generator=owner).to(masks.device)]
    of_its_own = case.random(11, section.d_in, section.d_out) > case.random(12, section.d_out)

    for keep in (shared, of_its_own):

        def expected(jacobians: Jacobians, keep: Tensor = keep) -> Tensor:
            left_in = (case.x * columns for columns in keep.T)
            return torch.stack([jacobians.map(x)[..., i] for i, x in enumerate(left_in)], -1)

        outputs = section.masked(case.x, keep)
        case.compare(outputs, expected, "masked differs from leaving inputs out")


def _nested(case: Case) -> None:
    """With no input, some and all of them."""
    sizes = sorted({0, 1, case.section.d_in // 2, case.section.d_in})
    outputs = torch.stack([y.clone() for y in case.section.nested(case.x, sizes)])

    def expected(jacobians: Jacobians) -> Tensor:
        first = torch.arange(case.section.d_in).to(case.x.device)
        return torch.stack([jacobians.map(case.x * (first < size)) for size in sizes])

    case.compare(outputs, expected, "nested differs from leaving inputs out")


def _rebase(case: Case) -> None:
    """To more coordinates than there are and back to all of x, so that its domain is not left."""
    section, x = case.section, case.x
    decoder = torch.linalg.qr(case.random(9, section.d_in + 1, section.d_in).double()).Q.to(x)
    encoder = case.random(10, section.d_out, 3)
    rebased, features = section.rebase(decoder, encoder), x @ decoder.T
    sizes = rebased.d_in, rebased.d_out
    require(
        sizes == (section.d_in + 1, 3),
        f"{case.name}: rebase makes a section of sizes {sizes}, not {(section.d_in + 1, 3)}",
    )
    known = case.jacobians.rebased(decoder, encoder)
    name = f"{case.name} in other coordinates"
    inside = Case(rebased, features, name, known, case.quadratures[-1:], case.features, case.seed)
    inside.compare(rebased(features), Jacobians.outputs, "rebase changes the map")
    for check in (_linearize, _jacobian_gram, _effects, _interactions, _estimate):
        check(inside)


CHECKS: dict[str, Callable[[Case], None]] = {
    "forward": _forward,
    "weights": _weights,
    "linearize": _linearize,
    "jacobian_gram": _jacobian_gram,
    "effects": _effects,
    "interactions": _interactions,
    "estimate": _estimate,
    "diagonal_product": _diagonal_product,
    "masked": _masked,
    "nested": _nested,
    "rebase": _rebase,
}
"""What `check_section` checks, by name."""
