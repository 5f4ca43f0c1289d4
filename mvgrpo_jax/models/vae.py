"""AutoencoderKL as Flux uses it: 16 latent channels, no quant convolutions, attention in the middle."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from mvgrpo_jax.models.attention import attention
from mvgrpo_jax.models.layers import Conv, GroupNorm, Indexed, Linear
from mvgrpo_jax.models.module import Network

SAME = ((1, 1), (1, 1))


@dataclasses.dataclass(frozen=True)
class VaeConfig:
    """The fields of diffusers' vae/config.json that shape the network, and the latents' scale."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 16
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    mid_block_add_attention: bool = True
    scaling_factor: float = 0.3611
    shift_factor: float = 0.1159

    def __post_init__(self):
        object.__setattr__(self, "block_out_channels", tuple(self.block_out_channels))

    @property
    def downscale(self) -> int:
        """Pixels per latent position, along one side."""
        return 2 ** (len(self.block_out_channels) - 1)


class Resnet(nnx.Module):
    def __init__(self, in_dim: int, out_dim: int, groups: int, rngs: nnx.Rngs):
        self.norm1 = GroupNorm(groups, in_dim)
        self.conv1 = Conv(in_dim, out_dim, 3, padding=SAME, rngs=rngs)
        self.norm2 = GroupNorm(groups, out_dim)
        self.conv2 = Conv(out_dim, out_dim, 3, padding=SAME, rngs=rngs)
        if in_dim != out_dim:
            self.conv_shortcut = Conv(in_dim, out_dim, 1, rngs=rngs)

    def __call__(self, x):
        h = self.conv1(jax.nn.silu(self.norm1(x)))
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class MidAttention(nnx.Module):
    """Self-attention over all positions with one head."""

    def __init__(self, dim: int, groups: int, rngs: nnx.Rngs):
        self.group_norm = GroupNorm(groups, dim)
        self.to_q, self.to_k, self.to_v = (Linear(dim, dim, rngs=rngs) for _ in range(3))
        self.to_out = Indexed({0: Linear(dim, dim, rngs=rngs)})

    def __call__(self, x):
        n, height, width, dim = x.shape
        h = self.group_norm(x).reshape(n, height * width, 1, dim)
        out = attention(self.to_q(h), self.to_k(h), self.to_v(h))
        return x + self.to_out[0](out.reshape(x.shape))


class Middle(nnx.Module):
    def __init__(self, dim: int, config: VaeConfig, rngs: nnx.Rngs):
        groups = config.norm_num_groups
        self.resnets = Indexed({i: Resnet(dim, dim, groups, rngs) for i in range(2)})
        if config.mid_block_add_attention:
            self.attentions = Indexed({0: MidAttention(dim, groups, rngs)})

    def __call__(self, x):
        x = self.resnets[0](x)
        x = self.attentions[0](x) if hasattr(self, "attentions") else x
        return self.resnets[1](x)


class Resampler(nnx.Module):
    def __init__(self, dim: int, stride: int, padding, rngs: nnx.Rngs):
        self.conv = Conv(dim, dim, 3, stride=stride, padding=padding, rngs=rngs)

    def __call__(self, x):
        return self.conv(x)


class Level(nnx.Module):
    """Resnets at one resolution, and the convolution that halves or doubles it (absent at the last level)."""

    def __init__(self, in_dim, out_dim, depth, groups, resample: str | None, rngs: nnx.Rngs):
        self.resnets = Indexed({i: Resnet(in_dim if i == 0 else out_dim, out_dim, groups, rngs) for i in range(depth)})
        self.depth = depth
        if resample == "down":  # torch pads right and below only
            self.downsamplers = Indexed({0: Resampler(out_dim, 2, ((0, 1), (0, 1)), rngs)})
        elif resample == "up":
            self.upsamplers = Indexed({0: Resampler(out_dim, 1, SAME, rngs)})

    def __call__(self, x):
        for i in range(self.depth):
            x = self.resnets[i](x)
        if hasattr(self, "downsamplers"):
            x = self.downsamplers[0](x)
        elif hasattr(self, "upsamplers"):
            x = self.upsamplers[0](jnp.repeat(jnp.repeat(x, 2, 1), 2, 2))
        return x


class Encoder(nnx.Module):
    def __init__(self, config: VaeConfig, rngs: nnx.Rngs):
        dims, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = Conv(config.in_channels, dims[0], 3, padding=SAME, rngs=rngs)
        last = len(dims) - 1
        self.down_blocks = Indexed(
            {
                i: Level(dims[max(i - 1, 0)], dim, config.layers_per_block, groups, "down" if i < last else None, rngs)
                for i, dim in enumerate(dims)
            }
        )
        self.levels = len(dims)
        self.mid_block = Middle(dims[-1], config, rngs)
        self.conv_norm_out = GroupNorm(groups, dims[-1])
        self.conv_out = Conv(dims[-1], 2 * config.latent_channels, 3, padding=SAME, rngs=rngs)

    def __call__(self, x):
        x = self.conv_in(x)
        for i in range(self.levels):
            x = self.down_blocks[i](x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nnx.Module):
    def __init__(self, config: VaeConfig, rngs: nnx.Rngs):
        dims, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = Conv(config.latent_channels, dims[0], 3, padding=SAME, rngs=rngs)
        self.mid_block = Middle(dims[0], config, rngs)
        last = len(dims) - 1
        self.up_blocks = Indexed(
            {
                i: Level(dims[max(i - 1, 0)], dim, config.layers_per_block + 1, groups, "up" if i < last else None, rngs)
                for i, dim in enumerate(dims)
            }
        )
        self.levels = len(dims)
        self.conv_norm_out = GroupNorm(groups, dims[-1])
        self.conv_out = Conv(dims[-1], config.out_channels, 3, padding=SAME, rngs=rngs)

    def __call__(self, z):
        x = self.mid_block(self.conv_in(z))
        for i in range(self.levels):
            x = self.up_blocks[i](x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


class Vae(nnx.Module):
    """Pictures are [N, H, W, 3] in [-1, 1]; latents [N, h, w, latent_channels], unscaled."""

    def __init__(self, config: VaeConfig, rngs: nnx.Rngs):
        self.encoder = Encoder(config, rngs)
        self.decoder = Decoder(config, rngs)

    def moments(self, image) -> tuple[jax.Array, jax.Array]:
        """Mean and log-variance of the posterior; the log-variance is clipped to [-30, 20] as diffusers does."""
        mean, log_var = jnp.split(self.encoder(image), 2, -1)
        return mean, jnp.clip(log_var, -30.0, 20.0)

    def __call__(self, latent):
        return self.decoder(latent)


def vae(config: VaeConfig) -> Network:
    """The network of a vae/config.json."""
    return Network.of(lambda rngs: Vae(config, rngs))


def pack(latent: jax.Array) -> jax.Array:
    """2 x 2 latents become one token: [N, h, w, C] -> [N, h/2 * w/2, 4 C], channels ordered (C, row, column)."""
    n, h, w, c = latent.shape
    x = latent.reshape(n, h // 2, 2, w // 2, 2, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(n, (h // 2) * (w // 2), 4 * c)


def unpack(tokens: jax.Array, height: int, width: int) -> jax.Array:
    """The inverse of `pack`; height and width are in packed tokens."""
    n, _, channels = tokens.shape
    x = tokens.reshape(n, height, width, channels // 4, 2, 2)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(n, 2 * height, 2 * width, channels // 4)
