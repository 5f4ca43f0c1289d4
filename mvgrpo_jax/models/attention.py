"""Scaled dot-product attention by the kernel that suits the platform.

'xla': plain operations, everywhere. 'cudnn': flash attention on NVIDIA GPUs (16-bit inputs, head size up to 128).
'splash': the Pallas flash kernel on TPU, with 'splash_interpret' as the same kernel in Pallas' interpreter, for tests on a
CPU. 'auto' chooses by platform and arithmetic. 'native' leaves that to the lowering of each program, for networks that are
built before it is known where they run: cudnn on NVIDIA GPUs where the inputs suit it, else xla. A flash kernel never stores
the [heads, S, S] scores.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel import rules

KINDS = ("auto", "xla", "cudnn", "splash", "splash_interpret")
_LANES = 128  # the TPU's vector width: sequences are padded to a multiple of it


def choose(kind: str, platform: str, dtype: jnp.dtype) -> str:
    """The kernel for a platform ('cpu', 'gpu', 'cuda', 'tpu'). UserError when `kind` cannot run there."""
    if kind not in KINDS:
        raise UserError(f"unknown attention {kind!r}; there are: {', '.join(KINDS)}")
    gpu, half = platform in ("gpu", "cuda"), jnp.dtype(dtype).itemsize == 2
    if kind == "auto":
        return "splash" if platform == "tpu" else "cudnn" if gpu and half else "xla"
    if kind == "cudnn" and not (gpu and half):
        raise UserError(
            f"config.train.attention=cudnn needs an NVIDIA GPU and bfloat16, found {platform} and {jnp.dtype(dtype)}"
        )
    if kind == "splash" and platform != "tpu":
        raise UserError(f"config.train.attention=splash needs a TPU, found {platform}; use auto")
    return kind


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, kind: str = "xla", bias=None, mask=None, causal: bool = False, scale=None
) -> jax.Array:
    """q: [N, S, heads, head_dim], k, v: the same, or of fewer heads that divide q's -> [N, S, heads, head_dim].

    bias: added to the logits, broadcast to [N, heads, S, S]; mask: bool, True where attention is allowed; both are for 'xla'.
    causal and fewer heads are for 'xla', 'cudnn' and 'native'.
    """
    plain = functools.partial(jax.nn.dot_product_attention, scale=scale, is_causal=causal)
    if kind == "xla":
        if bias is None and mask is None and not causal and k.shape == q.shape:
            return _full(q, k, v, q.shape[-1] ** -0.5 if scale is None else scale)
        return plain(q, k, v, bias=bias, mask=mask, implementation="xla")
    assert bias is None and mask is None, "flash kernels here are for full attention"
    flash = functools.partial(_on_each_device, functools.partial(plain, implementation="cudnn"))
    if kind == "cudnn":
        return flash(q, k, v)
    if kind == "native":
        whole = functools.partial(plain, implementation="xla")
        suits = q.dtype.itemsize == 2 and q.shape[-1] <= 128 and not q.shape[-1] % 8 and not k.shape[2] % rules.parts("hidden")
        return jax.lax.platform_dependent(q, k, v, cuda=flash, default=whole) if suits and _cudnn() else whole(q, k, v)
    assert not causal, "the splash kernel here is for full attention"
    return _on_each_device(functools.partial(_splash, scale=scale, interpret=kind == "splash_interpret"), q, k, v)


def _full(q, k, v, scale: float) -> jax.Array:
    """Attention of all to all, logits and softmax in float32. With heads in front, XLA's products on a CPU take two thirds of
    the time, forward and backward, of what jax.nn.dot_product_attention becomes there."""
    q, k, v = (a.transpose(0, 2, 1, 3) for a in (q, k, v))
    logits = scale * jnp.einsum("nhqd,nhkd->nhqk", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("nhqk,nhkd->nhqd", weights, v).transpose(0, 2, 1, 3)


def _cudnn() -> bool:
    """Whether cuDNN's kernel can be traced here; JAX looks for the library when it does."""
    x = jax.ShapeDtypeStruct((1, 64, 1, 64), jnp.bfloat16)
    try:
        jax.eval_shape(functools.partial(jax.nn.dot_product_attention, implementation="cudnn"), x, x, x)
    except RuntimeError:
        return False
    return True


def _on_each_device(kernel, q, k, v) -> jax.Array:
    """Runs a kernel on each device's own samples and heads.

    Said explicitly because the partitioner cannot look into a kernel: under a vmap over views it gathers every device's samples
    onto all of them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return kernel(q, k, v)
    spec = rules.spec(("batch", None, "hidden", None))
    return jax.shard_map(kernel, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)(q, k, v)


def _splash(q, k, v, scale, interpret: bool) -> jax.Array:
    """The Pallas kernel; keys that pad the sequence belong to another segment."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    length, pad = q.shape[1], -q.shape[1] % _LANES
    real = jnp.arange(length + pad) < length if pad else None
    segments = None
    if pad:
        from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as sk

        q, k, v = (jnp.pad(a, ((0, 0), (0, pad), (0, 0), (0, 0))) for a in (q, k, v))
        segments = sk.SegmentIds(real.astype(jnp.int32), real.astype(jnp.int32))
    kernel = _kernel(q.shape[2], q.shape[1], interpret)
    one = lambda q, k, v: kernel(q * jnp.asarray(scale, q.dtype), k, v, segments)
    heads_first = lambda a: a.transpose(0, 2, 1, 3)
    out = jax.vmap(one)(heads_first(q), heads_first(k), heads_first(v))
    return heads_first(out)[:, :length]


@functools.lru_cache
def _blocks(length: int) -> int:
    return next(b for b in (512, 384, 256, 128) if length % b == 0)


def _kernel(heads: int, length: int, interpret: bool):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as sk
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as sm

    b = _blocks(length)
    sizes = sk.BlockSizes(
        block_q=b,
        block_kv=b,
        block_kv_compute=b,
        block_q_dkv=b,
        block_kv_dkv=b,
        block_kv_dkv_compute=b,
        block_q_dq=b,
        block_kv_dq=b,
    )
    mask = sm.MultiHeadMask([sm.FullMask((length, length)) for _ in range(heads)])
    return sk.make_splash_mha(mask, head_shards=1, q_seq_shards=1, block_sizes=sizes, interpret=interpret)
