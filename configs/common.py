"""Every key of a run, with the defaults that all configs share. A config file starts from here and says what differs."""

from ml_collections import ConfigDict

from mvgrpo_jax import algorithms

# Judges as published, by kind: where a run looks for them (docs/judges.md says where they are to be had).
JUDGES = {
    "hpsv3": {"folder": "HPSv3/HPSv3.safetensors", "base": "Qwen2-VL-7B-Instruct"},
    "hpsv2": {"weights": "HPSv2/HPS_v2.1_compressed.pt", "base": "CLIP-ViT-H-14-laion2B-s32B-b79K"},
    "pickscore": {"folder": "PickScore_v1", "base": "CLIP-ViT-H-14-laion2B-s32B-b79K"},
    "imagereward": {"weights": "ImageReward/ImageReward.pt", "base": "bert-base-uncased"},
    "clip": {"folder": "DFN5B-CLIP-ViT-H-14"},
    "unifiedreward": {"endpoints": ("http://localhost:8080/v1",)},
}


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.seed = 0
    c.iterations = 300
    c.prompts_per_iteration = 8
    c.group_size = 12
    c.pipeline = "flux-nano"  # a diffusers FluxPipeline folder, or flux-nano (embedded)

    c.image = ConfigDict({"height": 0, "width": 0})  # pixels; 0: the pipeline's own size
    c.prompts = ConfigDict(
        {
            # A prompt file (docs/prompts.md), or flux-nano, flux-nano-one (embedded). Several: A,B are joined, and of A@3,B@1
            # three prompts of A are drawn to one of B.
            "train": "flux-nano",
            "train_count": 0,  # of each file, from its beginning; 0: all
            "kind": "",  # of the training files: hpdv2, geneval, ...; empty: told by their names and content
            "dedup": True,  # of repeats, also but for case and white space, the first alone
            "min_length": 0,  # characters; 0: no bound
            "max_length": 0,  # characters; 0: no bound
            "blocklist": "",  # a file with a word or phrase a line; prompts that have one are dropped
            "eval": "flux-nano",  # as train, without weights; every prompt is kept
            "eval_count": 64,
        }
    )
    # config.algorithm.NAME holds the settings of each algorithm, with its own defaults: mvgrpo_jax/algorithms/NAME.py.
    c.algorithm = ConfigDict({"name": "mvgrpo"} | algorithms.defaults())
    c.views = ConfigDict(
        {
            "count": -1,  # K captions beside the prompt; -1: the algorithm's own: mvgrpo one a sample of a group, others none
            "enhancer": "embedded",  # none | embedded, vlm (look at the pictures; vlm by a server) | offline (a file)
            "aggregate": "mean",  # over the views: mean | sum | balanced (the prompt against all its captions)
            "prompt_weight": 0.5,  # of the prompt's own view where balanced; its captions share the rest
            "perspectives": (),  # names of those that are drawn from; empty: all
            "instructions": "",  # a file of perspectives, 'name: instruction' a line; empty: the built-in ones
            "file": "",  # captions written by the enhance command: of the offline enhancer, or to replace missing ones
            "missing": "mask",  # a caption that did not come: mask (its view) | offline (one from `file`) | stop
            "overlap": True,  # sample branch by branch where a server writes captions meanwhile
            "patience": 3,  # iterations in a row without any caption that end the run; 0: never
            "language": "en",  # captions in other languages are asked for again; empty: any
            "image": {"format": "jpeg", "quality": 90, "size": 512},  # as it travels: jpeg | png | webp, longer side in pixels
            # The server of the vlm enhancer; seconds. An API key is never written here: key_env names an environment
            # variable, key_file a file that its owner alone may read.
            "service": {
                "endpoints": ("http://localhost:8000/v1",),
                "model": "Qwen/Qwen3-VL-8B-Instruct",
                "key_env": "",
                "key_file": "",
                "verify": True,  # TLS certificates
                "ca_file": "",
                "concurrency": 64,  # requests in flight at each endpoint, of all processes of a run together
                "attempt_s": 60.0,  # for one answer
                "request_s": 120.0,  # for one request with its retries
                "batch_s": 180.0,  # for the captions of a branch, from when its pictures are there
                "retries": 4,
                "backoff_s": 0.5,
                "hedge": 2.0,  # a second attempt after so many times the 95th percentile of latency; 0: never
                "breaker": 5,  # failures in a row that take an endpoint out ...
                "cooldown_s": 10.0,  # ... for so long
                "max_tokens": 200,
                "temperature": 0.8,
                "response_kb": 512,  # larger answers are refused
                "extra": "",  # JSON of further fields of the request, such as '{"chat_template_kwargs": {...}}'
            },
        }
    )
    c.sampling = ConfigDict(
        {
            "steps": 16,
            "shift": 3.0,  # static shift of the schedule; 0: diffusers' dynamic one
            "guidance": 3.5,
            "max_sequence_length": 0,  # T5 tokens; 0: the tokenizer's
            "timestep": "exact",  # sigma as the network sees it: exact | truncated (to thousandths) | bfloat16
        }
    )
    c.text = ConfigDict(
        {
            "memory_mb": 0.0,  # encoded texts kept in host memory; 0: every text is encoded when it is met
            "folder": "",  # and on disk, for runs that meet the same texts
            "disk_gb": 50.0,  # bound of that folder
            "drop_encoders": False,  # encode all texts first, then free the encoders; not with an online enhancer
        }
    )
    # Weight of each judge in training; a judge of weight 0 is reported and does not train.
    c.rewards = ConfigDict({"clip": 1.0, "scene": 0.0})
    c.judges = ConfigDict({"clip": {"folder": "clip-nano", "scale": 1.0}, "scene": {}})
    c.optimizer = ConfigDict(
        {
            "learning_rate": 2e-6,
            "warmup": 0,
            "weight_decay": 1e-4,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "max_grad_norm": 1.0,
        }
    )
    c.train = ConfigDict(
        {
            "dtype": "float32",  # of the network's arithmetic; state, log-probabilities and loss are float32 always
            "param_dtype": "float32",  # of what is trained
            "frozen_dtype": "float32",  # of what is not: text encoders, VAE, the base beneath adapters
            "remat": "none",  # none | dots | full
            "attention": "auto",  # auto | xla | cudnn | splash
            "unroll": 1,  # blocks unrolled in the layer scan
            "view_chunk": 0,  # views evaluated at once in the update; 0: all
            "prompt_chunk": 0,  # prompts at once; 0: all
            "state_chunk": 0,  # states of a trained step at once; 0: all
            # Optimiser steps of an iteration: passes x minibatches x (trained steps, with update_per timestep).
            "passes": 1,  # times that the samples of a rollout are gone through
            "minibatches": 1,  # parts of the prompts, each with an optimiser step
            "update_per": "iteration",  # iteration | timestep (an optimiser step after each trained step)
            # 1: the next rollout is drawn, with the parameters of before this iteration's update, while captions and scores are
            # awaited; ratios compare with the densities of the parameters that drew.
            "async_steps": 0,
            # True: the gradient of a branch is computed as soon as its own captions and scores are there, while those of other
            # branches are awaited; the same update but for rounding. Without captions of its own for each branch: as False.
            "by_branch": False,
        }
    )
    c.lora = ConfigDict(
        {
            "rank": 0,  # of the adapters; 0: the whole transformer is trained
            "alpha": 0.0,  # the adapters' scale is alpha / rank; 0: a scale of 1
            # Layers by name, without block numbers: PATTERN, or PATTERN=RANK; the first match decides, rank 0 leaves out.
            "targets": (
                r"(transformer_blocks|single_transformer_blocks)\.attn\.to_[qkv]",
                r"transformer_blocks\.attn\.(to_out\.0|to_add_out|add_[qkv]_proj)",
                r"transformer_blocks\.(ff|ff_context)\.net\.(0\.proj|2)",
                r"single_transformer_blocks\.(proj_mlp|proj_out)",
            ),
            "start": "",  # a LoRA file or folder to start from: diffusers', PEFT's, kohya's, XLabs'
        }
    )
    c.export = ConfigDict(
        {
            "kind": "",  # pipeline (a diffusers folder) | lora (adapters alone); empty: lora where adapters are trained
            "at_checkpoints": False,  # also at every checkpoint, beside the end
            "dtype": "",  # of the exported weights; empty: as they are trained
        }
    )
    # decay 0: no average; with one, evaluation and export use it. warmup: decay min(decay, (1 + n) / (10 + n)) at step n.
    c.ema = ConfigDict({"decay": 0.0, "every": 1, "warmup": False})
    c.mesh = ConfigDict(
        {
            "auto": True,  # where the three sizes are 1, they are chosen for the hardware
            "data": 1,  # one of the three may be -1: what is left
            "fsdp": 1,
            "tensor": 1,
            "devices": 0,  # so many must be seen, or the run does not start; 0: not checked
        }
    )
    c.checkpoint = ConfigDict({"every": 50, "keep": 3})
    # judge: decides which checkpoint is best. solver: euler | dpm2.
    c.eval = ConfigDict({"every": 50, "steps": 16, "solver": "euler", "judge": "scene"})
    # trackers: any of tensorboard, wandb, swanlab and mlflow. tracker: under which project and name ('': the workdir's) they
    # list the run, and whether wandb and swanlab keep files to be sent later.
    c.log = ConfigDict(
        {
            "images_every": 10,
            "trackers": ("tensorboard",),
            "tracker": {"project": "mvgrpo_jax", "name": "", "offline": False},
        }
    )
    c.profile = ""  # iterations that are traced for XProf, into the workdir's profile/: "START:COUNT"; empty: none
    # Of a job of several processes; seconds. silence_s: one that was not heard for so long is dead, and the job ends.
    # standstill_s: so does a job in which no process finished a stage for so long; 0: never.
    c.watch = ConfigDict({"silence_s": 30.0, "standstill_s": 1800.0})
    return c


def judged_by(c: ConfigDict, **weights: float) -> None:
    """Judges of JUDGES, by kind with their weights; the first decides which checkpoint is best."""
    c.rewards = weights
    c.judges = {kind: dict(JUDGES[kind]) for kind in weights}
    c.eval.judge = next(iter(weights))
