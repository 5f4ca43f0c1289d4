"""Weights from and to diffusers folders, original single files and the layouts of LoRA; weights of judges.

python -m mvgrpo_jax.convert import|export|lora|judge|verify ...

  import --src DIR_OR_FILE --dst DIR      a diffusers folder, or a single file (flux1-dev.safetensors, ae.safetensors,
                                          clip_l.safetensors, t5xxl_fp16.safetensors, a checkpoint of all of them, or a
                                          transformer under diffusers' names), to a diffusers folder: keys checked,
                                          shards, checksums
  export --src DIR --dst DIR              a diffusers folder to --layout diffusers or original (single files),
                                          with --lora FILE --merge its weights added in: computed in float32,
                                          rounded once to --dtype; a warning says how much of the change that loses
  lora   --src FILE --dst FILE            a LoRA to --layout diffusers or kohya
  judge  --kind KIND --src FILE --dst DIR weights of a judge as they are published (a file of torch.save, or a folder) to
                                          safetensors that the judge reads from DIR; --base: the judge's setting
  verify --src DIR                        compares files with their checksums

A LoRA is a file or a folder: diffusers' layout (alpha in the header is read), what PEFT's save_pretrained leaves
(adapter_model.safetensors with adapter_config.json), kohya's, the original's names, or XLabs'. Layers of text
encoders are left out with a warning.

A file of torch.save is read without unpickling: nothing in it is run, and one that asks for more than tensors is refused.

Conversions run file to file, one tensor in memory at a time. An interrupted one goes on with the same command. Files in --dst
that this program did not write are never replaced or deleted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ml_dtypes
import numpy as np

from mvgrpo_jax.console.commands import program
from mvgrpo_jax.convert import folders
from mvgrpo_jax.convert.owned import CHECKSUMS, verify
from mvgrpo_jax.convert.writing import SHARD
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.rewards import converted

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog=program("mvgrpo_jax.convert"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True)

    def command(name: str, dst: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name)
        sub.add_argument("--src", type=Path, required=True)
        if dst:
            sub.add_argument("--dst", type=Path, required=True)
            sub.add_argument("--dtype", choices=sorted(DTYPES), help="of the written weights; default: the source's")
        return sub

    bring = command("import")
    bring.add_argument("--base", type=Path, help="pipeline folder that gives what a single file lacks")
    bring.add_argument("--config", type=Path, help="config.json of a single file's model, when its shapes do not tell")
    out = command("export")
    out.add_argument("--layout", choices=("diffusers", "original"), default="diffusers")
    out.add_argument("--lora", type=Path, help="LoRA file or folder, of any layout above")
    out.add_argument("--merge", action="store_true", help="add the LoRA into the weights")
    for sub in (bring, out):
        sub.add_argument("--shard-size", type=int, default=SHARD, help="bytes of a shard at most")
    adapters = command("lora")
    adapters.add_argument("--layout", choices=("diffusers", "kohya"), required=True)
    adapters.add_argument("--pipeline", type=Path, required=True, help="pipeline folder that the LoRA belongs to")
    judge = command("judge")
    judge.add_argument("--kind", required=True, help=f"of judge: {', '.join(converted.with_weights())}")
    judge.add_argument("--base", default="", help="folder that gives what the weights lack, as the judge's setting `base`")
    judge.add_argument("--shard-size", type=int, default=SHARD, help="bytes of a shard at most")
    command("verify", dst=False)
    return top


@reports_errors
def main(argv: list[str] | None = None) -> None:
    options = parser().parse_args(argv)
    if options.command == "verify":
        parts = [p for p in (options.src, *sorted(options.src.glob("*"))) if (p / CHECKSUMS).exists()]
        wrong = [str(p / name) for p in parts for name in verify(p)]
        if not parts or wrong:
            raise UserError(f"{options.src}: " + (f"damaged: {', '.join(wrong)}" if parts else f"has no {CHECKSUMS}"))
        print(f"{options.src}: {len(parts)} folders as they were written")
        return
    if options.dst.exists() and options.src.exists() and options.dst.samefile(options.src):
        raise UserError(f"--dst {options.dst} is --src itself; choose another place")
    dtype = DTYPES.get(options.dtype)
    if options.command == "lora":
        folders.convert_lora(options.src, options.dst, options.layout, options.pipeline, dtype=dtype or np.float32)
        print(f"written to {options.dst}")
        return
    if options.command == "judge":
        converted.convert(options.kind, options.src, options.dst, options.base, dtype=dtype, limit=options.shard_size)
        print(f"written to {options.dst}")
        return
    if options.command == "import" and options.src.is_file():
        parts = folders.import_file(
            options.src, options.dst, base=options.base, config=options.config, dtype=dtype, limit=options.shard_size
        )
        print(f"{', '.join(parts)} written to {options.dst}")
    elif options.command == "import":
        folders.import_folder(options.src, options.dst, dtype=dtype, limit=options.shard_size)
        print(f"written to {options.dst}")
    else:
        if bool(options.lora) != options.merge:
            raise UserError("--lora FILE and --merge go together: a LoRA beside the weights needs no export")
        written = folders.export(
            options.src, options.dst, options.layout, lora_file=options.lora, dtype=dtype, limit=options.shard_size
        )
        print("written to " + ", ".join(map(str, written)))


if __name__ == "__main__":
    main()
