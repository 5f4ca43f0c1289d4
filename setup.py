from setuptools import find_packages, setup

PLAN = ["libtpu==0.0.52", "jax-cuda13-plugin==0.10.2", "jax-cuda13-pjrt==0.10.2"]

setup(
    name="mvgrpo_jax",
    version="0.1.0",
    description="Multi-View GRPO and its family for flow models, in JAX",
    packages=find_packages(include=["mvgrpo_jax", "mvgrpo_jax.*"]),
    package_data={"mvgrpo_jax": ["nano/assets/**/*"]},
    python_requires=">=3.11,<3.13",
    install_requires=[line for line in open("requirements.txt").read().splitlines() if line and line[0] not in "#-"],
    extras_require={
        "tpu": ["libtpu==0.0.52"],
        "cuda": ["jax[cuda13]==0.10.2"],
        "plan": PLAN,  # compilers for TPU and CUDA, without the libraries that running there needs
        "test": [
            "torch==2.13.0",
            "pytest==9.2.0",
            "pytest-xdist==3.8.0",
            "hypothesis==6.170.17",
            "ruff==0.17.6",
            "peft==0.21.2",
            "accelerate==1.15.0",
            "trustme==1.2.1",
            "pyyaml==6.0.3",
            # What `transformers serve` needs, and the reader of the small language model that the tests ask through it.
            "fastapi==0.165.0",
            "uvicorn==0.54.0",
            "rich==15.0.0",
            "gguf==0.19.0",
            *PLAN,
        ],
    },
)
