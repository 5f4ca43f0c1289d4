"""What is read off the text of an HLO module."""

import jax
import jax.numpy as jnp
import pytest

from mvgrpo_jax.planning import hlo
from mvgrpo_jax.planning.hlo import Instruction, Module


@pytest.mark.parametrize(
    "written, want",
    [
        ("replica_groups={{0,2},{1,3}}", [[0, 2], [1, 3]]),
        ("replica_groups={}, dimensions={0}", [[0, 1, 2, 3]]),
        ("replica_groups=[2,2]<=[4], dimensions={0}", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), to_apply=%add", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['x'=2,'y'=2] {'y'}, dimensions={0}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['x'=2,'y'=2] {'x'}, dimensions={0}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['x'=2,'y'=2] {'x','y'}", [[0, 1, 2, 3]]),
        ("replica_groups=mesh['x'=4] {'x':(1)2}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['x'=4] {'x':(2)2}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['x'=2,'y'=2], device_ids=(0,2,1,3) {'y'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['x'=2,'y'=1,'z'=2], device_ids=([2,2]T(1,0)) {'x'}, dimensions={0}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['x'=2,'y'=1,'z'=2], device_ids=([2,2]T(1,0)) {'z'}, dimensions={0}", [[0, 2], [1, 3]]),
        ("source_target_pairs={{0,1},{1,0}}, channel_id=1", [[0, 1], [1, 0]]),
    ],
)
def test_who_talks_to_whom(written, want):
    assert hlo.groups(Instruction("g", "f32[4]", "all-gather", f"%x), channel_id=1, {written}"), 4) == want


def test_groups_that_are_not_understood_are_not_guessed():
    with pytest.raises(ValueError, match="not known here: replica_groups=new"):
        hlo.groups(Instruction("g", "f32[4]", "all-gather", "%x), replica_groups=new<0,1>"), 4)


@pytest.mark.parametrize(
    "shape, size", [("bf16[2,4]{1,0:T(8,128)(2,1)}", 16), ("(f32[3]{0}, s8[5], pred[])", 18), ("f8e4m3fn[7]", 7), ("u4[8]", 4)]
)
def test_sizes(shape, size):
    assert hlo.size(shape) == size


def test_operations_of_a_compiled_program():
    """A batched product in a loop and a convolution, by hand."""

    def run(a, b, x, k):
        a = jax.lax.scan(lambda a, _: (jnp.einsum("bij,bjk->bik", a, b), None), a, None, 3)[0]
        return a, jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 8, 8), (2, 8, 8), (1, 6, 6, 3), (3, 3, 3, 5))]
    module = Module.parse(jax.jit(run).lower(*shapes).compile().as_text())
    loops = [i for rows in module.computations.values() for i in rows if i.op == "while"]
    assert [module.trips(i) for i in loops] == [3]
    counted = {}
    for name, rows in module.computations.items():
        for i in rows:
            if i.op in ("dot", "convolution"):
                counted[i.op] = module.operations(name, i)
    assert counted == {"dot": 2 * 2 * 8 * 8 * 8, "convolution": 2 * 6 * 6 * 5 * 27}


def test_operations_of_library_calls():
    text = """
ENTRY %main (a: bf16[8,128]) -> bf16[8,96] {
  %a = bf16[8,128]{1,0} parameter(0)
  %q = bf16[2,40,4,32]{3,2,1,0} parameter(1)
  %c = (bf16[8,96]{1,0}, s8[32]{0}) custom-call(%a, %a), custom_call_target="__cublas$lt$matmul", backend_config={"lhs_contracting_dimensions":["1"]}
  %f = bf16[2,4,40,32]{3,1,2,0} custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax"
}
"""  # noqa: E501
    module = Module.parse(text)
    product, attention = module.computations["main"][2:]
    assert module.operations("main", product) == 2 * 8 * 96 * 128
    assert module.operations("main", attention) == 4 * 2 * 4 * 40 * 40 * 32
