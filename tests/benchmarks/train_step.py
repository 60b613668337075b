"""One optimizer step of an objective, ours against Hugging Face's classes in PyTorch.

    python tests/benchmarks/train_step.py [--size B --batch 4 --rounds 5] [--scan] [--compile]
    python tests/benchmarks/train_step.py --objective vista --teacher L [...]

Both sides: the same networks, masks of the same count, forward, backward and AdamW, parameters in
float32. On a GPU both compute in bfloat16 and --compile adds torch.compile. The sides take turns
within one process (A B A B ...) and medians count, next to a matrix product as the machine's limit.
Seconds of processor time are printed too: unlike wall time, other programs hardly change them.
Then each side takes two steps in a process of its own, whose largest memory is printed.

  mae    `VideoMAEForPreTraining`
  vista  the same with a second `VideoMAEDecoder`, and `ViTModel` without its norm as the teacher of
         each tubelet's first frame, forward only
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
from flax import nnx

from surgjax import objectives
from surgjax.models.video_vit import SIZES
from surgjax.state import rebuild, split

FEATURE_DECODER_DEPTH = 2
FEATURE_WEIGHT = 0.05


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
    parser.add_argument("--objective", default="mae", choices=("mae", "vista"))
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
    more = {}
    if arguments.objective == "vista":
        more["feature_decoder_depth"] = FEATURE_DECODER_DEPTH
        more["feature_weight"] = FEATURE_WEIGHT
        more["teacher"] = {"size": arguments.teacher}

    def make():
        encoder = dict(size=arguments.size, remat=arguments.remat, unroll=not arguments.scan)
        return objectives.build(
            arguments.objective,
            frames=arguments.frames,
            size=arguments.image,
            encoder=encoder,
            mask_ratio=arguments.mask_ratio,
            decoder_depth=arguments.decoder_depth,
            dtype=dtype,
            rngs=nnx.Rngs(0),
            **more,
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

    def step(params, opt_state, count, batch, teacher):
        guide = None if teacher is None else rebuild(teacher_def, teacher)

        def loss(params):
            rng = jax.random.fold_in(jax.random.key(0), count)
            return rebuild(graphdef, params).loss(batch, rng=rng, teacher=guide)[0]

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, count + 1, value

    compiled = jax.jit(step, donate_argnums=(0, 1, 2))
    batch = jax.device_put({"video": video, "index": np.arange(len(video), dtype=np.uint32)})

    def run():
        *state[:], value = compiled(*state, batch, teacher)
        return float(value)

    return run, abstract.flops_per_clip()


def torch_step(arguments, dtype, video, compiled):
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = (torch_vista if arguments.objective == "vista" else torch_mae)(arguments, device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    )
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (torch.from_numpy(video) / 255 - mean) / std
    pixels = pixels.permute(0, 1, 4, 2, 3).contiguous().to(device)
    places = (arguments.image // 16) ** 2
    order = torch.rand(len(video), places).argsort(dim=1)
    hidden = order < int(arguments.mask_ratio * places)
    hidden = hidden.repeat(1, arguments.frames // 2).to(device)
    forward = torch.compile(model) if compiled else model

    def run():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = forward(pixels, bool_masked_pos=hidden)
        loss = loss if torch.is_tensor(loss) else loss.loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def torch_mae(arguments, device):
    import transformers

    size = SIZES[arguments.size]
    config = transformers.VideoMAEConfig(
        image_size=arguments.image,
        num_frames=arguments.frames,
        hidden_size=size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        decoder_hidden_size=size.decoder_width,
        decoder_num_hidden_layers=arguments.decoder_depth,
        decoder_num_attention_heads=size.decoder_heads,
        decoder_intermediate_size=4 * size.decoder_width,
        layer_norm_eps=1e-6,
        use_mean_pooling=False,
        attn_implementation="sdpa",
    )
    return transformers.VideoMAEForPreTraining(config).to(device).train()


def torch_vista(arguments, device):
    """A module (pixels, mask) -> loss, of the autoencoder with a second decoder and a teacher."""
    import copy

    import torch
    import transformers
    from transformers.models.videomae.modeling_videomae import VideoMAEDecoder

    size = SIZES[arguments.teacher]
    teacher = transformers.ViTModel(
        transformers.ViTConfig(
            image_size=arguments.image,
            hidden_size=size.width,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            intermediate_size=4 * size.width,
            layer_norm_eps=1e-6,
            attn_implementation="sdpa",
        ),
        add_pooling_layer=False,
    )
    teacher.layernorm = torch.nn.Identity()

    class Vista(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.autoencoder = torch_mae(arguments, "cpu")
            config = copy.deepcopy(self.autoencoder.config)
            config.decoder_num_hidden_layers = FEATURE_DECODER_DEPTH
            self.decoder = VideoMAEDecoder(config)
            self.decoder.head = torch.nn.Linear(config.decoder_hidden_size, size.width)
            self.down = torch.nn.Linear(config.hidden_size, config.decoder_hidden_size)
            self.mask_token = torch.nn.Parameter(torch.zeros(1, 1, config.decoder_hidden_size))
            self.teacher = teacher.eval().requires_grad_(False)

        def forward(self, pixels, bool_masked_pos):
            auto, seen = self.autoencoder, []
            keep = auto.videomae.register_forward_hook(lambda _, __, out: seen.append(out))
            pixel_loss = auto(pixels, bool_masked_pos=bool_masked_pos).loss
            keep.remove()
            x = self.down(seen[0].last_hidden_state)
            table = auto.position_embeddings.to(x.device, x.dtype).expand(len(x), -1, -1)
            shape = (len(x), -1, x.shape[-1])
            hidden = self.mask_token + table[bool_masked_pos].reshape(shape)
            x = torch.cat([x + table[~bool_masked_pos].reshape(shape), hidden], dim=1)
            found = self.decoder(x, hidden.shape[1]).logits
            with torch.no_grad():
                frames = pixels[:, ::2].flatten(0, 1)
                taught = self.teacher(frames).last_hidden_state[:, 1:]
                taught = taught.reshape(len(x), -1, taught.shape[-1])[bool_masked_pos]
            feature_loss = torch.nn.functional.smooth_l1_loss(
                found.float(), taught.reshape(found.shape).float()
            )
            return pixel_loss + FEATURE_WEIGHT * feature_loss

    return Vista().to(device)


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
