"""LoRA beside Hugging Face PEFT on the CPU: tokens a second and peak resident memory, one after the other in one run.

    python examples/peft_side_by_side.py --mynah target/release/mynah --hf DIR --text FILE \
        --gguf Q4_0=model-q4_0.gguf --gguf F32=model-f32.gguf [--batch 1 4] [--ctx 256 128] [--rounds 3]

DIR is the model as transformers keeps it, the GGUF files are the same model. Both sides train rank 8 on all linear
layers of the blocks, AdamW, clipping at 1, the same text cut into the same number of tokens, on --threads threads. Every
measurement is a process of its own; rounds go through all of them in turn. PEFT's rate is the median of its steps
without the first two, forward, backward and update, without loading; mynah's is that of its whole loop. Memory is the
peak resident size of the process, with the program and the model's mapped file; PEFT's has the interpreter in it, and
PyTorch: what a device would have to hold.
"""

import argparse, json, os, resource, statistics, subprocess, sys, tempfile, time


def peft(args):
    """One measurement of PEFT, in this process."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(args.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    batch, ctx = args.batch[0], args.ctx[0]
    ids = AutoTokenizer.from_pretrained(args.hf)(open(args.text).read())["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(args.hf, dtype=dtype)
    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    model.train()
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=5e-4)
    times, losses = [], []
    for step in range(args.steps):
        start = time.perf_counter()
        rows = [ids[(step * batch + i) * ctx % (len(ids) - ctx) :][:ctx] for i in range(batch)]
        x = torch.tensor(rows)
        loss = model(input_ids=x, labels=x).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"rate": batch * ctx / statistics.median(times[2:]), "peak": peak, "loss": losses[0]}))


def measure(command):
    out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{out.stderr}")
    return json.loads(out.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mynah", help="the program")
    parser.add_argument("--gguf", action="append", default=[], metavar="NAME=FILE", help="a base for mynah")
    parser.add_argument("--hf", required=True, metavar="DIR", help="the model for PEFT")
    parser.add_argument("--text", required=True, metavar="FILE")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="rows of a step, a shape each")
    parser.add_argument("--ctx", type=int, nargs="+", default=[256, 128], help="tokens of a row, likewise")
    parser.add_argument("--options", action="append", default=None, help="options of a run of mynah, a run each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--through", default="", help="what every process is started with, as in 'taskset -c 0,1'")
    parser.add_argument("--dtype", choices=["f32", "bf16"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.dtype:
        return peft(args)

    options = args.options or ["", "--recompute none", "--fast", "--fast --recompute none"]
    found = {}
    for _ in range(args.rounds):
        for batch, ctx in zip(args.batch, args.ctx):
            shape = ["--batch", str(batch), "--ctx", str(ctx), "--steps", str(args.steps), "--threads", str(args.threads)]
            for dtype in ["f32", "bf16"]:
                same = ["--hf", args.hf, "--text", args.text, "--dtype", dtype]
                got = measure([*args.through.split(), sys.executable, __file__, *same, *shape])
                found.setdefault((batch, ctx, f"PEFT {dtype}"), []).append(got)
            for name, file in (each.split("=", 1) for each in args.gguf):
                for more in options:
                    with tempfile.TemporaryDirectory() as folder:
                        out = os.path.join(folder, "out")
                        run = [args.mynah, "train", "-m", file, "-d", args.text, "-o", out, "--rank", "8", "--json"]
                        got = measure([*args.through.split(), *run, *shape, *more.split()])
                    got = {"rate": got["tokens_per_second"], "peak": got["peak_rss_bytes"], "loss": got["loss_first"]}
                    found.setdefault((batch, ctx, f"mynah {name} {more}".strip()), []).append(got)
            print(f"{batch} x {ctx}: done", file=sys.stderr)

    print("| rows × tokens | run | tokens/s | least–most | / PEFT f32 | / PEFT bf16 | peak MB | of PEFT f32 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    middle = lambda runs, key: statistics.median(run[key] for run in runs)
    for (batch, ctx, name), runs in found.items():
        f32, bf16 = (found[batch, ctx, f"PEFT {dtype}"] for dtype in ["f32", "bf16"])
        rate, peak = middle(runs, "rate"), middle(runs, "peak")
        rates = [run["rate"] for run in runs]
        cells = [
            f"{batch} × {ctx}", name, f"{rate:.0f}", f"{min(rates):.0f}–{max(rates):.0f}",
            f"{rate / middle(f32, 'rate'):.2f}", f"{rate / middle(bf16, 'rate'):.2f}",
            f"{peak / 1e6:.0f}", f"1/{middle(f32, 'peak') / peak:.1f}",
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
