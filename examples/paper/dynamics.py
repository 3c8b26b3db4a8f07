"""11. Dynamics: a DEQ and its match learn one step of a flow, and are rolled out.

    python examples/paper/dynamics.py --output DIR [--quick]

A pendulum (steps of 0.1), Lorenz-63 (0.02) and a chain of eight Kuramoto oscillators (0.1): the
increment of the state from 2,000 random pairs, angles as sine and cosine; tanh, recurrent_var =
0.2, width 64, one seed. dynamics.csv: "one_step", the root-mean-square error of the increment,
relative, on other states; "steps_valid", for how many of 200 steps a roll-out from 20 other states
stays within 0.3 of the state's standard deviation; "energy_drift", for the pendulum, the mean
change of the energy in 200 steps; and steps per second of the roll-out of 20 states. The script can
be stopped and run again.
"""

from functools import cache
from itertools import product

import numpy as np
from _common import Clock, arguments, new_figure, resume

from sk_deq import DEQKernelRidge, DEQRegressor, EquivalentExplicitRegressor

MODELS = ("DEQ", "matched", "matched, DEQ's rate", "distilled", "kernel ridge")
RATES = np.linspace(-0.5, 0.5, 8)


def pendulum(x):
    return np.stack([x[:, 1], -np.sin(x[:, 0])], 1)


def lorenz(x):
    a, b, c = x.T
    return np.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], 1)


def kuramoto(x):
    along = np.sin(np.diff(x, axis=1))
    pull = np.zeros_like(x)
    pull[:, :-1] += along
    pull[:, 1:] -= along
    return RATES + pull


def angles(x):
    return np.hstack([np.cos(x), np.sin(x)])


SYSTEMS = {  # flow, step, inputs of the network, random states
    "pendulum": (
        pendulum,
        0.1,
        lambda x: np.hstack([angles(x[:, :1]), x[:, 1:]]),
        lambda rng, n: rng.uniform((-2.5, -1.5), (2.5, 1.5), (n, 2)),
    ),
    "Lorenz-63": (
        lorenz,
        0.02,
        lambda x: (x - (0, 0, 23.5)) / (7.9, 9.0, 8.6),
        lambda rng, n: path("Lorenz-63", rng.normal((0, 0, 24), 3, (n, 3)), 200)[-1],
    ),
    "Kuramoto": (kuramoto, 0.1, angles, lambda rng, n: rng.uniform(-np.pi, np.pi, (n, 8))),
}


def step(system, x, parts=4):
    """One step of the flow, by Runge and Kutta's method in parts."""
    flow, h = SYSTEMS[system][0], SYSTEMS[system][1] / parts
    for _ in range(parts):
        k1 = flow(x)
        k2 = flow(x + h / 2 * k1)
        k3 = flow(x + h / 2 * k2)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + flow(x + h * k3))
    return x


def path(system, x, n_steps):
    """The states along the flow, (n_steps + 1, n, d)."""
    states = [x]
    for _ in range(n_steps):
        states.append(step(system, states[-1]))
    return np.array(states)


def states(system, rng, n):
    """States as trajectories meet them: random starts, each followed for up to 30 steps."""
    draw = SYSTEMS[system][3]
    found = path(system, draw(rng, n), 30)
    return found[rng.integers(0, 31, n), np.arange(n)]


@cache
def pairs(system, n, seed):
    x = states(system, np.random.default_rng(seed), n)
    return x, step(system, x) - x


@cache
def fitted(system, activation, model, seed, n, width):
    x, change = pairs(system, n, seed)
    X = SYSTEMS[system][2](x)
    if model == "kernel ridge":
        return DEQKernelRidge(1e-6, activation="tanh", hyperparameters=None).fit(X, change)
    spec = {"width": width, "activation": activation, "hyperparameters": None}
    spec |= {"input_scaling": "rms", "weight_decay": 0.1}
    deq = DEQRegressor(**spec, max_epochs=40, random_state=seed)
    if model == "DEQ":
        return deq.fit(X, change)
    deq = fitted(system, activation, "DEQ", seed, n, width)
    teacher = deq if model == "distilled" else None
    network = EquivalentExplicitRegressor.from_deq(deq, teacher=teacher, weight_decay="auto")
    if model.endswith("rate"):  # the defaults of the two kinds of network differ
        network.set_params(lr=0.005, weight_decay=0.1)
    return network.fit(X, change)


def energy(x):
    return x[:, 1] ** 2 / 2 - np.cos(x[:, 0])


def measure(n, width, n_steps, system, model, seed):
    inputs = SYSTEMS[system][2]
    estimator = fitted(system, "tanh", model, seed, n, width)
    x, change = pairs(system, 1000, seed + 1000)
    error = estimator.predict(inputs(x)) - change
    spread = x.std(axis=0)
    row = {"one_step": float(np.sqrt((error**2).sum() / (change**2).sum()))}
    true = path(system, x[:20], n_steps)
    rolled = [true[0]]
    with Clock() as clock:
        for _ in range(n_steps):
            # a state that has run off stays where the network was taught
            now = rolled[-1] + estimator.predict(inputs(rolled[-1]))
            rolled.append(np.clip(now, -1e3, 1e3))
    off = np.sqrt((((np.array(rolled) - true) / spread) ** 2).mean(axis=2)) > 0.3
    valid = np.where(off.any(axis=0), off.argmax(axis=0), n_steps)
    row["steps_valid"] = float(valid.mean())
    drift = np.abs(energy(rolled[-1]) - energy(rolled[0])).mean() if system == "pendulum" else ""
    row["energy_drift"] = float(drift) if system == "pendulum" else ""
    return row | {"steps_per_second": n_steps / clock.seconds}


def draw(rows, systems, path):
    figure, axes = new_figure(2, width=2.8, height=3.4)
    colors = ["#000000", "#e69f00", "#d55e00", "#0072b2", "#009e73"]
    for offset, (model, color) in enumerate(zip(MODELS, colors, strict=True)):
        at = np.arange(len(systems)) + 0.16 * offset
        for axis, key in zip(axes[0], ("one_step", "steps_valid"), strict=True):
            height = [
                sum(r[key] for r in rows if (r["system"], r["model"]) == (system, model))
                for system in systems
            ]
            axis.bar(at, height, 0.15, color=color, label=model)
    for axis, title in zip(
        axes[0], ("error of one step", "steps a roll-out is right"), strict=True
    ):
        axis.set_xticks(np.arange(len(systems)) + 0.3, systems, rotation=20)
        axis.set_title(title)
    axes[0, 0].set_yscale("log")
    axes[0, 1].set_ylim(0, 1.6 * axes[0, 1].get_ylim()[1])  # room for the legend
    axes[0, 1].legend(fontsize="x-small", loc="upper right")
    figure.suptitle(
        "One-step maps: the DEQ ahead of its one-layer match;\nkernel ridge is ahead of both"
    )
    figure.savefig(path, dpi=110)


def main():
    args = arguments(__doc__)
    n, width, n_steps = (300, 32, 20) if args.quick else (2000, 64, 200)
    systems = list(SYSTEMS)[:1] if args.quick else list(SYSTEMS)
    points = [
        {"system": system, "model": model, "seed": seed}
        for system, seed, model in product(systems, [0], MODELS)
    ]
    rows = resume(
        args.output / "dynamics.csv", points, lambda **point: measure(n, width, n_steps, **point)
    )
    draw(rows, list(dict.fromkeys(row["system"] for row in rows)), args.output / "dynamics.png")


if __name__ == "__main__":
    main()
