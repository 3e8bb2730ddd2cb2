"""From drifts to coefficients: the bottleneck, who shares it, and how many parameters it has."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from corollary_proceed import AdaptationGenerator, GeneratorGroup, LayerShape, generator_size

SHAPES = {
    "blocks.0.conv": LayerShape(4, 3, True),
    "blocks.1.conv": LayerShape(4, 3, True),
    "blocks.2.conv": LayerShape(5, 3, True),
    "head.conv": LayerShape(4, 3, True),
    "blocks.0.projector": LayerShape(4, 3, True),
    "query": LayerShape(4, 3, False),
}


def make(shapes: dict[str, LayerShape] = SHAPES, *, share: bool = True) -> AdaptationGenerator:
    torch.manual_seed(0)
    return AdaptationGenerator(shapes, concept_dim=6, bottleneck_dim=2, share=share).double()


def disturb(generator: AdaptationGenerator) -> None:
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for group in generator.groups:
            group.up.weight.normal_(generator=random)
            group.offset.normal_(generator=random)


def drifts(count: int) -> Tensor:
    return torch.randn(count, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def count(generator: AdaptationGenerator) -> int:
    return sum(p.numel() for p in generator.parameters())


def test_coefficients_are_one_one_zero_before_training() -> None:
    generator = make()
    found = generator.split(generator(drifts(3)))
    assert set(found) == set(SHAPES)
    for name, (outputs, inputs, has_bias) in SHAPES.items():
        beta, alpha, gamma = found[name]
        torch.testing.assert_close(beta, torch.ones_like(beta), rtol=0, atol=0)
        torch.testing.assert_close(alpha, torch.ones_like(alpha), rtol=0, atol=0)
        assert (beta.shape, alpha.shape) == ((3, outputs), (3, inputs))
        assert (gamma is None) != has_bias
        if gamma is not None:
            assert gamma.shape == (3, outputs)
            assert not bool(gamma.any())


def test_coefficients_in_the_order_rows_columns_bias() -> None:
    group = GeneratorGroup({"layer": LayerShape(2, 3, True)}, concept_dim=4, bottleneck_dim=2)
    with torch.no_grad():
        group.offset.copy_(torch.arange(7.0))
    beta, alpha, gamma = group.split(group(torch.zeros(4)))["layer"]
    assert beta.tolist() == [1, 2]
    assert alpha.tolist() == [3, 4, 5]
    assert gamma is not None
    assert gamma.tolist() == [5, 6]


def test_offsets_shift_the_coefficients_of_their_own_layer_only() -> None:
    generator = make()
    before = generator.split(generator(drifts(1)[0]))
    group = next(group for group in generator.groups if "blocks.1.conv" in group.shapes)
    with torch.no_grad():
        group.offset[list(group.shapes).index("blocks.1.conv"), 0] += 0.25
    after = generator.split(generator(drifts(1)[0]))
    for name in SHAPES:
        change = (after[name].beta - before[name].beta).detach()
        assert change.tolist() == ([0.25, 0, 0, 0] if name == "blocks.1.conv" else [0] * len(change))
        assert torch.equal(after[name].alpha, before[name].alpha)


def test_offsets_do_not_depend_on_the_drift() -> None:
    generator = make()
    with torch.no_grad():
        for offset in generator.offsets():
            offset.normal_()
    first, second = (generator(drift) for drift in drifts(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_layers_are_grouped_by_last_name_and_width() -> None:
    groups = [list(group.shapes) for group in make().groups]
    assert groups == [
        ["blocks.0.conv", "blocks.1.conv", "head.conv"],
        ["blocks.2.conv"],
        ["blocks.0.projector"],
        ["query"],
    ]


def test_layers_of_one_width_and_different_sizes_share_a_bottleneck() -> None:
    """Grouping is by the number of coefficients, as in the official code; each layer cuts them its own way."""
    generator = make({"a.conv": LayerShape(2, 6, True), "b.conv": LayerShape(4, 2, True)})
    (group,) = generator.groups
    disturb(generator)
    found = group.split(group(drifts(1)[0]))
    assert [c.shape[0] for c in found["a.conv"] if c is not None] == [2, 6, 2]
    assert [c.shape[0] for c in found["b.conv"] if c is not None] == [4, 2, 4]
    start = group.start
    assert start[0].tolist() == [1.0] * 8 + [0.0] * 2
    assert start[1].tolist() == [1.0] * 6 + [0.0] * 4


def test_a_layer_and_its_twin_without_bias_do_not_share() -> None:
    generator = make({"a.conv": LayerShape(4, 3, True), "b.conv": LayerShape(4, 3, False)})
    assert len(generator.groups) == 2


def test_without_sharing_every_layer_has_a_bottleneck_of_its_own() -> None:
    generator = make(share=False)
    assert [list(group.shapes) for group in generator.groups] == [[name] for name in SHAPES]


def test_sharing_costs_layers_of_a_group_nothing_but_bias_and_offset() -> None:
    one, two = (make({name: SHAPES[name] for name in names}) for names in (["blocks.0.conv"], list(SHAPES)[:2]))
    assert count(two) - count(one) == 2 + SHAPES["blocks.0.conv"].width


def test_the_bias_starts_uniform_within_one_over_root_concept_dim() -> None:
    shapes = {f"{i}.conv": LayerShape(2, 2, True) for i in range(40)}
    torch.manual_seed(0)
    (group,) = AdaptationGenerator(shapes, concept_dim=25, bottleneck_dim=50).groups
    bound = 1 / math.sqrt(25)
    assert 0.95 * bound < float(group.bias.detach().abs().max()) <= bound
    torch.testing.assert_close(float(group.bias.detach().std()), bound / math.sqrt(3), rtol=0.05, atol=0)
    assert float(group.down.weight.detach().abs().max()) <= bound  # torch's own default for a Linear


def test_a_batch_of_drifts_gives_what_each_drift_gives() -> None:
    generator = make()
    disturb(generator)
    together = generator(drifts(3))
    for sample, drift in enumerate(drifts(3)):
        for matrix, single in zip(together, generator(drift), strict=True):
            torch.testing.assert_close(matrix[sample], single)


shapes = st.builds(LayerShape, st.integers(1, 6), st.integers(1, 6), st.booleans())
names = st.sampled_from(["a.conv", "b.conv", "a.linear", "b.linear", "head"])


@given(st.dictionaries(names, shapes, min_size=1), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_the_formula_counts_the_parameters(
    layers: dict[str, LayerShape], concept_dim: int, bottleneck_dim: int
) -> None:
    generator = AdaptationGenerator(layers, concept_dim=concept_dim, bottleneck_dim=bottleneck_dim)
    assert generator_size(layers, concept_dim=concept_dim, bottleneck_dim=bottleneck_dim) == count(generator)


@given(st.dictionaries(names, shapes, min_size=1), st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_layer_gets_all_its_coefficients(layers: dict[str, LayerShape], share: bool) -> None:
    generator = make(layers, share=share)
    found = generator.split(generator(drifts(1)[0]))
    assert set(found) == set(layers)
    for name, shape in layers.items():
        assert sum(c.numel() for c in found[name] if c is not None) == shape.width
