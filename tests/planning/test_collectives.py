"""Bytes and times of collectives: by hand, for programs compiled on eight CPU devices and for written schedules."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mvgrpo_jax.parallel.mesh import make_mesh
from mvgrpo_jax.planning import collectives
from mvgrpo_jax.planning.hardware import MFU, Chip

# 1000 operations, 100 bytes of memory, 8 bytes inside and 2 between a second.
CHIP = Chip("slow", "cuda", 0, 1000 / MFU, 100.0, 8.0, 2.0)
NODES = [0] * 4 + [1] * 4
BATCH = P(("data", "fsdp"))


@pytest.mark.parametrize(
    "kind, talk, inside, between",
    [  # 64 bytes a device, on 2 nodes of 4
        ("all-gather", lambda x: jax.lax.all_gather(x, "fsdp")[0], 3 * 64, 0),
        ("all-gather", lambda x: jax.lax.all_gather(x, "data")[0], 0, 64),
        ("all-gather", lambda x: jax.lax.all_gather(x, ("data", "fsdp"))[0], 6 * 64, 64),
        ("all-reduce", lambda x: jax.lax.psum(x, "fsdp"), 2 * 64 * 3 / 4, 0),
        ("all-reduce", lambda x: jax.lax.psum(x, "data"), 0, 64),
        ("all-reduce", lambda x: jax.lax.psum(x, ("data", "fsdp")), 2 * 64 * 6 / 8, 2 * 64 / 8),
        ("reduce-scatter", lambda x: jax.lax.psum_scatter(jnp.tile(x, (4, 1)), "fsdp", tiled=True), 3 * 64, 0),
        ("all-to-all", lambda x: jax.lax.all_to_all(x.reshape(4, 4), "fsdp", 0, 0, tiled=True), 64 * 3 / 4, 0),
        ("collective-permute", lambda x: jax.lax.ppermute(x, "fsdp", [(0, 1), (1, 0)]), 64, 0),
        ("collective-permute", lambda x: jax.lax.ppermute(x, "data", [(0, 1), (1, 0)]), 0, 64),
        ("all-reduce", lambda x: jax.lax.scan(lambda c, _: (jax.lax.psum(c, "data"), 0), x, None, 5)[0], 0, 5 * 64),
    ],
)
def test_bytes_of_compiled_programs(kind, talk, inside, between):
    mesh = make_mesh(2, 4, 1)
    x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=NamedSharding(mesh, BATCH))
    run = jax.jit(jax.shard_map(talk, mesh=mesh, in_specs=BATCH, out_specs=BATCH, check_vma=False))
    traffic = collectives.count(run.lower(x).compile().as_text(), NODES, CHIP)
    assert traffic.inside == {kind: inside} and traffic.between == {kind: between}
    assert traffic.hidden == 0 and traffic.exposed == pytest.approx(max(inside / 8, between / 2))


HLO = """HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%scatter (p0: f32[8,4]) -> f32[2,4] {
  %p0 = f32[8,4]{1,0} parameter(0)
  ROOT %q = f32[2,4]{1,0} reduce-scatter(%p0), replica_groups=[1,4]<=[4], dimensions={0}, to_apply=%add
}

%body.1 (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %x = bf16[2,4]{1,0} parameter(0)
  %y = f32[8,4]{1,0} get-tuple-element(%x), index=1
  %g = (bf16[2,4]{1,0}, bf16[8,4]{1,0}) all-gather-start(%x), replica_groups=[1,4]<=[4], dimensions={0}
  %d = f32[8,5]{1,0} dot(%y, %y), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %g.1 = bf16[8,4]{1,0} all-gather-done(%g)
  %r = f32[8,4]{1,0} all-reduce(%y), replica_groups=mesh['a'=2,'b'=2] {'a'}, to_apply=%add
  %w2 = (s32[], f32[8,4]) while(%t2), condition=%cond.2, body=%body.2
}

%body.2 (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %y = f32[8,4]{1,0} parameter(0)
  %q = ((f32[8,4]{1,0}), f32[2,4]{1,0}) async-start(%y), calls=%scatter
  %c = f32[10,5]{1,0} copy(%y)
  %c.1 = f32[10,5]{1,0} copy(%c)
  %q.1 = f32[2,4]{1,0} async-done(%q), calls=%scatter
}

%cond.2 (p: (s32[], f32[8,4])) -> pred[] {
  %c = s32[] constant(5)
  ROOT %l = pred[] compare(%i, %c), direction=LT
}

