"""One optimizer step of an objective, ours against Hugging Face's classes in PyTorch.

    python tests/benchmarks/train_step.py [--size B --batch 4 --rounds 5] [--scan] [--compile]
    python tests/benchmarks/train_step.py --objective vista|classify|jepa|clip [--teacher L] [...]

Both sides: the same networks, masks of the same count, forward, backward and AdamW, parameters in
float32. On a GPU both compute in bfloat16 and --compile adds torch.compile. The sides take turns
within one process (A B A B ...) and medians count, next to a matrix product as the machine's limit.
Seconds of processor time are printed too: unlike wall time, other programs hardly change them.
Then each side takes two steps in a process of its own, whose largest memory is printed. What the
other side is made of stands in peers.py.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peers
from flax import nnx

from surgjax import objectives
from surgjax.models.video_vit import SIZES
from surgjax.state import lerp, rebuild, split


def main() -> None:
    arguments = parse()
    on_gpu = jax.default_backend() == "gpu"
    dtype = arguments.dtype or ("bfloat16" if on_gpu else "float32")
    video = np.random.default_rng(0).integers(
        0,
        256,
        (arguments.batch, arguments.frames, arguments.image, arguments.image, 3),
        dtype=np.uint8,
    )
    if arguments.memory_of:
        print(peak_gigabytes(arguments, dtype, video))
        return
    ours, flops = our_step(arguments, dtype, video)
    sides = {"matmul": matmul(dtype, 8192 if on_gpu else 2048), "surgjax": ours}
    if not arguments.alone:
        sides["torch"] = torch_step(arguments, dtype, video, compiled=False)
        if arguments.compile:
            sides["torch.compile"] = torch_step(arguments, dtype, video, compiled=True)
    work = {name: flops * arguments.batch for name in sides}
    work["matmul"] = 2 * (8192 if on_gpu else 2048) ** 3
    times = take_turns(sides, arguments.rounds)
    names = [name for name in sides if name != "matmul"]
    sides.clear(), jax.clear_caches()
    memory = {name: memory_of(name) for name in names}
    report(arguments, dtype, times, work, memory)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objective", default="mae", choices=list(peers.PEERS))
    parser.add_argument("--size", default="B", choices=list(SIZES))
    parser.add_argument("--teacher", default="L", choices=list(SIZES), help="size, for vista")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--mask-ratio", type=float, default=0.85)
    parser.add_argument("--decoder-depth", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"])
    parser.add_argument("--remat", default="none")
    parser.add_argument("--scan", action="store_true", help="blocks in a loop, not in a row")
    parser.add_argument("--compile", action="store_true", help="also torch.compile")
    parser.add_argument("--alone", action="store_true", help="without PyTorch")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # a process that measures one side
    return parser.parse_args()


def our_step(arguments, dtype, video):
    """A function that takes one step, and the useful operations of a clip."""
    encoder = dict(size=arguments.size, remat=arguments.remat, unroll=not arguments.scan)
    given, encoder_of = peers.OURS[arguments.objective](arguments)

    def make():
        return objectives.build(
            arguments.objective,
            frames=arguments.frames,
            size=arguments.image,
            encoder=encoder | encoder_of,
            dtype=dtype,
            rngs=nnx.Rngs(0),
            **given,
        )

    abstract = nnx.eval_shape(make)
    graphdef, _ = split(abstract)
    optimizer = optax.adamw(1.5e-4, b1=0.9, b2=0.95, weight_decay=0.05)
    params = jax.jit(lambda: split(make())[1])()
    state = [params, jax.jit(optimizer.init)(params), jnp.zeros((), jnp.int32)]
    teacher_def, teacher = None, None
    if abstract.make_teacher is not None:
        drawn = lambda: abstract.make_teacher(nnx.Rngs(1))  # noqa: E731
        teacher_def = split(nnx.eval_shape(drawn))[0]
        teacher = jax.jit(lambda: split(drawn())[1])()
    averaged = abstract.ema_of
    if averaged is not None:
        teacher_def = split(getattr(abstract, averaged))[0]
        teacher = jax.tree.map(jnp.copy, params[averaged])

    def step(params, opt_state, count, teacher, batch):
        guide = None if teacher is None else rebuild(teacher_def, teacher)

        def loss(params):
            rng = jax.random.fold_in(jax.random.key(0), count)
            return rebuild(graphdef, params).loss(batch, rng=rng, teacher=guide)[0]

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        if averaged is not None:
            teacher = lerp(teacher, params[averaged], peers.MOMENTUM)
        return params, opt_state, count + 1, teacher, value

    compiled = jax.jit(step, donate_argnums=(0, 1, 2) + (3,) * (averaged is not None))
    state.append(teacher)
    rows = {"video": video, "index": np.arange(len(video), dtype=np.uint32)}
    batch = jax.device_put(rows | peers.extras(arguments, abstract))

    def run():
        *state[:], value = compiled(*state, batch)
        return float(value)

    return run, abstract.flops_per_clip()


def torch_step(arguments, dtype, video, compiled):
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = peers.PEERS[arguments.objective](arguments).to(device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    )
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (torch.from_numpy(video) / 255 - mean) / std
    pixels = pixels.permute(0, 1, 4, 2, 3).contiguous().to(device)
    forward = torch.compile(model) if compiled else model

    def run():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = forward(pixels)
        loss.backward()
        optimizer.step()
        if hasattr(model, "average"):
            model.average()
        return loss.item()

    return run


def memory_of(side: str) -> float:
    """Largest memory of a fresh process that takes two steps of one side, in GB."""
    command = [sys.executable, *sys.argv, f"--memory-of={side}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def peak_gigabytes(arguments, dtype, video) -> float:
    """Of the device where it is an accelerator, else of the process, programs included."""
    side = arguments.memory_of
    if side == "surgjax":
        run, _ = our_step(arguments, dtype, video)
    else:
        run = torch_step(arguments, dtype, video, compiled=side == "torch.compile")
    run(), run()
    if jax.default_backend() == "cpu":
        # getrusage would count the process that started this one.
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 2**20
    if side == "surgjax":
        return jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 2**30
    import torch

    return torch.cuda.max_memory_allocated() / 2**30


def matmul(dtype, size):
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    return lambda: product(a).block_until_ready()


def take_turns(sides, rounds):
    """Wall and processor seconds of every side, one round after the other."""
    for run in sides.values():
        run(), run()  # compilation, then one step with warm caches
    times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            repeats = 5 if name == "matmul" else 1
            wall, processor = time.perf_counter(), time.process_time()
            for _ in range(repeats):
                run()
            taken = time.perf_counter() - wall, time.process_time() - processor
            times[name].append([seconds / repeats for seconds in taken])
    return times


def report(arguments, dtype, times, work, memory):
    rows = {}
    for name, taken in times.items():
        wall, processor = ([pair[i] for pair in taken] for i in (0, 1))
        rows[name] = {
            "median_s": statistics.median(wall),
            "min_s": min(wall),
            "processor_s": statistics.median(processor),
            "gflop_per_s": work[name] / statistics.median(wall) / 1e9,
            "peak_gb": memory.get(name),
        }
    columns = (("median s", 9), ("min s", 9), ("processor s", 12), ("GFLOP/s", 9), ("peak GB", 9))
    print(" ".join([f"{'':14}", *(f"{name:>{width}}" for name, width in columns), f"{'ours':>9}"]))
    for name, row in rows.items():
        ratio = ""
        if name != "matmul":
            # Neighbouring runs share the machine's load, so the ratio is taken round by round.
            pairs = zip(times[name], times["surgjax"], strict=True)
            row["ours_against_it"] = statistics.median(
                theirs[0] / ours[0] for theirs, ours in pairs
            )
            row["ours_against_it_processor"] = row["processor_s"] / rows["surgjax"]["processor_s"]
            ratio = f"{row['ours_against_it']:.2f}x"
        peak = f"{row['peak_gb']:.2f}" if row["peak_gb"] else ""
        print(
            f"{name:14} {row['median_s']:9.3f} {row['min_s']:9.3f} {row['processor_s']:12.3f} "
            f"{row['gflop_per_s']:9.1f} {peak:>9} {ratio:>9}"
        )
    setting = {**vars(arguments), "dtype": dtype, "backend": jax.default_backend()}
    print(json.dumps({"setting": setting, "jax": jax.__version__, "results": rows}))


if __name__ == "__main__":
    main()
