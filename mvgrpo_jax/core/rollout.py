"""Drawing the samples: a rollout graph's segments as compiled loops over one body."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.core import solvers
from mvgrpo_jax.core.graph import RolloutGraph
from mvgrpo_jax.core.sde import Kernel
from mvgrpo_jax.core.structs import Steps, Trajectory, Transitions

# velocity(x [P, n, L, C], s, broadcast against [P, n]) -> [P, n, L, C] float32, under each prompt's own condition
Velocity = Callable[[jax.Array, jax.Array], jax.Array]
# noise(i, shape): standard normal numbers of grid step i
Noise = Callable[[jax.Array, tuple[int, ...]], jax.Array]


class Grid(NamedTuple):
    """sigmas [N + 1] and the noise coefficient g [N] of each step; float32."""

    sigmas: jax.Array
    g: jax.Array


def grid_of(graph: RolloutGraph, sigmas: np.ndarray, g: np.ndarray, shift: int | jax.Array = 0) -> Grid:
    """The steps of a graph displaced by `shift`: no noise outside its noisy steps."""
    is_noisy = jnp.zeros(graph.steps, bool).at[np.asarray(graph.noisy, int) + shift].set(True)
    return Grid(jnp.asarray(sigmas, jnp.float32), jnp.where(is_noisy, jnp.asarray(g, jnp.float32), 0.0))


def normals(key: jax.Array) -> Noise:
    return lambda i, shape: jax.random.normal(jax.random.fold_in(key, i), shape)


def sample(velocity: Velocity, x: jax.Array, sigmas: np.ndarray, solver: str = "euler") -> jax.Array:
    """The ODE from noise [P, n, L, C] to the final latents, of the same shape."""
    return solvers.solve(velocity, solvers.solver(solver), x, sigmas, len(sigmas) - 1)


def walk(velocity: Velocity, kernel: Kernel, grid: Grid, x, start, count, keep: np.ndarray, offset, noise: Noise | None):
    """`count` steps from grid index `start` of all lanes of x [P, n, L, C]; both may be traced.

    keep + offset: grid indices that are recorded. noise: None for the ODE. Returns the last state, (x_t, v) of the last
    step, and what was recorded: (x_t, v, x_next), each [P, len(keep), n, L, C].
    """

    def body(j, carry):
        x, _, record = carry
        i = start + j
        s, s_next = grid.sigmas[i], grid.sigmas[i + 1]
        v = velocity(x, s)
        if noise is None:
            x_next = x + v * (s_next - s)
        else:
            mean, std = kernel.moments(x, v, s, s_next, grid.g[i])
            x_next = mean + std * noise(i, x.shape)
        if len(keep):  # what is not kept is written to one row more
            hit = keep + offset == i
            row = jnp.where(hit.any(), hit.argmax(), len(keep))
            put = lambda rows, a: jax.lax.dynamic_update_index_in_dim(rows, a, row, 1)
            record = jax.tree.map(put, record, (x, v, x_next))
        return x_next, (x, v), record

    rows = jnp.zeros((x.shape[0], len(keep) + 1, *x.shape[1:]), x.dtype) if len(keep) else None
    x, last, record = jax.lax.fori_loop(0, count, body, (x, (x, x), (rows, rows, rows)))
    return x, last, jax.tree.map(lambda a: a[:, :-1], record)


def rollout(
    velocity: Velocity,
    graph: RolloutGraph,
    kernel: Kernel,
    sigmas: np.ndarray,
    g: np.ndarray,
    start: jax.Array,
    noise: Noise,
    shift: int | jax.Array = 0,
) -> tuple[Trajectory, jax.Array]:
    """Runs a graph.

    start: [P, graph.noises, L, C] float32, standard normal. Returns the trajectory and the anchors' final latents
    [P, graph.noises, L, C] (of a graph without an anchor: the first sample's).
    """
    if graph.anchor:
        trajectory, end = anchor(velocity, graph, kernel, sigmas, g, start, noise, shift)
        return trajectory._replace(x0=finish(velocity, graph, sigmas, trajectory.x0)), end
    grid = grid_of(graph, sigmas, g, shift)
    moved = shift if graph.moving else 0
    lanes, recorded = start, []
    for segment in graph.segments:
        keep = segment.recorded(graph.trained)
        source = noise if set(segment.walked) & set(graph.noisy) else None
        steps = (segment.first(moved), segment.count(moved))
        lanes, (x_t, v), record = walk(velocity, kernel, grid, lanes, *steps, keep, moved, source)
        if len(keep):
            recorded.append(record)
        if segment.fan > 1:
            lanes = _draw(kernel, grid, x_t, v, segment.last(moved), segment.fan, graph.fan_scale, noise)
            recorded.append((x_t[:, None], v[:, None], lanes[:, None]))
    x0 = _tail(velocity, graph, grid, lanes, moved)
    final = x0.reshape(x0.shape[0], 1, graph.group, *x0.shape[2:])
    return Trajectory(_gather(graph, kernel, grid, recorded, moved), final), x0[:, :1]


def anchor(velocity, graph, kernel, sigmas, g, start, noise, shift=0) -> tuple[Trajectory, jax.Array]:
    """The first half of a graph with an anchor: the trajectory of `rollout` whose x0 are still the draws (x_next) [P, B, G, L,
    C], each to be finished from its step on, and the anchors' final latents."""
    del shift
    grid = grid_of(graph, sigmas, g)
    trained = np.asarray(graph.trained, int)
    end, _, (x_t, v, _) = walk(velocity, kernel, grid, start, 0, graph.steps, trained, 0, None)
    each = graph.group // graph.noises
    drawn = [_draw(kernel, grid, x_t[:, b], v[:, b], k, each, 1.0, noise) for b, k in enumerate(graph.trained)]
    x_next = jnp.stack(drawn, axis=1)
    return Trajectory(_transitions(graph, kernel, grid, x_t, v, x_next, trained[:, None]), x_next), end


def finish(
    velocity: Velocity, graph: RolloutGraph, sigmas: np.ndarray, draws: jax.Array, branches: tuple[int, ...] | None = None
):
    """Final latents [P, R, S, L, C] of draws [P, R, G, L, C] of some branches (all of them by default), by ODE."""
    branches = tuple(range(graph.branches)) if branches is None else branches
    order, stages = graph.staircase(branches)
    lanes, joined = draws[:, 0, :0], 0

    def entering(groups):
        return [draws[:, branches.index(b)] for b, _ in groups]

    for stage in stages:
        lanes = jnp.concatenate([lanes, *entering(order[joined : joined + stage.joining])], axis=1)
        joined += stage.joining
        s = jnp.asarray(np.repeat(sigmas[stage.points], graph.group, axis=1), jnp.float32)  # [steps + 1, lanes]

        def body(i, x, s=s):
            return x + velocity(x, s[i]) * (s[i + 1] - s[i])[:, None, None]

        lanes = jax.lax.fori_loop(0, len(stage.points) - 1, body, lanes)
    lanes = jnp.concatenate([lanes, *entering(order[joined:])], axis=1)  # draws of the last step are final
    lanes = lanes.reshape(lanes.shape[0], len(order), graph.group, *lanes.shape[2:])
    back = [order.index((b, i)) for b in branches for i in range(len(graph.strides))]
    return lanes[:, np.asarray(back)].reshape(lanes.shape[0], len(branches), graph.pictures, *lanes.shape[3:])


def _draw(kernel, grid, x_t, v, i, each: int, scale: float, noise: Noise) -> jax.Array:
    """`each` successors of every state [P, n, L, C] at grid step i: [P, n * each, L, C]."""
    mean, std = kernel.moments(x_t, v, grid.sigmas[i], grid.sigmas[i + 1], grid.g[i])
    mean = jnp.repeat(mean, each, axis=1)
    return mean + scale * std * noise(i, mean.shape)


def _tail(velocity, graph: RolloutGraph, grid: Grid, x: jax.Array, moved) -> jax.Array:
    """The ODE from the end of the segments to the picture, on a coarser grid where the graph says so."""
    if graph.end >= graph.steps:
        return x
    first = graph.end + moved
    left = graph.steps - first
    if graph.tail == 1.0:
        count = left
        indices = jnp.minimum(first + jnp.arange(graph.steps + 1), graph.steps)
        points = grid.sigmas[indices]
    else:
        steps_of = jnp.asarray([max(int(n * graph.tail + 1e-9), 1) for n in range(graph.steps + 1)])
        count = graph.tail_steps(moved) if isinstance(moved, int) else steps_of[left]
        indices = jnp.minimum(first + jnp.arange(graph.steps + 1) * (left / count), graph.steps)
        points = jnp.interp(indices, jnp.arange(graph.steps + 1), grid.sigmas)
    return solvers.solve(velocity, solvers.solver(graph.solver), x, points, count)


def _gather(graph: RolloutGraph, kernel: Kernel, grid: Grid, recorded: list, moved) -> Transitions | None:
    """Blocks [P, B, M] of what the segments recorded, with M states and G draws each.

    Where all steps have the graph's M states they are stacked. A tree's edges, fewer at its root, are laid end to end with
    their own states and cut into blocks of G; the last block is filled up with the last edge.
    """
    if not recorded:
        return None
    trained = np.asarray(graph.trained, int)
    if all(x_t.shape[2] == graph.states and x_next.shape[2] == graph.group for x_t, _, x_next in recorded):
        x_t, v, x_next = (jnp.concatenate(parts, axis=1) for parts in zip(*recorded))
        return _transitions(graph, kernel, grid, x_t, v, x_next, trained[:, None], moved)
    edges: tuple[list, list, list] = ([], [], [])
    for x_t, v, x_next in recorded:
        each = x_next.shape[2] // x_t.shape[2]
        for part, a in zip(edges, (jnp.repeat(x_t, each, 2), jnp.repeat(v, each, 2), x_next)):
            part.append(a.reshape(a.shape[0], -1, *a.shape[3:]))
    index = in_blocks(graph, np.repeat(trained, graph.draws))

    def cut(parts):
        flat = jnp.concatenate(parts, axis=1)
        filled = jnp.concatenate([flat, jnp.repeat(flat[:, -1:], index.size - flat.shape[1], axis=1)], axis=1)
        return filled.reshape(flat.shape[0], *index.shape, *flat.shape[2:])

    return _transitions(graph, kernel, grid, *map(cut, edges), index, moved)


def in_blocks(graph: RolloutGraph, edges):
    """A value for each edge [..., E] -> [..., B, G], the last one repeated to fill; of numpy's or JAX's kind."""
    xp = np if isinstance(edges, np.ndarray) else jnp
    missing = graph.blocks * graph.group - edges.shape[-1]
    filled = xp.concatenate([edges, xp.repeat(edges[..., -1:], missing, axis=-1)], axis=-1)
    return filled.reshape(*edges.shape[:-1], graph.blocks, graph.group)


def _transitions(graph: RolloutGraph, kernel: Kernel, grid: Grid, x_t, v, x_next, index: np.ndarray, moved=0) -> Transitions:
    """Transitions with their densities. index: grid step of each state, broadcast against [B, M]."""
    prompts, blocks, states = x_t.shape[:3]
    fans = [s.stop - 1 for s in graph.segments if s.fan > 1]
    wide = np.where(np.isin(index, fans), graph.fan_scale if graph.fan_density else 1.0, 1.0)
    i = jnp.asarray(index) + moved
    parts = (grid.sigmas[i], grid.sigmas[i + 1], grid.g[i], jnp.asarray(wide, jnp.float32))
    steps = Steps(*(jnp.broadcast_to(a, (prompts, blocks, states)) for a in parts))
    mean, std = kernel.moments(x_t, v, *(a[..., None, None] for a in steps[:3]))
    return Transitions(x_t, x_next, log_density(kernel, x_next, mean, std[..., 0, 0] * steps.stretch), steps)


def log_density(kernel: Kernel, x_next: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """[..., G] of x_next [..., G, L, C] under mean [..., M, L, C] and std [..., M]; draw i left state i // (G / M)."""
    states, draws = mean.shape[-3], x_next.shape[-3]
    apart = x_next.reshape(*x_next.shape[:-3], states, draws // states, *x_next.shape[-2:])
    log_prob = kernel.log_prob(apart, mean[..., None, :, :], std[..., None, None, None])
    return log_prob.reshape(*log_prob.shape[:-2], draws)