%cond.1 (p: (s32[], f32[8,4])) -> pred[] {
  ROOT %l = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %w = (s32[], f32[8,4]) while(%t), condition=%cond.1, body=%body.1, backend_config={"known_trip_count":{"n":"3"}}
  %z = f32[16]{0} parameter(0)
  %last = f32[16]{0} all-to-all(%z), replica_groups={}
}
"""


def test_a_schedule_with_nested_loops():
    """Four devices on two nodes. The outer loop runs 3 times, the inner one 15.

    all-gather: 16 bytes over n 4, k 2: 32 inside, 16 between, 8 s; the dot beside it is 8 x 5 x 4 x 2 = 320 operations or,
    longer, 320 bytes: 3.2 s. all-reduce across nodes: 128 bytes, 64 s, exposed. reduce-scatter: 128 bytes over n 4, k 2: 64
    inside, 32 between, 16 s; beside it two copies of 400 bytes, 8 s. all-to-all: 64 bytes: 16 inside, 32 between, 16 s.
    """
    traffic = collectives.count(HLO, [0, 0, 1, 1], CHIP)
    assert traffic.inside == {"all-gather": 3 * 32, "all-reduce": 0, "reduce-scatter": 15 * 64, "all-to-all": 16}
    assert traffic.between == {"all-gather": 3 * 16, "all-reduce": 3 * 128, "reduce-scatter": 15 * 32, "all-to-all": 32}
    assert traffic.hidden == pytest.approx(3 * 3.2 + 15 * 8)
    assert traffic.exposed == pytest.approx(3 * (8 - 3.2) + 3 * 64 + 15 * (16 - 8) + 16)
    assert traffic.compute == pytest.approx(3 * 3.2 + 15 * 8)


FUSED = """HloModule jit_f, is_scheduled=true

%begin (p.0: bf16[2,4]) -> (bf16[2,4], bf16[8,4], u32[]) {
  %p.0 = bf16[2,4]{1,0} parameter(0)
  %ag.0 = bf16[8,4]{1,0} all-gather(%p.0), channel_id=7, replica_groups=mesh['a'=4] {'a'}, dimensions={0}
  ROOT %cc.0 = (bf16[2,4]{1,0}, bf16[8,4]{1,0}, u32[]) custom-call(%ag.0), custom_call_target="AsyncCollectiveStart"
}

%go.on (p.1: bf16[2,4], p.2: f32[10,5]) -> f32[10,5] {
  %p.1 = bf16[2,4]{1,0} parameter(0)
  %p.2 = f32[10,5]{1,0} parameter(1)
  %ag.1 = bf16[8,4]{1,0} all-gather(%p.1), channel_id=7, replica_groups=mesh['a'=4] {'a'}, dimensions={0}
  ROOT %o = f32[10,5]{1,0} convolution(%p.2, %p.2), dim_labels=bf_io->bf
}

%end (p.3: bf16[2,4]) -> bf16[8,4] {
  %p.3 = bf16[2,4]{1,0} parameter(0)
  %ag.2 = bf16[8,4]{1,0} all-gather(%p.3), channel_id=7, replica_groups=mesh['a'=4] {'a'}, dimensions={0}
  ROOT %cc.2 = bf16[8,4]{1,0} custom-call(%p.3, %ag.2), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.1 (p.4: f32[8,4]) -> f32[2,4] {
  %p.4 = f32[8,4]{1,0} parameter(0)
  %ar = f32[8,4]{1,0} all-reduce(%p.4), channel_id=8, replica_groups=mesh['a'=4] {'a'}, to_apply=%add
  ROOT %ds = f32[2,4]{1,0} dynamic-slice(%ar, %i)
}

ENTRY %main (a: bf16[2,4], b: f32[10,5], c: f32[8,4]) -> bf16[8,4] {
  %a = bf16[2,4]{1,0} parameter(0)
  %b = f32[10,5]{1,0} parameter(1)
  %c = f32[8,4]{1,0} parameter(2)
  %f.0 = (bf16[2,4]{1,0}, bf16[8,4]{1,0}, u32[]) fusion(%a), kind=kCustom, calls=%begin
  %f.1 = f32[10,5]{1,0} fusion(%a, %b), kind=kCustom, calls=%go.on
  %f.2 = bf16[8,4]{1,0} fusion(%a), kind=kCustom, calls=%end
  %f.3 = f32[2,4]{1,0} fusion(%c), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_collectives_inside_fusions_count_once():
    """As on TPUs: 16 bytes are gathered by four devices, 48 a device and 6 s, in three fusions that also compute and write 84,
    200 and 64 bytes, twice a byte at 100 a second; an all-reduce whose result is cut moves 3/4 x 128 bytes, 12 s."""
    traffic = collectives.count(FUSED, [0] * 4, CHIP)
    assert traffic.inside == {"all-gather": 48, "reduce-scatter": 96} and not any(traffic.between.values())
    hidden = 2 * 84 / 100 + 2 * 200 / 100
    assert traffic.hidden == pytest.approx(hidden) and traffic.exposed == pytest.approx(6 - hidden + 12)
    assert traffic.compute == pytest.approx(2 * (84 + 200 + 64 + 32) / 100)
